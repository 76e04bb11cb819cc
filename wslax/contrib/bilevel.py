"""How much each source of data should count, learnt by descent of first order (ScaleBiO)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from wslax import tree
from wslax.errors import WeightSpaceError
from wslax.typing import Array, Params, Scalar


class State(NamedTuple):
    r"""Where a run is.

    Attributes:
      params: \(w\), the weights that are wanted.
      follower: \(u\), the same weights trained on the sources alone.
      logits: \(\lambda\), float32 `[S]`; `jax.nn.softmax` of them are the sources' weights.
      penalty: \(\alpha\). An outer round is
        `state._replace(penalty=state.penalty * tau)` with rates divided by tau.
      optimizers: the Optax states of the three.
    """

    params: Params
    follower: Params
    logits: Array
    penalty: Array
    optimizers: tuple[Any, Any, Any]


class Bilevel(NamedTuple):
    """A run's beginning and its step.

    Attributes:
      init: `init(params) -> State`.
      step: `step(state, batch, source, validation) -> (state, info)` with `source` int `[B]`, the
        source of each row of the batch; `info` holds `validation`, the loss there, and `gap`
        `[S]`, how far `params` are above `follower` on each source. Donate the state.
    """

    init: Callable[[Params], State]
    step: Callable[[State, Any, Array, Any], tuple[State, dict[str, Array]]]


def _floats(params: Params) -> Params:
    """The leaves that are trained, None for others."""
    return jax.tree.map(lambda x: x if tree.is_float(x) else None, params)


def _whole(floats: Params, params: Params) -> Params:
    """`params` with other floats."""
    return jax.tree.map(lambda x, new: x if new is None else new, params, floats)


def by_source(losses: Array, source: Array, sources: int) -> Array:
    """Mean loss of each source in a batch; 0 for one that is absent.

    Args:
      losses: `[B]`; half types become float32.
      source: int `[B]`; a number outside `0 ... sources - 1` belongs to none.
      sources: S; static.

    Returns:
      `[S]`.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> ws.contrib.bilevel.by_source(jnp.array([1.0, 3.0, 5.0]), jnp.array([0, 0, 2]), 3)
        Array([2., 0., 5.], dtype=float32)
    """
    losses = losses.astype(tree.wide(losses))
    count = jax.ops.segment_sum(jnp.ones_like(losses), source, sources)
    return jax.ops.segment_sum(losses, source, sources) / jnp.maximum(count, 1)


def scalebio(
    losses: Callable[[Any, Any], Any],
    optimizer: optax.GradientTransformation,
    logits_optimizer: optax.GradientTransformation,
    *,
    sources: int,
    penalty: Scalar = 10.0,
) -> Bilevel:
    r"""ScaleBiO: weights of data sources under which training ends best on validation data.

    With per-source mean losses \(\ell(w) \in R^S\) of a batch, \(p = \mathrm{softmax}(\lambda)\)
    and the mean validation loss \(L_1\), the bilevel problem becomes

    \[\min_{\lambda, w} \max_u \; F = L_1(w) + \alpha \, p \cdot (\ell(w) - \ell(u)).\]

    A step takes all three gradients of F on the same training batch, at the values of before, and
    then moves u up, w down and \(\lambda\) down. So u descends on \(\alpha\, p \cdot \ell(u)\), and
    \(\lambda\) along \(\alpha (\mathrm{diag}(p) - p p^T)(\ell(w) - \ell(u))\). There are no second
    derivatives; two copies of the weights are held. To hold less for their optimisers, pass one
    that trains some weights at a time, as `wslax.select.lift` does. Optimisers see floats alone;
    integer, bool and key leaves pass unchanged.

    Args:
      losses: `losses(params, batch) -> [B]`, one a row.
      optimizer: for w and u alike; the authors take AdamW with decay 5e-4.
      logits_optimizer: for \(\lambda\); theirs has rate 1e-2.
      sources: S; static.
      penalty: \(\alpha\); default 10, of the authors' script for GPT-2 (100 for Yi-34B).

    Returns:
      `Bilevel(init, step)`. Logits begin at 0: all sources alike.

    Raises:
      WeightSpaceError: if there are fewer than two sources; from `step`, if there is not one loss
        and one source a row.

    References:
      Pan et al. 2024, ScaleBiO: scalable bilevel optimization for LLM data reweighting,
      arXiv:2406.19976; the order of updates and the per-source means are those of the authors'
      code.

    Example:
        >>> import jax, jax.numpy as jnp, optax, wslax as ws
        >>> losses = lambda params, batch: (params["w"] - batch) ** 2
        >>> run = ws.contrib.bilevel.scalebio(losses, optax.sgd(0.01), optax.sgd(0.1), sources=2)
        >>> state, step = run.init({"w": jnp.array(0.0)}), jax.jit(run.step)
        >>> for _ in range(100):  # source 1 is off by 2
        ...     state, info = step(state, jnp.array([1.0, 3.0]), jnp.array([0, 1]), jnp.ones(1))
        >>> bool(jax.nn.softmax(state.logits)[0] > 0.9)
        True
    """
    if sources < 2:
        raise WeightSpaceError(f"sources: expected at least 2, got {sources}")

    def init(params: Params) -> State:
        # Copies, so that a donated state holds no buffer twice, nor one of the caller's.
        params, follower = (jax.tree.map(jnp.array, params) for _ in range(2))
        logits = jnp.zeros(sources, jnp.float32)
        first, second = (optimizer.init(_floats(p)) for p in (params, follower))
        states = first, second, logits_optimizer.init(logits)
        return State(params, follower, logits, jnp.asarray(penalty, jnp.float32), states)

    def step(
        state: State, batch: Any, source: Array, validation: Any
    ) -> tuple[State, dict[str, Array]]:
        def saddle(params: Any, follower: Any, logits: Array) -> tuple[Array, Any]:
            params, follower = (_whole(p, state.params) for p in (params, follower))
            each = tuple(losses(p, batch) for p in (params, follower))
            if each[0].shape != source.shape or source.ndim != 1:
                raise WeightSpaceError(
                    f"losses: expected one a row of `source`, int[B]; "
                    f"got {tree.aval(each[0])} for {tree.aval(source)}"
                )
            gap = by_source(each[0] - each[1], source, sources)
            value = jnp.mean(losses(params, validation))
            pull = state.penalty * jnp.dot(jax.nn.softmax(logits), gap)
            return value + pull, {"validation": value, "gap": gap}

        three = _floats(state.params), _floats(state.follower), state.logits
        slopes, info = jax.grad(saddle, argnums=(0, 1, 2), has_aux=True)(*three)
        down, up, turn = slopes
        slopes = down, jax.tree.map(jnp.negative, up), turn
        rules = optimizer, optimizer, logits_optimizer
        moved, states = [], []
        for at, slope, rule, old in zip(three, slopes, rules, state.optimizers, strict=True):
            change, new = rule.update(slope, old, at)
            moved.append(optax.apply_updates(at, change))
            states.append(new)
        params, follower = (_whole(p, state.params) for p in moved[:2])
        logits = moved[2]
        return State(params, follower, logits, state.penalty, tuple(states)), info

    return Bilevel(init, step)
