"""LoRA and its kin: a product of two thin factors beside each matrix."""

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from wslax import random, tree
from wslax.adapt.leafwise import Parts, leafwise
from wslax.adapter import Adapter
from wslax.errors import WeightSpaceError
from wslax.numerics.lowrank import principal
from wslax.symmetry.types import Groups
from wslax.trace import LowRank, Scaled
from wslax.trace.leaves import wide
from wslax.typing import Key, Where


def check_number(value: Any, what: str = "rank") -> None:
    """Raise unless a rank, or what else, is an integer of at least 1."""
    if not isinstance(value, int | np.integer) or value < 1:
        raise WeightSpaceError(f"{what}: expected an integer of at least 1, got {value!r}")


def check_rank(rank: int, name: str, leaf: Any) -> None:
    """Raise unless a matrix has a rank."""
    most = min(leaf.shape)
    if not 1 <= rank <= most:
        raise WeightSpaceError(
            f"{name}: rank {rank} does not fit {tree.aval(leaf)}; give 1 to {most}, or leave the "
            "leaf out by where="
        )


def uniform(key: Key, label: str, shape: tuple[int, ...], bound: float) -> Any:
    """Uniform float32 within plus and minus `bound`."""
    words = random.bits(key, label, math.prod(shape), xp=jnp)
    return (2 * random.uniform(words).reshape(shape) - 1) * np.float32(bound)


def draws(key: Key, name: str, leaf: Any) -> Callable[[str, tuple[int, ...], float], Any]:
    """`(part, shape, bound) -> array`: uniform first values of a leaf's parts."""
    return lambda part, shape, bound: uniform(key, f"adapt/{name}/{part}", shape, bound).astype(
        tree.wide(leaf)
    )


def factors(key: Key, name: str, leaf: Any, rank: int) -> dict[str, Any]:
    """LoRA's first factors of a matrix."""
    check_rank(rank, name, leaf)
    rows, columns = leaf.shape
    down = uniform(key, f"adapt/{name}", (rows, rank), rows**-0.5).astype(tree.wide(leaf))
    return {"down": down, "up": jnp.zeros((rank, columns), down.dtype)}


def scale_of(rank: int, alpha: Any, rslora: bool) -> Any:
    """What the product is multiplied by."""
    check_number(rank)
    return (rank if alpha is None else alpha) / (rank**0.5 if rslora else rank)


def lora(
    rank: int,
    *,
    alpha: Any = None,
    rslora: bool = False,
    where: Where = None,
    groups: Groups | None = None,
) -> Adapter:
    r"""LoRA: \(W + s\, D U\) with thin \(D\) and \(U\) beside a frozen \(W\).

    `train` holds for each matrix `[in, out]` the factors `down` `[in, rank]`, uniform within
    \(\pm 1/\sqrt{in}\) (PEFT's start), and `up` `[rank, out]`, zero. They are float32 (float64 for
    float64) whatever the base is, as in PEFT: what trains in bfloat16 loses small steps.

    Args:
      rank: r, static, at most the smaller side.
      alpha: \(s = \alpha / r\); by default the rank, so that \(s = 1\).
      rslora: \(s = \alpha / \sqrt r\) instead, which keeps the size of updates over ranks.
      where: globs of the leaves to adapt; by default all that are matrices of floats.
      groups: the model's symmetry, for leaves in other layouts than `[in, out]`: stacked layers,
        heads, PyTorch's `[out, in]`.

    Returns:
      The adapter.

    Raises:
      WeightSpaceError: if the rank is no integer of at least 1; from `init`, if a leaf is no matrix
        or has no such rank; from `apply` and `fuse`, if parts do not fit the model's leaves.

    References:
      Hu et al. 2021, arXiv:2106.09685, section 4.1; Kalajdzievski 2023, arXiv:2312.03732 (rsLoRA).

    Example:
        >>> import jax, jax.numpy as jnp
        >>> adapter = lora(2, alpha=4)
        >>> train, fixed = adapter.init(jax.random.key(0), {"w": jnp.ones((6, 4))})
        >>> adapter.apply({"w": jnp.ones((6, 4))}, train, fixed)["w"].scale
        2.0
    """
    scale = scale_of(rank, alpha, rslora)

    def start(key: Key, name: str, leaf: Any) -> tuple[Parts, Parts]:
        return factors(key, name, leaf, rank), {}

    def change(leaf: Any, parts: Parts) -> LowRank:
        return LowRank(leaf, parts["down"], parts["up"], scale)

    return leafwise(start, change, where, groups)


