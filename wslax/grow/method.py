"""What a method of growing in width is: a check and a map, both of one group."""

from collections.abc import Callable
from typing import Any, NamedTuple

from wslax.symmetry.types import Group
from wslax.typing import Array, Key


class Fill(NamedTuple):
    """What the last units of a group get, which come from no old one.

    A word for each role: `"zero"`; `"mean"`, the mean over the old units; `"fresh"`, normal numbers
    with the root mean square of the leaf's old entries. Gains of norms get the mean.

    Attributes:
      count: how many such units.
      produced: for incoming weights.
      elementwise: for biases, scales and statistics.
      consumed: for outgoing weights.
    """

    count: int
    produced: str = "fresh"
    elementwise: str = "mean"
    consumed: str = "zero"


class WidthMap(NamedTuple):
    r"""How the new units of one group come from the old ones, as data.

    A weight with role produced or elementwise becomes \(w'_j = a_j\, w_{i(j)}\), a consumed one
    \(w'_j = b_j\, w_{i(j)}\), the gain of a norm \(w'_j = \gamma\, w_{i(j)}\).

    Attributes:
      index: \(i\), integers `[m]` into the old units, which come first and in their order.
      in_scale: \(a\), `[m]`, or None for ones.
      out_scale: \(b\), `[m]`, or None for ones.
      fill: the `new size - m` units after these, or None for none.
      gain: \(\gamma\).
      opposite: for units whose activations are contracted with each other: the word for the
        produced weights of the other side, where `fill.produced` is that of the first.
    """

    index: Array
    in_scale: Array | None = None
    out_scale: Array | None = None
    fill: Fill | None = None
    gain: float = 1.0
    opposite: str | None = None


class Method(NamedTuple):
    """A way to widen a group.

    Attributes:
      name: what `widen(method=...)` says.
      check: `(group, new size) -> None`; raises with the reason where the group cannot be widened
        by this method.
      width_map: `(group, new size, key, xp) -> WidthMap` of arrays of `xp` (`numpy` or
        `jax.numpy`); the key may be traced under the latter.
      reference: where it is published.
      exact: whether the function stays where `check` passes and there is no noise.
      noise: where noise goes that tells copies apart. `"produced"`: incoming weights of new units
        are multiplied by `1 + noise z`. `"consumed"`: `noise rms z` is added to the outgoing
        weights of copies, less its mean over the copies of a unit, so that the function stays.
        None: the method takes none.
    """

    name: str
    check: Callable[[Group, int], None]
    width_map: Callable[[Group, int, Key, Any], WidthMap]
    reference: str
    exact: bool = True
    noise: str | None = None
