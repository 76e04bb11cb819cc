"""The weight compander: weights as a saturating function of what is trained."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wslax.adapt.leafwise import Parts, leafwise, leaves_of
from wslax.adapter import Adapter
from wslax.errors import WeightSpaceError
from wslax.symmetry.types import Groups
from wslax.trace.leaves import wide
from wslax.typing import Key, Params, Where


def compander(
    a: float, b: float, *, learn: bool = False, where: Where = None, groups: Groups | None = None
) -> Adapter:
    r"""Weight compander: \(w = a \arctan(v / b)\), and \(v\) is trained.

    Steep at zero and bounded by \(a\,\pi/2\): a step of \(v\) moves a weight by \(ab / (b^2 +
    v^2)\) times as much, most at zero, where it is \(a/b\), so weights leave zero and none gets
    large. `train` holds `value`, the \(v = b \tan(w / a)\) of the base, and with `learn` also `a`
    and `b`, scalars of the leaf; else these are in `fixed`. The base is where training starts and
    is not used afterwards.

    The paper's abstract says what its function does: it bounds weights, pushes them from zero, and
    may have its hyper-parameters learned. The arctangent does that; whether the paper has the same
    constants, and at which values, could not be verified, so `a` and `b` have no defaults.

    Args:
      a: scale of the weights; \(a\,\pi/2\) is above all of them.
      b: scale of what is trained; below `a` to push weights from zero.
      learn: whether `a` and `b` are trained too.
      where: globs of the leaves to adapt; by default all that are matrices of floats.
      groups: the model's symmetry, for leaves in other layouts than `[in, out]`.

    Returns:
      The adapter. Its changed leaves are arrays.

    Raises:
      WeightSpaceError: if `a` or `b` is not positive; from `init`, if a leaf is no matrix, or has a
        weight that is not traced beyond the bound (one that is traced goes to the bound); from
        `apply` and `fuse`, if parts do not fit the model's leaves.

    References:
      Cakaj, Mehnert and Yang 2023, "Weight Compander: A Simple Weight Reparameterization for
      Regularization", arXiv:2306.16993.

    Example:
        >>> import jax, numpy as np
        >>> params, adapter = {"w": np.array([[0.5, -0.25]], np.float32)}, compander(1.0, 0.5)
        >>> train, fixed = adapter.init(jax.random.key(0), params)
        >>> adapter.fuse(params, train, fixed)["w"].round(4).tolist()
        [[0.5, -0.25]]
    """
    if not (a > 0 and b > 0):
        raise WeightSpaceError(f"expected positive a and b, got {a} and {b}")

    def start(key: Key, name: str, leaf: Any) -> tuple[Parts, Parts]:
        w = wide(leaf)
        near = np.pi / 2 * (1 - 1e-6)
        value = b * jnp.tan(jnp.clip(w / a, -near, near))
        scales = {"a": jnp.asarray(a, w.dtype), "b": jnp.asarray(b, w.dtype)}
        return ({"value": value, **scales}, {}) if learn else ({"value": value}, scales)

    def change(leaf: Any, parts: Parts) -> Any:
        return parts["a"] * jnp.arctan(parts["value"] / parts["b"])

    plain = leafwise(start, change, where, groups)

    def init(key: Key, params: Params) -> tuple[Any, Any]:
        train, fixed = plain.init(key, params)
        named, most = leaves_of(params)[0], a * np.pi / 2
        for name in train:
            largest = abs(wide(named[name])).max()
            if not isinstance(largest, jax.core.Tracer) and not largest < most:
                raise WeightSpaceError(
                    f"{name}: holds a weight of size {largest:.3g}, and a = {a} bounds weights by "
                    f"{most:.3g}; give a larger a, or leave the leaf out by where="
                )
        return train, fixed

    return plain._replace(init=init)
