r"""Combinations whose coefficients follow from the angles between members.

Whatever lies in the span of the members has its norm and its angles in their Gram matrix
\(G_{ij} = \langle v_i, v_j\rangle\). So each method measures that, does all else on \(N \times N\)
numbers, iterations included, and combines once.
"""

from collections.abc import Mapping
from typing import Any

from wslax.merge.averages import WEIGHT
from wslax.merge.method import Gram, Leaf, Measure, Member, Method, Param, Scope


def _vector(xp: Any, m: Member) -> Any:
    """The task vector, or without a base the weights themselves."""
    return m.x if m.base is None else m.delta


def _rounds(params: Mapping[str, Any]) -> Mapping[str, Measure]:
    return {"gram": Gram(_vector)}


def _root(xp: Any, square: Any) -> Any:
    """The square root, with a gradient of zero at zero and below."""
    positive = square > 0
    safe = xp.where(positive, square, xp.ones_like(square))
    return xp.where(positive, xp.sqrt(safe), xp.zeros_like(square))


def _norms(xp: Any, gram: Any) -> Any:
    """`[N, ...]`: the norms of the vectors that a Gram matrix `[N, N, ...]` is of."""
    return _root(xp, xp.moveaxis(xp.diagonal(gram), -1, 0))


def _close(xp: Any, like: Any) -> Any:
    """A cosine nearer than this to 1 or -1 may be rounding: eight units of the compute dtype."""
    return 8 * xp.finfo(like.dtype).eps


def _arc(xp: Any, cosine: Any, straight: Any, t: Any) -> Any:
    """`[2, ...]`: coefficients along the arc, linear where it is `straight`."""
    # The inner where keeps the untaken branch finite, so that gradients are too.
    theta = xp.arccos(xp.where(straight, xp.zeros_like(cosine), cosine))
    first = xp.where(straight, 1.0 - t, xp.sin((1.0 - t) * theta) / xp.sin(theta))
    second = xp.where(straight, t, xp.sin(t * theta) / xp.sin(theta))
    return xp.stack([first, second])


def _mixed(leaf: Leaf, shares: Any) -> Any:
    """The vectors times their coefficients, on top of the base where they are task vectors."""
    total = leaf.sum(lambda m: shares[m.index].astype(m.x.dtype) * _vector(leaf.xp, m))
    return total if leaf.base is None else leaf.base + total


def _weights(leaf: Leaf) -> Any:
    """`[N]`: the members' weights."""
    xp, place = leaf.xp, leaf.xp.arange(leaf.count)

    def own(m: Member) -> Any:
        weight = m.params["coef"]
        return xp.where(place == m.index, weight, xp.zeros_like(weight))

    return leaf.sum(own)


def _length(xp: Any, gram: Any, share: Any) -> Any:
    """The norm of a combination of vectors."""
    return _root(xp, xp.sum(gram * share[:, None] * share[None]))


def _slerp(leaf: Leaf) -> Any:
    xp, gram = leaf.xp, leaf.measured["gram"]
    norms = _norms(xp, gram)
    norms = xp.where(norms < 1e-8, xp.ones_like(norms), norms)
    cosine = xp.clip(gram[0, 1] / (norms[0] * norms[1]), -1.0, 1.0)
    return _mixed(leaf, _arc(xp, cosine, xp.abs(cosine) > 0.9995, leaf.params["t"]))


def _nuslerp(leaf: Leaf) -> Any:
    xp, gram, weights = leaf.xp, leaf.measured["gram"], _weights(leaf)
    total = weights[0] + weights[1]
    opposed = xp.abs(total) < 1e-6
    safe = xp.where(opposed, xp.ones_like(total), total)
    t = xp.where(opposed, 0.5 * xp.ones_like(total), weights[1] / safe)
    norms = xp.maximum(_norms(xp, gram), 1e-7)
    cosine = xp.clip(gram[0, 1] / (norms[0] * norms[1]), -1.0, 1.0)
    # Opposite vectors, such as those of one entry, must be found in float32 as well.
    straight = 1.0 - cosine * cosine <= _close(xp, total)
    return _mixed(leaf, _arc(xp, cosine, straight, t))


def _multislerp(leaf: Leaf) -> Any:
    if leaf.count == 1:
        return leaf.sum(lambda m: m.x)
    xp, gram, weights, eps = leaf.xp, leaf.measured["gram"], _weights(leaf), leaf.params["eps"]
    if leaf.params["normalize_weights"]:
        weights = weights / xp.sum(weights)
    norms = _norms(xp, gram)
    turned = weights / (norms + eps)
    length = _length(xp, gram, turned)
    lost = length < eps
    safe = xp.where(lost, xp.ones_like(length), length)
    return _mixed(leaf, xp.where(lost, weights, xp.sum(weights * norms) / safe * turned))


