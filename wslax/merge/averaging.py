r"""Averages of one model's weights along its training, as Optax transformations.

Each passes the updates on unchanged and keeps an average of the parameters after them, so it stands
last: `optax.chain(optax.adam(1e-3), ws.merge.ema(0.999))`. `averaged(state, params)` reads it. The
state is a pytree of arrays: it scans, vectorises over members and is saved like any other.

`optax.ema` averages updates and starts from zero; given parameters it has no wide accumulator, and
a bfloat16 average at a decay of 0.999 never moves. Here float leaves are averaged in float32 or
wider; integers, bools and keys are those of the newest parameters.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from wslax import tree
from wslax.errors import WeightSpaceError
from wslax.typing import Params


class AverageState(NamedTuple):
    """The state of `ema` and `swa`.

    Attributes:
      count: int32, updates so far.
      taken: int32, how many parameters the average is of.
      average: like the parameters, floats in float32 or wider.
    """

    count: Any
    taken: Any
    average: Any


class LawaState(NamedTuple):
    """The state of `lawa`.

    Attributes:
      count: int32, updates so far.
      taken: int32, how many snapshots were taken.
      latest: the snapshots, a ring `[window, ...]` of the parameters' dtypes.
    """

    count: Any
    taken: Any
    latest: Any


def _wide(x: Any) -> Any:
    return jnp.asarray(x, tree.wide(x)) if tree.is_float(x) else x


def _after(name: str, updates: Any, params: Any) -> Any:
    if params is None:
        raise WeightSpaceError(f"{name}: update needs the parameters: update(grads, state, params)")
    return optax.apply_updates(params, updates)


def _towards(average: Any, new: Any, share: Any) -> Any:
    """`average` moved by a share of the way to `new`; leaves without floats are the new ones."""

    def move(a: Any, x: Any) -> Any:
        if not tree.is_float(x):
            return x
        return a + jnp.asarray(share, a.dtype) * (_wide(x) - a)

    return jax.tree.map(move, average, new)


def _at_least(name: str, what: str, value: int, least: int) -> None:
    if value < least:
        raise WeightSpaceError(f"{name}: {what}: expected at least {least}, got {value}")


def ema(decay: float | Callable[[Any], Any]) -> optax.GradientTransformation:
    r"""Exponential moving average, \(\bar w \leftarrow \beta \bar w + (1 - \beta) w\).

    It starts as the parameters given to `init`. Their weight fades as \(\beta^t\); where that is
    too slow, a schedule warms it up, such as \(\beta_t = \min(\beta, (1 + t) / (10 + t))\).

    Args:
      decay: \(\beta\), 0 to 1, or an Optax schedule of it: `count -> beta`, count from 0. 0.999 is
        common; WARP's anchor has 0.99.

    Returns:
      A gradient transformation; `update` needs `params`.

    Raises:
      WeightSpaceError: if the decay is out of range; from `update`, without `params`.

    References:
      Polyak and Juditsky 1992, Acceleration of stochastic approximation by averaging.

    Example:
        >>> import jax.numpy as jnp, optax, wslax as ws
        >>> params = {"w": jnp.array([0.0])}
        >>> optimizer = optax.chain(optax.sgd(1.0), ws.merge.ema(0.9))
        >>> state = optimizer.init(params)
        >>> updates, state = optimizer.update({"w": jnp.array([-1.0])}, state, params)
        >>> ws.merge.averaged(state, params)["w"].round(3).tolist()
        [0.1...]
    """
    if isinstance(decay, (int, float)) and not 0 <= decay <= 1:
        raise WeightSpaceError(f"ema: decay: expected 0 to 1, got {decay}")

    def init(params: Params) -> AverageState:
        return AverageState(jnp.int32(0), jnp.int32(1), jax.tree.map(_wide, params))

    def update(updates: Params, state: Any, params: Params | None = None) -> tuple[Params, Any]:
        new = _after("ema", updates, params)
        beta = decay(state.count) if callable(decay) else decay
        average = _towards(state.average, new, 1 - beta)
        return updates, AverageState(state.count + 1, state.taken + 1, average)

    return optax.GradientTransformation(init, update)


def swa(*, cycle: int = 1, start: int = 0) -> optax.GradientTransformation:
    r"""Stochastic weight averaging: the plain mean of every `cycle`-th parameters from `start` on.

    \[\bar w \leftarrow \frac{n \bar w + w}{n + 1}\]

    after `start`, `start + cycle`, ... updates. The learning rate of the paper is constant and high
    or falls in each cycle. Statistics of batch normalisation are to be computed anew for the mean.

    Args:
      cycle: updates between two, at least 1; the paper's is an epoch.
      start: updates before the first; 0 takes the parameters given to `init` in, as the paper does.

    Returns:
      A gradient transformation; `update` needs `params`. Before the first the average is the
      parameters given to `init`.

    Raises:
      WeightSpaceError: if a number is too small; from `update`, without `params`.

    References:
      Izmailov et al. 2018, Averaging weights leads to wider optima and better generalization,
      arXiv:1803.05407, algorithm 1.

    Example:
        >>> import jax.numpy as jnp, optax, wslax as ws
        >>> params, optimizer = {"w": jnp.array([0.0])}, ws.merge.swa()
        >>> _, state = optimizer.update({"w": jnp.array([1.0])}, optimizer.init(params), params)
        >>> ws.merge.averaged(state, params)["w"].tolist()
        [0.5]
    """
    _at_least("swa", "cycle", cycle, 1)
    _at_least("swa", "start", start, 0)

    def init(params: Params) -> AverageState:
        return AverageState(jnp.int32(0), jnp.int32(start == 0), jax.tree.map(_wide, params))

    def update(updates: Params, state: Any, params: Params | None = None) -> tuple[Params, Any]:
        new, count = _after("swa", updates, params), state.count + 1
        due = (count >= start) & ((count - start) % cycle == 0)
        taken = state.taken + due.astype(jnp.int32)
        share = jnp.where(due, 1 / jnp.maximum(taken, 1), 0)
        return updates, AverageState(count, taken, _towards(state.average, new, share))

    return optax.GradientTransformation(init, update)


def lawa(*, window: int, cycle: int) -> optax.GradientTransformation:
    r"""Latest weight averaging: the mean of the last `window` snapshots, one every `cycle` updates.

    Unlike an EMA it forgets wholly, and is ready after one snapshot; it holds `window` models.

    Args:
      window: how many snapshots, at least 1; the paper's is 6.
      cycle: updates between two, at least 1; the paper's is an epoch.

    Returns:
      A gradient transformation; `update` needs `params`. Before the first snapshot the average is
      the parameters given to `init`.

    Raises:
      WeightSpaceError: if a number is too small; from `update`, without `params`.

    References:
      Kaddour 2022, Stop wasting my time! Saving days of ImageNet and BERT training with latest
      weight averaging, arXiv:2209.14981.

    Example:
        >>> import jax.numpy as jnp, optax, wslax as ws
        >>> params, optimizer = {"w": jnp.array([0.0])}, ws.merge.lawa(window=2, cycle=1)
        >>> state = optimizer.init(params)
        >>> for w in (1.0, 2.0, 4.0):
        ...     _, state = optimizer.update({"w": jnp.array([w])}, state, params)
        >>> ws.merge.averaged(state, params)["w"].tolist()
        [3.0]
    """
    _at_least("lawa", "window", window, 1)
    _at_least("lawa", "cycle", cycle, 1)

    def init(params: Params) -> LawaState:
        rows = jax.tree.map(lambda x: jnp.stack([jnp.asarray(x)] * window), params)
        return LawaState(jnp.int32(0), jnp.int32(0), rows)

    def update(updates: Params, state: Any, params: Params | None = None) -> tuple[Params, Any]:
        new, count = _after("lawa", updates, params), state.count + 1
        due, slot = count % cycle == 0, state.taken % window
        # One row is written each time, so that the ring stays where it is.
        latest = jax.tree.map(
            lambda ring, x: ring.at[slot].set(jnp.where(due, x, ring[slot])), state.latest, new
        )
        return updates, LawaState(count, state.taken + due.astype(jnp.int32), latest)

    return optax.GradientTransformation(init, update)


def _mean_of_latest(state: LawaState) -> Any:
    newest = jnp.maximum(state.taken - 1, 0)

    def mean(ring: Any) -> Any:
        if not tree.is_float(ring):
            return ring[newest % len(ring)]
        held = jnp.clip(state.taken, 1, len(ring))
        counts = (jnp.arange(len(ring)) < held).astype(tree.wide(ring))
        return jnp.tensordot(counts, _wide(ring), 1) / held.astype(counts.dtype)

    return jax.tree.map(mean, state.latest)


def averaged(state: Any, params: Params) -> Params:
    """The average that an Optax state holds, in the parameters' dtypes.

    Args:
      state: an Optax state with `ema`, `swa` or `lawa` somewhere in it.
      params: the parameters, for dtypes and weak types.

    Returns:
      The averaged parameters.

    Raises:
      WeightSpaceError: if there is no such state in it, or more than one, or it is of other
        parameters.

    Example:
        >>> import jax.numpy as jnp, optax, wslax as ws
        >>> params = {"w": jnp.ones(2)}
        >>> state = optax.chain(optax.adam(0.1), ws.merge.ema(0.99)).init(params)
        >>> ws.merge.averaged(state, params)["w"].tolist()
        [1.0, 1.0]
    """
    kinds = (AverageState, LawaState)
    nodes = jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, kinds))
    found = [node for node in nodes if isinstance(node, kinds)]
    if len(found) != 1:
        raise WeightSpaceError(f"expected the state of one ema, swa or lawa, found {len(found)}")
    average = _mean_of_latest(found[0]) if isinstance(found[0], LawaState) else found[0].average
    tree.check_structure(average, params, "the average", "params")
    for (name, x), a in zip(
        tree.named_leaves(params).items(), jax.tree.leaves(average), strict=True
    ):
        if np.shape(a) != np.shape(x):
            raise WeightSpaceError(f"{name}: the average is {tree.aval(a)}, params {tree.aval(x)}")
    return jax.tree.map(lambda a, x: tree.cast_like(a, jnp.asarray(x)), average, params)
