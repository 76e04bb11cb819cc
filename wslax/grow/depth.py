"""`deepen`: an edit that gives a stack of blocks more of them, or fewer."""

import functools
from collections.abc import Sequence
from typing import Any

from wslax import edit
from wslax.errors import WeightSpaceError
from wslax.globs import pick
from wslax.grow.identity import last_projections
from wslax.grow.layers import DepthPlan, carry
from wslax.grow.orders import layers
from wslax.grow.regroup import regrouped
from wslax.grow.stacks import Stack, choose
from wslax.symmetry.states.moves import Moves
from wslax.symmetry.types import Groups
from wslax.typing import Params, Where


def _zero(model: Groups | Params, stack: Stack, zero: Where) -> frozenset[str]:
    """The leaves of a block that are zero in its copies."""
    if zero is not None:
        pairs = zip(stack.leaves, pick(stack.leaves, zero), strict=True)
        return frozenset(leaf for leaf, hit in pairs if hit)
    if not isinstance(model, Groups):
        raise WeightSpaceError(
            f"{stack.name}: method 'identity' reads from the groups which leaves put out onto the "
            "residual stream; pass `symmetry.infer(apply, params, *inputs)` for the parameters, or "
            "name the leaves by zero="
        )
    return last_projections(model, stack)


def _names(plan: DepthPlan) -> frozenset[str]:
    return frozenset(plan.stack.groups.shape)


def planned(
    model: Groups | Params,
    depth: int | Sequence[int],
    method: str,
    stack: str | Stack | None,
    zero: Where,
) -> DepthPlan:
    """The blocks that `deepen` makes, after all checks."""
    stack = stack if isinstance(stack, Stack) else choose(model, stack)
    made = layers(stack.depth, depth, method)
    zeroed = _zero(model, stack, zero) if any(layer.zero for layer in made) else frozenset()
    return DepthPlan(stack, made, zeroed)


def deepen(
    model: Groups | Params,
    depth: int | Sequence[int],
    *,
    method: str = "identity",
    stack: str | Stack | None = None,
    zero: Where = None,
) -> edit.Edit:
    r"""Give a stack of blocks another depth: every new block is made from old ones.

    | method | new blocks for a number \(n\) of blocks, from \(L\) | function |
    |---|---|---|
    | `"identity"` | block \(\lfloor iL/n \rfloor\); copies get zero last projections | kept |
    | `"copy"` | block \(\lfloor iL/n \rfloor\): `0 0 1 1 ...` (interpolation) | changes |
    | `"stack"` | block \(i \bmod L\): `0 1 ... 0 1 ...` | changes |
    | `"solar"` | `0 ... L-m-1` and `m ... L-1` with \(n = 2(L - m)\) | changes |
    | `"mean"` | the old ones, with means of neighbours in \(n - L\) gaps, spread evenly | changes |

    Identity blocks are those of LLaMA Pro (arXiv:2401.02415) and LEMON (arXiv:2310.07999): a block
    \(x + f(x)\) whose last projections \(W\), with their biases, are zero is the identity, and
    trains, since \(f\)'s other weights are not. Stacking is StackBERT and G_stack
    (arXiv:2405.15319), `"solar"` depth up-scaling (arXiv:2312.15166). The mean is the plainest
    block between two neighbours; LESA (arXiv:2502.13794) predicts it by a trained network instead.

    Which leaves are zeroed is read from the groups: what every block produces on the stream that it
    also consumes, and the biases added there. A leaf whose part is not clear (a norm on the stream,
    as in post-norm blocks) is refused by name. What has no leaf is not in the groups: a block that
    passes the sum \(x + f(x)\) through a function without parameters, or a projection
    through one that does not keep zero. `grow.check` compares outputs.

    Args:
      model: the groups, from which stacks are read; or a tree of parameters, whose stacks are its
        numbered blocks (then `edit.groups` is None).
      depth: the new number of blocks, or the order: which old block each one copies, as in
        `[0, 1, 1, 2]`; with `"copy"` blocks may be left out (weight subcloning, weight selection).
        Static.
      method: from the table. An order goes with `"identity"` and `"copy"`.
      stack: its name as `blocks` prints it, or the `Stack` itself; default the only one.
      zero: globs of the leaves to zero, for `"identity"`, instead of those read from the groups.

    Returns:
      An `Edit`. `apply(tree)` takes parameters, collections and trees that hold copies of them
      (EMA), of dicts, lists and tuples around the blocks: they are renumbered, those behind them in
      their family too, siblings stay. `optimizer_state(state, policy="exact")` copies moments with
      their blocks (no exact rule exists, as the gradients of copies differ), zero where leaves are
      zeroed. `groups` are the deeper model's: ids count in the order of the old ones, each copy has
      inner groups of its own; None where a group runs from one block to the next without a stream
      (infer again).

    Raises:
      WeightSpaceError: for an unknown method or stack, none or several stacks and none named, a
        depth or order that does not fit, or identity blocks that the groups do not vouch for; from
        `apply`, naming the leaf, if the tree is not the model.

    Example:
        >>> import jax, wslax as ws
        >>> net = ws.nets.transformer(11, 6, width=8, heads=2, depth=2)
        >>> params, tokens = net.init(jax.random.key(0)), jax.numpy.arange(10).reshape(2, 5)
        >>> groups = ws.symmetry.infer(net.apply, params, tokens)
        >>> edit = ws.grow.deepen(groups, 4)
        >>> deep = edit.apply(params)
        >>> sorted(name for name in deep if "block" in name)
        ['block_0', 'block_1', 'block_2', 'block_3']
        >>> bool(abs(net.apply(deep, tokens) - net.apply(params, tokens)).max() < 1e-5)
        True
    """
    plan = planned(model, depth, method, stack, zero)

    def optimizer_state(state: Any, policy: str = "exact") -> Any:
        from wslax.symmetry.states.moving import move_state

        return move_state(state, Moves(_names(plan), functools.partial(carry, plan=plan)), policy)

    return edit.from_map(
        functools.partial(carry, plan=plan, weight=1),
        optimizer_state,
        regrouped(model, plan) if isinstance(model, Groups) else None,
    )
