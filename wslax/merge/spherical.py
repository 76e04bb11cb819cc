r"""Interpolation along great circles.

\[\theta = \arccos\frac{\langle a, b\rangle}{|a||b|}, \qquad
y = \frac{\sin((1-t)\theta)}{\sin\theta} a + \frac{\sin(t\theta)}{\sin\theta} b\]
"""

from typing import Any

from wslax.merge.method import Gram, Leaf, Method, Param


def _slerp(leaf: Leaf) -> Any:
    xp, t, gram = leaf.xp, leaf.params["t"], leaf.measured["gram"]
    squares = xp.stack([gram[0, 0], gram[1, 1]])
    # Guarded before the root: its gradient at zero is infinite.
    norms = xp.sqrt(xp.where(squares < 1e-16, xp.ones_like(squares), squares))
    cosine = xp.clip(gram[0, 1] / (norms[0] * norms[1]), -1.0, 1.0)
    straight = xp.abs(cosine) > 0.9995
    # The inner where keeps the untaken branch finite, so that gradients are too.
    theta = xp.arccos(xp.where(straight, xp.zeros_like(cosine), cosine))
    first = xp.where(straight, 1.0 - t, xp.sin((1.0 - t) * theta) / xp.sin(theta))
    second = xp.where(straight, t, xp.sin(t * theta) / xp.sin(theta))
    share = xp.stack([first, second])
    return leaf.sum(lambda m: share[m.index].astype(m.x.dtype) * m.x)


slerp = Method(
    name="slerp",
    about="Spherical interpolation of two members, t = 0 at the first (the base).",
    source="Shoemake 1985; thresholds of mergekit 0.1.5",
    combine=_slerp,
    rounds=lambda params: {"gram": Gram(lambda xp, m: m.x)},
    params=(Param("t", "position between the first and the second", None),),
    base="first",
    least=2,
    most=2,
)
