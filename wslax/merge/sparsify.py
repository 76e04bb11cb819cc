r"""Which entries of a task vector are kept: all, the largest, a band of magnitudes, random ones.

Each sparsifier says what it measures first and which entries it keeps; `wslax.merge.task_vectors`
rescales, weights and adds what is left. Thresholds are over one leaf, ranks over one row.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from wslax.merge.method import Each, Kth, Measure, Member, Param, Scope, over_leaf, over_rows
from wslax.random import uniform


class Sparsifier(NamedTuple):
    """A choice of entries.

    Attributes:
      keep: `(xp, member) -> bools`.
      rounds: what it measures first.
      params: its own parameters.
      random: whether it draws random words.
      scope: whether it looks along rows.
    """

    keep: Callable[[Any, Member], Any]
    rounds: Mapping[str, Measure] = {}
    params: tuple[Param, ...] = ()
    random: bool = False
    scope: Callable[[Mapping[str, Any]], Scope] = over_leaf


_DENSITY = Param(
    "density", "share of each task vector that is kept", 1.0, per="member", low=0, high=1
)


def _count(xp: Any, share: Any, size: int) -> Any:
    """`int(share * size)`, exact in float64 where the share is a Python number."""
    if isinstance(share, (int, float)):
        return int(share * size)
    # A leaf may be longer than the compute dtype counts exactly; 1 is all of it.
    return xp.where(share >= 1, size, xp.floor(share * size).astype("int32"))


def _last(xp: Any, some: Any, rank: Any, size: int) -> Any:
    """A rank, or one before the start where none is kept, or behind the end where all are."""
    return xp.where(some, xp.where(rank < size, rank, size + 1), 0)


def _magnitude(xp: Any, m: Member) -> Any:
    return xp.abs(m.delta)


def _keep_all(xp: Any, m: Member) -> Any:
    return xp.ones_like(m.x, dtype=bool)


def _largest(xp: Any, m: Member, size: int) -> tuple[Any]:
    """The rank of the least that is kept: `max(1, int(density * size))`."""
    density = m.params["density"]
    return (_last(xp, density > 0, xp.maximum(_count(xp, density, size), 1), size),)


def _keep_largest(xp: Any, m: Member) -> Any:
    (least,) = m.measured["threshold"]
    return xp.abs(m.delta) >= least


def _band(xp: Any, m: Member, size: int) -> tuple[Any, Any]:
    """The ranks of the least and the greatest that are kept.

    The `gamma` largest are dropped, fewer where otherwise less than the density were left.
    """
    kept = _count(xp, m.params["density"], size)
    outliers = xp.minimum(_count(xp, m.params["gamma"], size), size - kept)
    return _last(xp, kept > 0, outliers + kept, size), xp.where(outliers > 0, outliers + 1, 0)


def _keep_band(xp: Any, m: Member) -> Any:
    least, greatest = m.measured["band"]
    magnitude = xp.abs(m.delta)
    return (magnitude >= least) & (magnitude <= greatest)


def _drawn(xp: Any, m: Member) -> Any:
    return uniform(m.words("keep")) < xp.float32(m.params["density"])


def _drawn_by_rank(xp: Any, m: Member) -> Any:
    """Kept with a probability that rises with the rank in the row, density -/+ epsilon.

    An entry of rank r of n is kept where u < density - epsilon + 2 epsilon r / (n - 1). Solved for
    r, that asks whether it reaches the entry of a certain rank: rows are sorted, ranks never made.
    """
    magnitude = xp.abs(m.delta)
    last = magnitude.shape[-1] - 1
    u = uniform(m.words("keep"))
    density, epsilon = (xp.float32(m.params[name]) for name in ("density", "epsilon"))
    if last == 0:
        return u < density
    slope = last / xp.maximum(2 * epsilon, xp.float32(1e-30))
    rank = xp.floor((u - (density - epsilon)) * slope) + xp.float32(1)
    place = xp.clip(rank, xp.float32(0), xp.float32(last)).astype("int32")
    least = xp.take_along_axis(xp.sort(magnitude, axis=-1), place, axis=-1)
    kept = (magnitude >= least) & (rank <= last)
    return (kept & (density > 0)) | (density >= 1)


def _keep_drawn(xp: Any, m: Member) -> Any:
    return m.measured["kept"]


everything = Sparsifier(_keep_all)
largest = Sparsifier(_keep_largest, {"threshold": Kth(_magnitude, _largest)}, (_DENSITY,))
band = Sparsifier(
    _keep_band,
    {"band": Kth(_magnitude, _band)},
    (
        _DENSITY,
        Param("gamma", "share of largest entries dropped", 0.01, per="member", low=0, high=1),
    ),
)
at_random = Sparsifier(_keep_drawn, {"kept": Each(_drawn)}, (_DENSITY,), random=True)
ranked = Sparsifier(
    _keep_drawn,
    {"kept": Each(_drawn_by_rank)},
    (
        _DENSITY,
        Param("epsilon", "density's slack by rank in the row", 0.15, per="member", low=0, high=1),
    ),
    random=True,
    scope=over_rows,
)
