"""Adapters that multiply: vectors along a matrix's inputs or outputs."""

from typing import Any

import jax
import jax.numpy as jnp

from wslax import tree
from wslax.adapt.leafwise import Parts, leafwise
from wslax.adapt.low_rank import factors, scale_of
from wslax.adapter import Adapter
from wslax.symmetry.types import Groups
from wslax.trace import LowRank, Scaled
from wslax.trace.leaves import wide
from wslax.typing import Key, Where


def ia3(*, inputs: bool = False, where: Where = None, groups: Groups | None = None) -> Adapter:
    r"""IA3: \(W\,\mathrm{diag}(l)\), one learned factor for each output of a matrix.

    `train` holds `outputs`, ones, `[out]`; or `inputs`, ones, `[in]`, for \(\mathrm{diag}(l)\,W\).
    The paper scales the outputs of the keys' and values' matrices and the inputs of the second
    matrix of each MLP: `chain(ia3(where=["*key*", "*value*"]), ia3(inputs=True, where="*down*"))`.
    Biases are leaves of their own and stay; the paper's models have none, PEFT scales those of
    outputs too.

    Args:
      inputs: scale inputs instead of outputs.
      where: globs of the leaves to adapt; by default all that are matrices of floats.
      groups: the model's symmetry, for leaves in other layouts than `[in, out]`.

    Returns:
      The adapter.

    Raises:
      WeightSpaceError: from `init`, if a leaf is no matrix; from `apply` and `fuse`, if parts do
        not fit the model's leaves.

    References:
      Liu et al. 2022, arXiv:2205.05638, section 3.3.

    Example:
        >>> import jax.numpy as jnp
        >>> adapter = ia3()
        >>> adapter.init(0, {"w": jnp.ones((3, 2))})
        ({'w': {'outputs': Array([1., 1.], dtype=float32)}}, {'w': {}})
    """
    axis, side = (0, "inputs") if inputs else (1, "outputs")

    def start(_: Key, name: str, leaf: Any) -> tuple[Parts, Parts]:
        return {side: jnp.ones(leaf.shape[axis], tree.wide(leaf))}, {}

    def change(leaf: Any, parts: Parts) -> Scaled:
        return Scaled(leaf, jnp.expand_dims(parts[side], 1 - axis))

    return leafwise(start, change, where, groups)


def _squares(w: Any) -> Any:
    """Of the columns' lengths."""
    return (w * w).sum(0)


def dora(
    rank: int,
    *,
    alpha: Any = None,
    rslora: bool = False,
    where: Where = None,
    groups: Groups | None = None,
) -> Adapter:
    r"""DoRA: LoRA of the columns' directions, with their lengths learned apart.

    With \(V = W + s\,D U\) as in `lora`, the leaf is \(V\,\mathrm{diag}(m / \lVert V \rVert)\),
    norms over the inputs of each output. `train` holds LoRA's `down` and `up`, and `magnitude`,
    \(m = \lVert W \rVert\), `[out]`. The norm is a constant to the gradient, as in the paper
    (section 4.3) and PEFT. It comes from \(D^T W\) and \(D^T D\), so \(V\) is not written out.
    At the start the change is none to rounding.

    Args:
      rank: r, static, at most the smaller side.
      alpha: \(s = \alpha / r\); by default the rank, so that \(s = 1\).
      rslora: \(s = \alpha / \sqrt r\) instead.
      where: globs of the leaves to adapt; by default all that are matrices of floats.
      groups: the model's symmetry, for leaves in other layouts than `[in, out]`.

    Returns:
      The adapter.

    Raises:
      WeightSpaceError: as `lora`.

    References:
      Liu et al. 2024, arXiv:2402.09353, sections 4.1 and 4.3.

    Example:
        >>> import jax.numpy as jnp
        >>> adapter = dora(1)
        >>> train, fixed = adapter.init(0, {"w": jnp.array([[3.0, 0.0], [4.0, 2.0]])})
        >>> train["w"]["magnitude"].tolist()
        [5.0, 2.0]
    """
    scale = scale_of(rank, alpha, rslora)

    def start(key: Key, name: str, leaf: Any) -> tuple[Parts, Parts]:
        magnitude = jnp.sqrt(_squares(wide(leaf)))
        return {**factors(key, name, leaf, rank), "magnitude": magnitude}, {}

    def change(leaf: Any, parts: Parts) -> Scaled:
        down, up, base = jax.lax.stop_gradient((parts["down"], scale * parts["up"], wide(leaf)))
        inner = lambda x: jnp.einsum("ir,io->ro", down, x, precision="highest")
        along = 2 * inner(base) + jnp.einsum("rq,qo->ro", inner(down), up, precision="highest")
        squares = _squares(base) + (up * along).sum(0)
        held = squares > 0
        by = jnp.where(held, parts["magnitude"] / jnp.sqrt(jnp.where(held, squares, 1)), 1)
        return Scaled(LowRank(leaf, parts["down"], parts["up"], scale), by[None])

    return leafwise(start, change, where, groups)
