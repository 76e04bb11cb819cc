"""What a method of growing in width is: a check and a map, both of one group."""

from collections.abc import Callable
from typing import Any, NamedTuple

from wslax.symmetry.types import Group
from wslax.typing import Array, Key


class WidthMap(NamedTuple):
    r"""How the new units of one group come from the old ones, as data.

    A weight with role produced or elementwise becomes \(w'_j = a_j\, w_{i(j)}\), a consumed one
    \(w'_j = b_j\, w_{i(j)}\). Where the map keeps the function, a gradient moves by the transpose:
    \(g'_j = b_j\, g_{i(j)}\) for produced and elementwise, \(g'_j = a_j\, g_{i(j)}\) for consumed.

    Attributes:
      index: \(i\), integers `[new size]` into the old units.
      in_scale: \(a\), `[new size]`, or None for ones.
      out_scale: \(b\), `[new size]`, or None for ones.
    """

    index: Array
    in_scale: Array | None
    out_scale: Array | None


class Method(NamedTuple):
    """A way to widen a group.

    Attributes:
      name: what `widen(method=...)` says.
      check: `(group, new size) -> None`; raises with the reason where the group cannot be widened
        by this method.
      width_map: `(group, new size, key, xp) -> WidthMap` of arrays of `xp` (`numpy` or
        `jax.numpy`); the key may be traced under the latter.
      reference: where it is published.
    """

    name: str
    check: Callable[[Group, int], None]
    width_map: Callable[[Group, int, Key, Any], WidthMap]
    reference: str
