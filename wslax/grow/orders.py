"""Which old block each block of a deeper model comes from, by method."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from wslax.errors import WeightSpaceError, did_you_mean


class Layer(NamedTuple):
    """Where one block of the new model comes from.

    Attributes:
      sources: the old block it copies, or the two it is the mean of.
      new: whether it is a block more: not the first that copies its source.
      zero: whether its last projections onto the stream are zero.
    """

    sources: tuple[int, ...]
    new: bool
    zero: bool


def _spread(old: int, depth: int) -> list[int]:
    return [i * old // depth for i in range(depth)]


def _stack(old: int, depth: int) -> list[int]:
    return [i % old for i in range(depth)]


def _solar(old: int, depth: int) -> list[int]:
    if depth % 2 or depth > 2 * old:
        raise WeightSpaceError(
            f"depth {depth}: two copies of {old} blocks, the last m of one and the first m of the "
            f"other left out, make an even number of at most {2 * old} blocks"
        )
    return [*range(depth // 2), *range(old - depth // 2, old)]


ORDERS: dict[str, Callable[[int, int], list[int]]] = {
    "identity": _spread,
    "copy": _spread,
    "stack": _stack,
    "solar": _solar,
}
DEPTH_METHODS = (*ORDERS, "mean")


def _means(old: int, depth: int) -> tuple[Layer, ...]:
    """The old blocks with means of neighbours in `depth - old` of the gaps, spread evenly."""
    if depth > 2 * old - 1:
        raise WeightSpaceError(
            f"depth {depth}: {old} blocks have {old - 1} gaps for a mean of neighbours, so at most "
            f"{2 * old - 1} blocks come out; deepen twice for more"
        )
    gaps = {(2 * i + 1) * (old - 1) // (2 * (depth - old)) for i in range(depth - old)}
    layers: list[Layer] = []
    for i in range(old):
        layers.append(Layer((i,), new=False, zero=False))
        if i in gaps:
            layers.append(Layer((i, i + 1), new=True, zero=False))
    return tuple(layers)


def layers(old: int, depth: int | Sequence[int], method: str) -> tuple[Layer, ...]:
    """The blocks of the new model.

    Args:
      old: the number of blocks there are.
      depth: the number there shall be, or which old block each copies.
      method: one of `DEPTH_METHODS`.

    Returns:
      One entry a new block.

    Raises:
      WeightSpaceError: for an unknown method, a depth it cannot make, or an order it does not take.
    """
    if method not in DEPTH_METHODS:
        raise WeightSpaceError(
            f"method {method!r} is unknown.{did_you_mean(method, DEPTH_METHODS)}"
        )
    if isinstance(depth, int):
        if depth < old:
            raise WeightSpaceError(
                f"depth {depth}: there are {old} blocks, expected at least that; to drop some, say "
                f"which stay, as in {_spread(old, max(depth, 1))} with method='copy'"
            )
        if method == "mean":
            return _means(old, depth)
        order = ORDERS[method](old, depth)
    else:
        order = list(depth)
        if method not in ("identity", "copy"):
            raise WeightSpaceError(
                f"method {method!r} makes its own order; an order goes with 'identity' or 'copy'"
            )
        if not order or not all(i in range(old) for i in order):
            raise WeightSpaceError(f"order: blocks are 0 to {old - 1}, got {order}")
    new = [i in order[:k] for k, i in enumerate(order)]
    zero = method == "identity"
    if zero and [i for i, again in zip(order, new, strict=True) if not again] != [*range(old)]:
        raise WeightSpaceError(
            f"order {order}: method 'identity' keeps the function, so each of the {old} blocks "
            "comes once before its copies and in the old order; method='copy' takes any order"
        )
    pairs = zip(order, new, strict=True)
    return tuple(Layer((i,), again, zero and again) for i, again in pairs)