def pissa(rank: int, *, where: Where = None, groups: Groups | None = None) -> Adapter:
    r"""PiSSA: LoRA that begins with the matrix's principal part, which it takes from the base.

    Of the leading singular triplets \(W \approx Q S P^T\) come \(D_0 = Q S^{1/2}\) and
    \(U_0 = S^{1/2} P^T\). Where the paper stores \(W - D_0 U_0\) as a new base, here the base stays
    as it is and is held once for all adapters: the leaf is \((W - D_0 U_0) + D U\), with `down`
    and `up` in `train`, which begin as \(D_0\) and \(U_0\), and those in `fixed`. The scale is 1,
    as in the paper. At the start the change is zero to rounding.

    Args:
      rank: r, static, at most the smaller side.
      where: globs of the leaves to adapt; by default all that are matrices of floats.
      groups: the model's symmetry, for leaves in other layouts than `[in, out]`.

    Returns:
      The adapter. Its `init` depends on the base, not on the key, but for large matrices, whose
      decomposition (`numerics.lowrank`) begins at random.

    Raises:
      WeightSpaceError: as `lora`.

    References:
      Meng, Wang and Zhang 2024, arXiv:2404.02948, section 3.

    Example:
        >>> import jax.numpy as jnp
        >>> adapter = pissa(1)
        >>> train, fixed = adapter.init(0, {"w": jnp.diag(jnp.array([4.0, 1.0]))})
        >>> abs(train["w"]["down"] @ train["w"]["up"]).round(4).tolist()
        [[4.0, 0.0], [0.0, 0.0]]
    """
    check_number(rank)

    def start(key: Key, name: str, leaf: Any) -> tuple[Parts, Parts]:
        check_rank(rank, name, leaf)
        left, singular, right, _ = principal(wide(leaf), rank, key=key)
        root = jnp.sqrt(singular)
        down, up = left * root[None], root[:, None] * right.T
        return {"down": down, "up": up}, {"first_down": down, "first_up": up}

    def change(leaf: Any, parts: Parts) -> LowRank:
        rest = LowRank(leaf, parts["first_down"], parts["first_up"], -1.0)
        return LowRank(rest, parts["down"], parts["up"])

    return leafwise(start, change, where, groups)


def vera(
    rank: int,
    *,
    key: Key = 0,
    first: float = 0.1,
    where: Where = None,
    groups: Groups | None = None,
) -> Adapter:
    r"""VeRA: \(W + A\,\mathrm{diag}(d)\,B\,\mathrm{diag}(b)\) with random frozen \(A\) and \(B\).

    Only the vectors train: `d` `[rank]`, and `b` `[out]`, zero. The projections are drawn from the
    key, uniform within \(\pm\sqrt{6/in}\) and \(\pm\sqrt{6/r}\) (Kaiming's), one pair for all
    leaves of one shape and for all adapters of a population; they are drawn anew where they are
    used and nothing is stored.

    Args:
      rank: r, static; it may exceed the leaf's sides, and is larger than LoRA's (PEFT's is 256).
      key: of the projections. It belongs to the adapter, as an architecture does: the trained
        vectors mean nothing under another key.
      first: what `d` begins as (the paper's and PEFT's 0.1).
      where: globs of the leaves to adapt; by default all that are matrices of floats.
      groups: the model's symmetry, for leaves in other layouts than `[in, out]`.

    Returns:
      The adapter; the key of its `init` is not used.

    Raises:
      WeightSpaceError: as `lora`.

    References:
      Kopiczko, Blankevoort and Asano 2023, arXiv:2310.11454, section 3.

    Example:
        >>> import jax.numpy as jnp
        >>> adapter = vera(8)
        >>> train, fixed = adapter.init(0, {"w": jnp.ones((6, 4))})
        >>> {name: part.shape for name, part in train["w"].items()}, fixed
        ({'b': (4,), 'd': (8,)}, {'w': {}})
    """
    check_number(rank)

    def start(_: Key, name: str, leaf: Any) -> tuple[Parts, Parts]:
        dtype = tree.wide(leaf)
        return {"b": jnp.zeros(leaf.shape[1], dtype), "d": jnp.full(rank, first, dtype)}, {}

    def change(leaf: Any, parts: Parts) -> LowRank:
        (rows, columns), dtype = leaf.shape, tree.wide(leaf)
        down = uniform(key, f"vera/{rows}x{rank}", (rows, rank), (6 / rows) ** 0.5).astype(dtype)
        up = uniform(key, f"vera/{rank}x{columns}", (rank, columns), (6 / rank) ** 0.5)
        up = up.astype(dtype)
        return LowRank(leaf, down, Scaled(Scaled(up, parts["d"][:, None]), parts["b"][None]))

    return leafwise(start, change, where, groups)