def _karcher(leaf: Leaf) -> Any:
    if leaf.count == 1:
        return leaf.sum(lambda m: m.x)
    xp, gram, tol = leaf.xp, leaf.measured["gram"], leaf.params["tol"]
    norms = _norms(xp, gram)
    valid = norms > tol
    one, nothing = xp.ones_like(norms), xp.zeros_like(norms)
    inverse = xp.where(valid, one / xp.where(valid, norms, one), nothing)
    gram = gram * inverse[:, None] * inverse[None]
    equal = xp.where(valid, one, nothing)
    equal = equal / xp.maximum(xp.sum(equal), 1)
    length = _length(xp, gram, equal)
    first = xp.where(valid & (xp.cumsum(valid) == 1), one, nothing)
    start = xp.where(
        length < tol, first, equal / xp.where(length < tol, xp.ones_like(length), length)
    )

    def step(state: tuple[Any, Any]) -> tuple[Any, Any]:
        """One step along the mean of the tangent vectors that point from `mean` to the members."""
        mean, done = state
        cosines = xp.sum(gram * mean[None], axis=1)
        apart = (cosines < 1) & (cosines > _close(xp, tol) - 1)
        theta = xp.arccos(xp.where(apart, cosines, nothing))
        pull = xp.where(apart & (theta >= tol), equal * theta / xp.sin(theta), nothing)
        tangent = pull - xp.sum(pull * cosines) * mean
        angle = _length(xp, gram, tangent)
        done = done | (angle < tol)
        safe = xp.where(done, xp.ones_like(angle), angle)
        moved = xp.cos(angle) * mean + xp.sin(angle) / safe * tangent
        length = _length(xp, gram, moved)
        moved = moved / xp.where(length > tol, length, xp.ones_like(length))
        return xp.where(done, mean, moved), done

    mean, _ = leaf.repeat(leaf.params["max_iter"], step, (start, xp.zeros_like(length, dtype=bool)))
    return _mixed(leaf, xp.sum(norms) / leaf.count * inverse * mean)


def _model_stock(leaf: Leaf) -> Any:
    xp, gram, count = leaf.xp, leaf.measured["gram"], leaf.count
    norms = _norms(xp, gram)
    cosines = xp.clip(gram / xp.maximum(norms[:, None] * norms[None], 1e-6), -1.0, 1.0)
    others = (1.0 - xp.eye(count, dtype=gram.dtype)).reshape(count, count, *[1] * (gram.ndim - 2))
    cosine = xp.sum(cosines * others, axis=(0, 1)) / (count * (count - 1))
    divisor = 1.0 + (count - 1) * cosine
    singular = xp.abs(divisor) < 1e-6
    ratio = count * cosine / xp.where(singular, xp.ones_like(divisor), divisor)
    t = xp.where(singular, xp.zeros_like(ratio), ratio)
    return leaf.base + (t / count).astype(leaf.base.dtype) * leaf.sum(lambda m: m.delta)


slerp = Method(
    name="slerp",
    about="Spherical interpolation of two members, t = 0 at the first (the base).",
    source="Shoemake 1985; thresholds of mergekit 0.1.5",
    formula=r"\frac{\sin((1-t)\theta)}{\sin\theta} x_0 + \frac{\sin(t\theta)}{\sin\theta} x_1",
    combine=_slerp,
    rounds=_rounds,
    params=(Param("t", "position between the first and the second", None),),
    base="first",
    least=2,
    most=2,
)


def _vectors(params: Mapping[str, Any]) -> Scope:
    """What nuslerp interpolates: the leaf, its vectors along the last axis, or along the first."""
    if params["nuslerp_flatten"]:
        return "leaf"
    return "column" if params["nuslerp_row_wise"] else "row"


nuslerp = Method(
    name="nuslerp",
    about="Spherical interpolation of two members or of their task vectors, by weights.",
    source="Shoemake 1985; mergekit 0.1.5",
    formula=r"b + \mathrm{slerp}\big(d_1, d_2;\, \tfrac{w_2}{w_1 + w_2}\big)",
    combine=_nuslerp,
    rounds=_rounds,
    params=(
        WEIGHT,
        Param("nuslerp_row_wise", "vectors lie along the first axis", False, kind=bool),
        Param("nuslerp_flatten", "one vector a tensor", True, kind=bool),
    ),
    base="optional",
    least=2,
    most=2,
    scope=_vectors,
)

multislerp = Method(
    name="multislerp",
    about="The members' weighted mean direction, as long as they are on average.",
    source="Goddard 2025; mergekit 0.1.5",
    formula=r"b + \exp_m\big(\sum_i w_i \log_m u_i\big) \sum_i w_i \lVert d_i\rVert, "
    r"\; u_i = d_i / \lVert d_i\rVert",
    combine=_multislerp,
    rounds=_rounds,
    params=(
        WEIGHT,
        Param("normalize_weights", "divide the weights by their sum", True, kind=bool),
        Param("eps", "norm below which a vector has no direction", 1e-8, low=0),
    ),
    base="optional",
)

karcher = Method(
    name="karcher",
    about="The members' mean direction on the sphere, as long as they are on average.",
    source="Karcher 1977; arXiv:2603.04972",
    formula=r"m \,\tfrac{1}{N} \sum_i \lVert x_i\rVert, "
    r"\; m \leftarrow \exp_m\big(\tfrac{1}{N} \sum_i \log_m u_i\big)",
    combine=_karcher,
    rounds=_rounds,
    params=(
        Param("max_iter", "most steps", 10, kind=int, low=0),
        Param("tol", "angle and norm that count as zero", 1e-5, low=0, high=0.1),
    ),
    base="member",
)

model_stock = Method(
    name="model_stock",
    about="Between base and mean, nearer to the mean the more the task vectors agree.",
    source="Jang et al. 2024, Model Stock, arXiv:2403.19522",
    formula=r"t \bar x + (1 - t) b, \; t = \frac{N c}{1 + (N - 1) c}, "
    r"\; c = \overline{\cos(d_i, d_j)}",
    combine=_model_stock,
    rounds=_rounds,
    params=(Param("filter_wise", "angles row by row", False, kind=bool),),
    base="required",
    least=2,
    scope=lambda params: "row" if params["filter_wise"] else "leaf",
)
