"""`shrink`: an edit that keeps some units of groups, the inverse of `widen`."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from wslax import edit
from wslax.errors import WeightSpaceError, did_you_mean
from wslax.symmetry import layout
from wslax.symmetry.find import check_id
from wslax.symmetry.ranking import best, checked
from wslax.symmetry.taking import keeping
from wslax.symmetry.types import Group, Groups
from wslax.typing import Array


def _first(group: Group, size: int) -> np.ndarray:
    return np.arange(size)


def _uniform(group: Group, size: int) -> np.ndarray:
    if group.size % size == 0:
        return np.arange(size) * (group.size // size)
    return np.round(np.linspace(0, group.size - 1, size)).astype(int)


EVEN: dict[str, Callable[[Group, int], np.ndarray]] = {"first": _first, "uniform": _uniform}
SHRINK_METHODS = (*EVEN, "ranked")


def _checked(groups: Groups, sizes: Mapping[int, int], scores: Any, method: str) -> None:
    if method not in SHRINK_METHODS:
        raise WeightSpaceError(
            f"method {method!r} is unknown.{did_you_mean(method, SHRINK_METHODS)}"
        )
    if (method == "ranked") != (scores is not None):
        raise WeightSpaceError("scores go with method='ranked', which needs them for each group")
    for id, size in sizes.items():
        group = check_id(groups, id)
        if not 1 <= size <= group.size:
            raise WeightSpaceError(
                f"group {id} ({group.sites[0]}): has {group.size} units, expected 1 to "
                f"{group.size}, got {size}; `grow.widen` gives more"
            )
        if scores is not None and id not in scores:
            raise WeightSpaceError(f"group {id} ({group.sites[0]}): scores has no entry for it")


def shrink(
    groups: Groups,
    sizes: Mapping[int, int],
    *,
    scores: Mapping[int, Array] | None = None,
    method: str = "uniform",
    rescale: bool = False,
) -> edit.Edit:
    r"""Keep some units of groups: a small model that starts from the weights of a large one.

    - `"uniform"`: every k-th unit where the size divides, else units rounded from an even spacing
      of the first to the last; weight selection (arXiv:2311.18823).
    - `"first"`: the leading units, as the slices of a supernet.
    - `"ranked"`: the units of the highest scores, in their old order, and of equal ones the first;
      weight subcloning (arXiv:2312.09299), whose scores are the mean \(|{\rm activation}|\) of each
      unit over data.

    One choice a group, so that all leaves along a residual stream agree. The function is not kept:
    train on. Blocks are dropped by `deepen(groups, order, method="copy")`.

    Args:
      groups: of the large model.
      sizes: group id to the number of units to keep; static.
      scores: for `"ranked"`, group id to `[units]`, or `[*sizes of per, units]` for a choice of its
        own at each outer unit. May be traced.
      method: which units; default weight selection's.
      rescale: multiply consumed weights by \(\sqrt{\text{old size} / \text{new size}}\), which
        keeps the variance of sums over fewer units, as weight subcloning does; a leaf that is
        produced or elementwise along the same axis too (a tied embedding) is left as it is.

    Returns:
      An `Edit`. `apply` takes what `widen`'s takes; `optimizer_state` keeps the moments of the
      units that stay; `groups` are the small model's.

    Raises:
      WeightSpaceError: naming group and leaf, for an unknown or frozen group, more units than
        there are, scores that are missing or of another shape, or an unknown method.

    Example:
        >>> import numpy as np
        >>> from wslax import grow, symmetry
        >>> params = {"hidden": {"kernel": np.zeros((3, 8)), "bias": np.arange(8.0)},
        ...           "out": {"kernel": np.ones((8, 2)), "bias": np.zeros(2)}}
        >>> groups = symmetry.feed_forward(params, ["hidden", "out"])
        >>> small = grow.shrink(groups, {0: 4}).apply(params)
        >>> small["hidden"]["bias"].tolist(), small["out"]["kernel"].shape
        ([0.0, 2.0, 4.0, 6.0], (4, 2))
    """
    _checked(groups, sizes, scores, method)
    indices: dict[int, Array] = {}
    factors: dict[int, float] = {}
    now = groups
    for id, size in sizes.items():
        group = now.all[id]
        if scores is None:
            indices[id] = EVEN[method](group, size)
        else:
            indices[id] = best(checked(now, group, scores[id]), size)
        factors[id] = (group.size / size) ** 0.5 if rescale else 1.0
        now = layout.resize(now, {id: size})
    return keeping(groups, indices, factors)
