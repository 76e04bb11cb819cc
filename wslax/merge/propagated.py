"""RegMean whose later layers see what the merged earlier ones give them, in one pass."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from wslax import tree
from wslax.errors import WeightSpaceError
from wslax.merge.leaves import Leaves, check_base, float_names, kept, merge_leaves
from wslax.numerics.decompose import least_squares
from wslax.trace import jaxpr
from wslax.trace.interpret import VIEWS, Interpreter, Note, Rule, View
from wslax.trace.meeting import MEETINGS, Meeting
from wslax.trace.model import traced
from wslax.typing import Params, Population, Where

_MEMBERS = "members of regmean++"  # a vmapped axis: each member has its weights and its inputs


def _mean(x: Any) -> Any:
    return jax.lax.pmean(x.astype(tree.wide(x)), _MEMBERS).astype(x.dtype)


class _Merging(Interpreter):
    """Runs each member's inputs through merged weights; what is in no product is the mean."""

    def dense(self, value: Any, eqn: Any) -> Any:
        return _mean(value.dense()) if isinstance(value, View) else value


def _once(name: str) -> Callable[[Any, int], Any]:
    def over_steps(stacked: Any, own: int) -> Any:
        raise WeightSpaceError(
            f"{name}: a loop multiplies by it at every step, so it has no one place in the order "
            "of layers; leave it out by `where=`"
        )

    return over_steps


def _solved(meeting: Meeting, alpha: Any, done: Any) -> Any:
    """The leaf merged, as the scans around see it."""
    view, place = meeting.view, meeting.place
    axes = [a - place.loops for a in (*place.batch, *place.consumed, *place.produced)]
    x = meeting.read("inputs", jnp.zeros(()))
    dtype, lead = tree.wide(view.leaf), len(place.batch)
    x = x.astype(dtype).reshape(*x.shape[: lead + 1], -1)
    gram = jnp.einsum("...si,...sj->...ij", x, x, precision="highest")
    diagonal = gram * jnp.eye(gram.shape[-1], dtype=dtype)[(None,) * lead]
    gram = diagonal + jnp.asarray(alpha, dtype) * (gram - diagonal)
    own = jnp.transpose(view.leaf.astype(dtype), axes)
    matrix = own.reshape(*own.shape[:lead], gram.shape[-1], -1)
    # Solved for what differs from the mean, which so stays where no input ever was.
    mean = jax.lax.pmean(matrix, _MEMBERS)
    gap = jax.lax.psum(jnp.matmul(gram, matrix - mean, precision="highest"), _MEMBERS)
    change, _ = least_squares(jax.lax.psum(gram, _MEMBERS), gap, done)
    merged = (mean + change).reshape(own.shape)
    back = [axes.index(a) for a in range(len(axes))]
    return jnp.transpose(merged, back).astype(view.leaf.dtype)


def _rule(meet: Callable[..., Meeting | None], alpha: Any) -> Rule:
    def product(run: Interpreter, eqn: Any, *operands: Any) -> list[Any] | None:
        meeting = meet(eqn, *operands)
        if meeting is None or meeting.place.groups > 1:
            return None
        view = meeting.view
        before = [note for note in run.notes if note.name == view.name]
        if before:
            leaf = before[0].value
        else:
            # One decomposition at a time: each waits for the one before.
            done = run.notes[-1].value.ravel()[0] < jnp.inf if run.notes else True
            leaf = _solved(meeting, alpha, done)
            run.notes.append(Note(view.name, leaf, _once(view.name), view.loops))
        merged = view._replace(leaf=leaf)
        arrays = (merged.dense() if v is view else run.dense(v, eqn) for v in operands)
        return jaxpr.bind(eqn, *arrays)

    return product


@partial(jax.jit, static_argnames=("apply", "structure"))
def _propagated(
    apply: Any, structure: Any, stacks: Leaves, others: Leaves, inputs: Any, alpha: Any
) -> Leaves:
    rules = VIEWS | {name: _rule(meet, alpha) for name, meet in MEETINGS.items()}

    def one(own: Leaves, inputs: Any) -> Leaves:
        run, known = _Merging(rules), others | own
        params = jax.tree.unflatten(structure[0], [known[n] for n in structure[1]])
        model = traced(apply, params, (inputs,))
        views = [
            View(x, n, tuple(range(x.ndim))) if n in own else x for n, x in model.leaves.items()
        ]
        run.run(model.program, [*views, *model.inputs])
        return {note.name: note.value for note in run.notes}

    merged = jax.vmap(one, axis_name=_MEMBERS)(stacks, inputs)
    mean = lambda x: x.mean(0, dtype=tree.wide(x))
    return {n: merged[n][0] if n in merged else mean(x) for n, x in stacks.items()}


def regmean_plus_plus(
    population: Population,
    base: Params | None,
    apply: Callable[[Params, Any], Any],
    inputs: Any,
    *,
    alpha: Any = 0.9,
    where: Where = None,
) -> Params:
    r"""RegMean where each layer is merged on what the layers merged before it pass on.

    \[W_l = \Big(\sum_i \tilde G_{li}\Big)^{-1} \sum_i \tilde G_{li} W_{li}, \qquad
    G_{li} = X_{li}^T X_{li},\]

    \(X_{li}\) what reaches layer l when member i's data runs through \(W_1, \ldots, W_{l-1}\), and
    \(\tilde G\) with its entries off the diagonal multiplied by \(\alpha\). A layer is a product
    with a leaf, in the order in which the model computes them: the whole is one pass of all data.
    (In the authors' code it is a transformer block, inside which the member's own weights pass data
    on.) Leaves that meet no data in a product are averaged before; so are kernels of convolutions
    over groups of features.

    Args:
      population: N members.
      base: only where leaves outside `where` come from, or None.
      apply: `(params, inputs) -> outputs`, traceable. Keep one function object: the compiled
        program belongs to it.
      inputs: each member's data, a tree of arrays `[N, E, ...]`, as much for all.
      alpha: \(\alpha\), 0 to 1; 0.9, the default of `regmean`.
      where: globs of the leaves to merge.

    Returns:
      The merged parameters.

    Raises:
      WeightSpaceError: if the inputs do not have one row a member, or a loop multiplies by the same
        leaf at each step.

    References:
      Nguyen et al. 2025, RegMean++: enhancing effectiveness and generalization of regression mean
      for model merging, arXiv:2508.03121, section 3.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> experts = {"a": jnp.array([[[1.0]], [[3.0]]]), "b": jnp.array([[[1.0]], [[2.0]]])}
        >>> apply = lambda p, x: x @ p["a"] @ p["b"]
        >>> x = jnp.array([[[1.0]], [[2.0]]])
        >>> found = ws.merge.regmean_plus_plus(experts, None, apply, x)
        >>> round(float(found["a"][0, 0]), 3), round(float(found["b"][0, 0]), 3)
        (2.6, 1.8)
    """
    count = check_base(population, base)
    for name, x in tree.named_leaves(inputs).items():
        if x.shape[:1] != (count,):
            raise WeightSpaceError(
                f"inputs: expected one row for each of {count} members, got {tree.aval(x)} {name}"
            )
    mine, bases = float_names(population, where), None if base is None else tree.named_leaves(base)
    named = tree.named_leaves(population)
    others = {n: kept(n, x, bases and bases[n]) for n, x in named.items() if n not in mine}
    structure = (jax.tree.structure(population), tuple(named))

    def merged(stacks: Leaves, _: Leaves | None) -> Leaves:
        with jax.default_matmul_precision("float32"):
            return _propagated(apply, structure, stacks, others, inputs, alpha)

    return merge_leaves(merged, population, base, where)
