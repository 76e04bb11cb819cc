"""Structured pruning adapters: changes that lose rows and columns as their base does."""

from typing import Any

from wslax.adapt.blocks import check_divides
from wslax.adapt.leafwise import Parts, leafwise
from wslax.adapt.leaves import whole
from wslax.adapt.low_rank import check_number, draws
from wslax.adapter import Adapter
from wslax.symmetry.types import Groups
from wslax.trace import Kronecker, LowRank
from wslax.typing import Key, Params, Where


def splora(
    rank: int = 16, *, init_range: float = 1e-4, where: Where = None, groups: Groups | None = None
) -> Adapter:
    r"""SPLoRA: \(W + D U\), a thin product that is pruned together with its base.

    As `lora` without a scale, and with a start near zero instead of at zero. `train` holds `down`
    `[in, rank]`, uniform within \(1/\sqrt{in \cdot r}\) as in the authors' code, and `up` `[rank,
    out]` within `init_range`. When units are pruned, `take` slices the rows of `down` and the
    columns of `up`; importance is measured on the adapted weight, `fuse(params, train, fixed)`. The
    authors train biases too.

    Args:
      rank: r, static (16, the authors'); pruning may leave fewer units than that.
      init_range: of `up` (1e-4, the authors'); 0 begins at the base exactly.
      where: globs of the leaves to adapt; by default all that are matrices of floats.
      groups: the model's symmetry, for leaves in other layouts than `[in, out]`.

    Returns:
      The adapter.

    Raises:
      WeightSpaceError: if the rank is below 1; from `init`, if a leaf is no matrix; from `apply`
        and `fuse`, if parts do not fit the model's leaves.

    References:
      Hedegaard et al. 2022, "Structured Pruning Adapters", arXiv:2211.10155, section 4.

    Example:
        >>> import jax, numpy as np
        >>> params, adapter = {"w": np.ones((6, 4), np.float32)}, splora(2)
        >>> train, fixed = adapter.init(jax.random.key(0), params)
        >>> float(abs(adapter.fuse(params, train, fixed)["w"] - 1).max()) < 1e-3
        True
    """
    check_number(rank)

    def start(key: Key, name: str, leaf: Any) -> tuple[Parts, Parts]:
        (rows, columns), draw = leaf.shape, draws(key, name, leaf)
        return {
            "down": draw("down", (rows, rank), (rows * rank) ** -0.5),
            "up": draw("up", (rank, columns), init_range),
        }, {}

    return leafwise(
        start, lambda leaf, parts: LowRank(leaf, parts["down"], parts["up"]), where, groups
    )


def sppara(*, init_range: float = 1e-4, where: Where = None) -> Adapter:
    r"""SPPaRA: \(W + C\) with a whole \(C\) that is pruned together with its base.

    As `whole`, with a start near zero: `train` holds `change` of the leaf's shape, uniform
    within `init_range`; `take` slices it. The authors' \(C\) is that of the centre of a
    convolution's kernel alone.

    Args:
      init_range: of the start (1e-4, the authors'); 0 begins at the base exactly.
      where: globs of the leaves to train; by default all of floats, of any shape.

    Returns:
      The adapter.

    Raises:
      WeightSpaceError: from `init`, if a leaf is not of floats; from `apply` and `fuse`, if parts
        do not fit the model's leaves.

    References:
      Hedegaard et al. 2022, "Structured Pruning Adapters", arXiv:2211.10155, section 4.

    Example:
        >>> import jax, numpy as np
        >>> train, _ = sppara().init(jax.random.key(0), {"w": np.ones((6, 4), np.float32)})
        >>> bool(0 < abs(train["w"]["change"]).max() < 1e-4)
        True
    """
    plain = whole(where=where)

    def init(key: Key, params: Params) -> tuple[Any, Any]:
        train, fixed = plain.init(key, params)
        begun = lambda name, x: draws(key, name, x)("change", x.shape, init_range)
        return {name: {"change": begun(name, x["change"])} for name, x in train.items()}, fixed

    return plain._replace(init=init)


def splopa(
    count: int = 64,
    block: tuple[int, int] = (32, 32),
    *,
    rank: int = 1,
    init_range: float = 1e-4,
    where: Where = None,
    groups: Groups | None = None,
) -> Adapter:
    r"""SPLoPA: \(W + \sum_k P_k \otimes D_k U_k\), low-rank blocks weighted by position.

    `train` holds `places` `[count, in / a, out / b]`, the \(P_k\), uniform within one over the
    root of the number of blocks, `prototype_down` `[count, a, rank]` within
    \(1/\sqrt{a \cdot rank}\), and `prototype_up` `[count, rank, b]` within `init_range`, as in the
    authors' code. Each leaf has prototypes of its own; by the authors' default layers share them.

    Args:
      count: how many prototypes, static (64, the authors').
      block: a and b, static; they divide inputs and outputs (32 each, the authors').
      rank: of a prototype, static (1, the authors').
      init_range: of `prototype_up` (1e-4, the authors'); 0 begins at the base exactly.
      where: globs of the leaves to adapt; by default all that are matrices of floats.
      groups: the model's symmetry, for leaves in other layouts than `[in, out]`.

    Returns:
      The adapter.

    Raises:
      WeightSpaceError: from `init`, if a leaf is no matrix or blocks do not fill it; from `apply`
        and `fuse`, if parts do not fit the model's leaves.

    References:
      Hedegaard, "Structured Pruning Adapters", https://github.com/LukasHedegaard/
      structured-pruning-adapters, `splopa.py`; no paper describes it.

    Example:
        >>> import jax, numpy as np
        >>> adapter = splopa(3, (2, 4))
        >>> train, _ = adapter.init(jax.random.key(0), {"w": np.ones((6, 8), np.float32)})
        >>> {name: part.shape for name, part in train["w"].items()}
        {'places': (3, 3, 2), 'prototype_down': (3, 2, 1), 'prototype_up': (3, 1, 4)}
    """
    a, b = block

    def start(key: Key, name: str, leaf: Any) -> tuple[Parts, Parts]:
        check_divides(a, name, leaf, 0)
        check_divides(b, name, leaf, 1)
        places = (count, leaf.shape[0] // a, leaf.shape[1] // b)
        fan = places[1] * places[2]
        draw = draws(key, name, leaf)
        return {
            "places": draw("places", places, fan**-0.5),
            "prototype_down": draw("prototype_down", (count, a, rank), (a * rank) ** -0.5),
            "prototype_up": draw("prototype_up", (count, rank, b), init_range),
        }, {}

    def change(leaf: Any, parts: Parts) -> Kronecker:
        return Kronecker(leaf, parts["places"], parts["prototype_down"] @ parts["prototype_up"])

    return leafwise(start, change, where, groups)
