"""OpenAI's evolution strategy (Salimans et al. 2017, arXiv:1703.03864) on trees."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from wslax import tree
from wslax.evolve.centre import ADAM, Noise, around
from wslax.evolve.mutation import gaussian
from wslax.evolve.shaping import centred_ranks
from wslax.evolve.strategy import Strategy, fill
from wslax.typing import Array, Key, Params, Scalar, Where

# Members at a time: best on a CPU, where their words stay in cache.
CHUNK = 8


def _child(key: Key, centre: Params, sigma: Scalar, id_: Scalar) -> Params:
    return gaussian(key, centre, sigma=sigma, rate=1.0, member=id_)


def _children(key: Key, centre: Params, sigma: Array, ids: Array) -> Params:
    n = ids.shape[0]
    slots = jax.tree.map(lambda x: jax.lax.full_like(x, 0, shape=(n, *x.shape)), centre)
    make = jax.vmap(lambda s, i: _child(key, centre, s, i))
    return fill(slots, 0, n, CHUNK, lambda index, _: make(sigma[index], ids[index]))


def _total(key: Key, centre: Params, weights: Array, ids: Array) -> Params:
    """The sum over children, a few at a time; the last few are filled up with weights of zero."""
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, tree.wide(x)), centre)
    # Noise is the mutation of nothing: the stream is that of the children.
    draw = jax.vmap(lambda id_: _child(key, zeros, 1.0, id_))
    few = min(CHUNK, ids.shape[0])
    short = -ids.shape[0] % few
    rows = tuple(jnp.pad(x, (0, short)).reshape(-1, few) for x in (weights, ids))

    def add(total: Params, row: tuple[Array, ...]) -> tuple[Params, None]:
        weight, noise = row[0], draw(row[1])

        def plus(t: Array, e: Array) -> Array:
            return t + (weight.astype(e.dtype).reshape(-1, *(1,) * (e.ndim - 1)) * e).sum(0)

        return jax.tree.map(plus, total, noise), None

    return jax.lax.scan(add, zeros, rows)[0]


DENSE = Noise(_child, _children, _total)


def open_es(
    *,
    n: int = 64,
    sigma: Scalar = 0.02,
    optimizer: optax.GradientTransformation = ADAM,
    antithetic: bool = True,
    shaping: Callable[[Array], Array] = centred_ranks,
    where: Where = None,
) -> Strategy:
    r"""OpenAI's evolution strategy: a centre climbs the fitness, smoothed by its children.

    \[x_i = c + \sigma \epsilon_i, \qquad
      g = \frac{1}{n \sigma} \sum_i w_i\, \epsilon_i, \qquad c \leftarrow c + \mathrm{step}(g)\]

    with \(\epsilon_i \sim N(0, 1)\) for each weight and \(w\) the shaped fitness. Children 2k and
    2k + 1 are \(c \pm \sigma \epsilon\). The noise is that of `gaussian`, drawn again in `tell`
    a few children at a time, so that besides the children nothing of their size exists.

    Under a mesh with an axis `population` each device makes and sums children of its own, and one
    sum of the centre's size joins them: from one centre children are the same bits on any number of
    devices, and steps agree to rounding.

    The population to begin with is of one: `ws.population.stack([params])`. `Info.best` and `mean`
    are of a generation's children. A child that failed counts as the worst of its generation; a
    generation in which all failed moves by the optimizer's momentum alone.

    Args:
      n: children a generation; static.
      sigma: size of the noise; 0.02 as in the authors' configurations. In the state, so a sweep
        compiles once.
      optimizer: what makes a step of \(-g\), of the leaves in float32 for half types; Adam with
        the authors' step of 0.01. Weight decay and schedules are its matter. Pass the same object
        again to compile once. Half-type centres lose steps below their rounding.
      antithetic: whether children come in pairs of opposite noise.
      shaping: `fitness [n] -> weights [n]`, best with sum zero; `centred_ranks` or `z_scores`.
      where: globs of the leaves that move; others, and integer, bool and key leaves, never change.

    Returns:
      The strategy; its state is a `Centre`.

    Raises:
      WeightSpaceError: if `n` is below 2, or odd with `antithetic`; from `init`, unless the
        population is of one member.

    References:
      Salimans et al. 2017, Evolution strategies as a scalable alternative to reinforcement
      learning, arXiv:1703.03864, algorithm 2. Their code leaves out \(1/\sigma\), which Adam
      does not notice.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> fitness = lambda children: -jnp.square(children["w"] - 0.5).sum(1)
        >>> centre = ws.population.stack([{"w": jnp.zeros(5)}])
        >>> end = ws.evolve.run(ws.evolve.open_es(n=16), centre, fitness,
        ...     key=0, generations=60, direction="maximize")
        >>> bool(abs(end.members.params["w"] - 0.5).max() < 0.1)
        True
    """
    return around(
        DENSE, sigma, n=n, antithetic=antithetic, optimizer=optimizer, shaping=shaping, where=where
    )
