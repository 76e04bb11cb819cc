r"""The discrete key-value bottleneck: a layer between a frozen encoder and the classes.

Features are projected at random to each of C codebooks. Each looks up the nearest of its M keys and
reads that key's value:

\[y(z) = \frac1C \sum_c V_{c,\, k_c(z)}, \qquad
  k_c(z) = \arg\min_j \lVert P_c^T z - K_{c,j} \rVert.\]

Projections and keys are fixed before any label is seen; the values \(V\) `[C, M, v]` are all that
trains, by any optimiser. A batch of B touches at most B C of their rows, so tasks whose inputs are
near to other keys leave each other alone. With v the number of classes the mean is the logits, and
`jnp.zeros((C, M, classes))` a beginning.

References:
  Träuble et al. 2023, Discrete key-value bottleneck, arXiv:2207.11240; defaults and the random
  projections are those of the authors' code for CIFAR-10.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr

from wslax import tree
from wslax.errors import WeightSpaceError
from wslax.typing import Array, Key, Scalar

_AT_ONCE = 8  # codebooks whose distances [B, M] are held at a time


class Bottleneck(NamedTuple):
    """What is fixed.

    Attributes:
      projections: `[C, d, k]`, columns of length 1.
      keys: `[C, M, k]`.
    """

    projections: Array
    keys: Array


def _check(features: Array, width: int | None = None) -> None:
    wanted = "n >= 1, d" if width is None else f"B, {width}"
    if features.ndim != 2 or 0 in features.shape or width not in (None, features.shape[1]):
        raise WeightSpaceError(f"features: expected [{wanted}], got {tree.aval(features)}")


def _index(projection: Array, keys: Array, features: Array) -> tuple[Array, Array]:
    """Projected features `[B, k]` of one codebook, and the nearest of its keys."""
    with jax.default_matmul_precision("float32"):
        heads = features @ projection
        far = jnp.sum(keys**2, 1)[None] - 2 * heads @ keys.T  # and |heads|^2, the same for all
    return heads, jnp.argmin(far, 1)


def fit(
    key: Key,
    features: Array,
    *,
    codebooks: int = 256,
    pairs: int = 4096,
    width: int = 14,
    steps: int = 1000,
    batch: int = 256,
    decay: Scalar = 0.95,
    threshold: Scalar = 0.1,
) -> Bottleneck:
    r"""Keys for features without labels, by vector quantisation with moving averages.

    With \(n_j\) features of a batch nearest to key j and \(s_j\) their sum,

    \[N_j \leftarrow \gamma N_j + (1 - \gamma) n_j, \qquad
      S_j \leftarrow \gamma S_j + (1 - \gamma) s_j, \qquad K_j = S_j / N_j.\]

    A key begins as a random feature, and does so again where \(N_j\) falls below `threshold` times
    its even share, batch / M. It then counts as one with that least share: the authors' code moves
    the key alone, which its old average then draws back.

    Args:
      key: a JAX key or seed.
      features: `[n, d]`, of any data that is like what will come.
      codebooks: C; static, default 256.
      pairs: M keys in each; static, default 4096.
      width: k, what features are projected to; static, default 14.
      steps: batches; static. The authors make ten epochs.
      batch: features in one, drawn with replacement; static, default 256.
      decay: \(\gamma\), default 0.95.
      threshold: default 0.1.

    Returns:
      The bottleneck, in float32 (float64 for float64).

    Raises:
      WeightSpaceError: if features are not a matrix, or a size is below 1.

    Example:
        >>> import jax, jax.numpy as jnp, wslax as ws
        >>> features = jnp.repeat(jnp.array([[0.0, 1.0], [1.0, 0.0], [5.0, 5.0]]), 9, 0)
        >>> fixed = ws.contrib.key_value.fit(0, features, codebooks=4, pairs=8, width=2, steps=50)
        >>> jax.tree.map(jnp.shape, fixed)
        Bottleneck(projections=(4, 2, 2), keys=(4, 8, 2))
    """
    _check(features)
    sizes = {"codebooks": codebooks, "pairs": pairs, "width": width, "batch": batch}
    for name, size in sizes.items():
        if size < 1:
            raise WeightSpaceError(f"{name}: expected at least 1, got {size}")
    shape = codebooks, features.shape[1], width
    if isinstance(key, int):
        key = jr.key(key)
    return _fit(key, features, shape, pairs, steps, batch, decay, threshold)


@functools.partial(jax.jit, static_argnames=("shape", "pairs", "steps", "batch"))
def _fit(
    key: Any, features: Any, shape: Any, pairs: int, steps: int, batch: int, decay: Any, least: Any
) -> Bottleneck:
    features = features.astype(tree.wide(features))
    share = jnp.asarray(batch / pairs, features.dtype)
    least = least * share
    draw = lambda key, count: features[jr.randint(key, (count,), 0, len(features))]

    def codebook(key: Any) -> Bottleneck:
        projection = jr.normal(jr.fold_in(key, 0), shape[1:], features.dtype)
        projection = projection / jnp.linalg.norm(projection, axis=0, keepdims=True)
        keys = draw(jr.fold_in(key, 1), pairs) @ projection
        # Its own sums: a key that no feature has come to yet is where it began.
        begin = keys, jnp.full(pairs, share)

        def turn(carry: Any, key: Any) -> tuple[Any, None]:
            keys, counts = carry
            heads, near = _index(projection, keys, draw(jr.fold_in(key, 0), batch))
            one = lambda x: jax.ops.segment_sum(x, near, pairs)
            sums = decay * keys * counts[:, None] + (1 - decay) * one(heads)
            counts = decay * counts + (1 - decay) * one(jnp.ones_like(heads[:, 0]))
            dead = counts < least
            fresh = heads[jr.randint(jr.fold_in(key, 1), (pairs,), 0, batch)]
            keys = jnp.where(dead[:, None], fresh, sums / counts[:, None])
            return (keys, jnp.maximum(counts, least)), None

        (keys, _), _ = jax.lax.scan(turn, begin, jr.split(jr.fold_in(key, 2), steps))
        return Bottleneck(projection, keys)

    return jax.lax.map(codebook, jr.split(key, shape[0]), batch_size=_AT_ONCE)


def nearest(bottleneck: Bottleneck, features: Array) -> Array:
    r"""The nearest key in every codebook; frozen, so of a data set it need be found but once.

    Args:
      bottleneck: from `fit`.
      features: `[B, d]`.

    Returns:
      \(k_c(z)\), int32 `[B, C]`.

    Raises:
      WeightSpaceError: if features have another width.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> keys = jnp.array([[[0.0, 0.0], [9.0, 9.0]]])
        >>> fixed = ws.contrib.key_value.Bottleneck(jnp.eye(2)[None], keys)
        >>> ws.contrib.key_value.nearest(fixed, jnp.array([[1.0, 2.0], [7.0, 8.0]])).tolist()
        [[0], [1]]
    """
    _check(features, bottleneck.projections.shape[1])
    features = jax.lax.stop_gradient(features).astype(bottleneck.keys.dtype)
    one = lambda of: _index(of.projections, of.keys, features)[1]
    return jax.lax.map(one, bottleneck, batch_size=_AT_ONCE).T.astype(jnp.int32)


def read(values: Array, index: Array) -> Array:
    """The mean over codebooks of the values at these keys.

    The authors' code, when it tests, passes over keys that training never came to; here such a key
    keeps its first value, and a zero has no say.

    Args:
      values: `[C, M, v]`; gradients go to them, at most B C rows of which are not 0.
      index: int `[B, C]`, from `nearest`.

    Returns:
      `[B, v]`.

    Raises:
      WeightSpaceError: if the numbers of codebooks differ.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> values = jnp.array([[[1.0], [2.0]], [[3.0], [6.0]]])
        >>> ws.contrib.key_value.read(values, jnp.array([[0, 1]])).tolist()
        [[3.5]]
    """
    if values.ndim != 3 or index.ndim != 2 or index.shape[1] != len(values):
        raise WeightSpaceError(
            f"values: expected [C, M, v] for an index [B, C], got {tree.aval(values)} and "
            f"{tree.aval(index)}"
        )
    found = values[jnp.arange(len(values))[None], index]  # [B, C, v]
    return tree.cast_like(jnp.mean(found.astype(tree.wide(values)), 1), values)
