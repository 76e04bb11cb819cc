"""`widen`: an edit that gives groups more units."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wslax import edit, random
from wslax.errors import WeightSpaceError, did_you_mean
from wslax.grow.method import Method
from wslax.grow.plan import Change, Plan, carry, check_finite
from wslax.grow.registry import METHODS
from wslax.grow.treatment import Treatment, treated
from wslax.symmetry import layout
from wslax.symmetry.find import check_id
from wslax.symmetry.states.moves import Moves
from wslax.symmetry.types import Groups
from wslax.typing import Key, Params


def named(method: str) -> Method:
    """The method of `METHODS` of that name."""
    if method not in METHODS:
        raise WeightSpaceError(f"method {method!r} is unknown.{did_you_mean(method, METHODS)}")
    return METHODS[method]


def _check(groups: Groups, sizes: Mapping[int, int], method: Method) -> None:
    for id, size in sizes.items():
        group = check_id(groups, id)
        if size < group.size:
            raise WeightSpaceError(
                f"group {id}: has {group.size} units, expected at least that, got "
                f"{size!r}; `symmetry.take` keeps fewer"
            )
        method.check(group, size)


def _host(key: Key) -> tuple[Key, Any]:
    """The key as an integer seed with numpy unless it is traced: the same bits, on the host."""
    high, low = random.key_words(key)
    if isinstance(high, jax.core.Tracer):
        return key, jnp
    return int(high) << 32 | int(low), np


def widen(
    groups: Groups,
    sizes: Mapping[int, int],
    *,
    method: str = "net2wider",
    key: Key,
    noise: float = 0.0,
) -> edit.Edit:
    r"""Give groups more units; but for FPI and MSG the model's function stays.

    The first units are the old ones. There is one map a group, so that all leaves along a residual
    stream, biases, norm scales and running statistics agree: new unit \(j\) is a copy of unit
    \(i(j)\), and with shares \(b_j\) that add up to one over the copies of a unit

    \[w'_j = w_{i(j)} \text{ where produced or elementwise}, \qquad
      w'_j = b_j\, w_{i(j)} \text{ where consumed}.\]

    | method | units | shares | under norms |
    |---|---|---|---|
    | `"net2wider"` | each a copy of one drawn at random | equal | multiples |
    | `"hypercloning"` | all copied equally often | equal | multiples |
    | `"lemon"` | in turn | random | any size |
    | `"zero"` | new ones that nothing reads yet | | refused |
    | `"fpi"` | each a copy of one drawn at random | equal | changes the function |
    | `"msg"` | new ones that are read at once | | refused |

    What fits a place is read from the groups. Where queries meet keys both take the root of the
    share, and the change of the model's own root of the width is made good. Where an embedding is
    tied to the head, the scale and bias of the norm before the head take the share. Under norms
    LEMON fills what is left of a size that is no multiple with the mean (LayerNorm) or zero
    (RMSNorm) and multiplies the norms' scales by \(\gamma = \sqrt{k n / n'}\), with \(k\) whole
    copies of \(n\) units among \(n'\); it is exact if the new model's epsilon is \(\gamma^2\)
    times the old one, and nearly so if it is not (`grow.check` says so).

    Copies have equal gradients with equal shares, and stay equal without dropout or `noise`.

    Args:
      groups: the groups of the narrow model.
      sizes: group id to its new number of units; static.
      method: one of `METHODS`, where each says where it is published; default Net2WiderNet.
      key: chooses the copied units and the noise. May be traced: under `jax.vmap` over members and
        keys each member gets a map of its own.
      noise: tells copies apart. `"net2wider"` and `"fpi"` multiply new units' produced weights by
        \(1 + \text{noise} \cdot z\), \(z \sim N(0, 1)\): 0 (default) keeps the function exactly,
        0.01 nearly. `"hypercloning"` adds noise to consumed weights that cancels between copies,
        in units of the leaf's root mean square, and keeps the function. Others take none.

    Returns:
      An `Edit`. `apply(tree)` takes parameters (with statistics), a tree that holds copies of them
      (EMA) or one collection of them; `optimizer_state(state, policy="exact")` an Optax state, by
      one of `POLICIES`: `"exact"`, the moments of the wide model's gradients (incoming \(m / c\)
      and \(v / c^2\) with \(c\) copies, outgoing unchanged; near for LEMON under norms, whose own
      part of the gradient is shared equally where LEMON's shares are not), `"trajectory"`,
      `"zero_pad"` or `"reset"`; `spec` plans on shapes; `groups` are the wide model's. Leaves keep
      their dtype and weak type; half types are scaled in float32.

    Raises:
      WeightSpaceError: for an unknown method, group or state type, a frozen group, fewer units, or
        a group whose reductions or leaves copies would not go through; from `apply`, naming the
        leaf, if the tree is not the groups' model, or (outside of `jit`) weights are not finite.

    Example:
        >>> import jax, wslax as ws
        >>> net = ws.nets.mlp(4, [8, 8], 3)
        >>> params = net.init(jax.random.key(0))
        >>> groups = ws.symmetry.feed_forward(params, ["hidden_0", "hidden_1", "out"])
        >>> edit = ws.grow.widen(groups, {0: 12, 1: 16}, key=jax.random.key(1))
        >>> wide = edit.apply(params)
        >>> wide["hidden_1"]["kernel"].shape
        (12, 16)
        >>> x = jax.numpy.ones((2, 4))
        >>> bool(abs(net.apply(wide, x) - net.apply(params, x)).max() < 1e-5)
        True
    """
    if not noise >= 0:
        raise WeightSpaceError(f"noise: expected a number of at least 0, got {noise}")
    chosen = named(method)
    if noise and chosen.noise is None:
        raise WeightSpaceError(f"noise: {chosen.name} makes no equal copies, so it takes none")
    return widened(groups, sizes, chosen, key, noise)


def planned(
    groups: Groups,
    sizes: Mapping[int, int],
    method: Method,
    key: Key,
    noise: float,
    treat: Callable[..., Treatment] = treated,
) -> tuple[Plan, Groups]:
    """The changes that give groups their sizes, each as `treat` says, and the groups after."""
    _check(groups, sizes, method)
    key, xp = _host(key)
    changes, grown = [], groups
    for id, size in sizes.items():
        width_map = method.width_map(grown.all[id], size, key, xp)
        more = width_map.fill.count if width_map.fill else 0
        for before, sites in layout.steps(grown, id, size):
            treatment = treat(before.all[id], sites, width_map, size)
            role = "consumed" if treatment.consumed else sites[0].role
            where = method.noise if method.noise == role else None
            changes.append(Change(before, sites[0], width_map.index, more, treatment, where))
        grown = layout.resize(grown, {id: size})
    return Plan(groups, tuple(changes), key, noise), grown


def widened(
    groups: Groups,
    sizes: Mapping[int, int],
    method: Method,
    key: Key,
    noise: float,
    then: Callable[[Groups], Callable[[Params], Params]] = lambda grown: lambda params: params,
) -> edit.Edit:
    """`widen` by a method that need not be one of `METHODS`.

    Args:
      groups: as for `widen`.
      sizes: as for `widen`.
      method: any.
      key: as for `widen`.
      noise: as for `widen`, and not checked.
      then: of the wide model's groups, the map that comes after, of weights and moments alike.

    Returns:
      The edit.
    """
    plan, grown = planned(groups, sizes, method, key, noise)
    after = then(grown)

    def move(params: Params, **powers: Any) -> Params:
        return after(carry(params, plan, **powers))

    def apply(params: Params) -> Params:
        check_finite(params, plan)
        return move(params, weight=1)

    def optimizer_state(state: Any, policy: str = "exact") -> Any:
        from wslax.symmetry.states.moving import move_state

        names = frozenset(change.site.name for change in plan.changes)
        return move_state(state, Moves(names, move), policy)

    return edit.from_map(apply, optimizer_state, grown)
