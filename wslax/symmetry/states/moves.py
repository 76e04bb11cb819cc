"""How an edit moves what is shaped like the parameters, for optimizer states."""

from collections.abc import Callable
from typing import Any, NamedTuple


class Moves(NamedTuple):
    r"""One edit as seen by what is shaped like its parameters.

    Where an entry of a weight becomes \(w' = s\,w\), the gradient of the new model there is
    \(g' = t\,g\): for a unit with \(c\) copies, \(s = 1, t = 1/c\) at its incoming weights and
    \(s = 1/c, t = 1\) at its outgoing ones.

    Attributes:
      names: canonical names of the leaves that the edit changes.
      carry: `(tree, *, weight=0, gradient=0, old_only=False) -> tree`: the tree of the new model,
        entries multiplied by \(s^{weight}\,t^{gradient}\). Weights are `weight=1`, what scales as
        the k-th power of a gradient is `gradient=k`. Entries that stem from no old one are zero
        unless they are weights; with `old_only` those of every unit or layer that the edit adds
        are zero, copies too.
    """

    names: frozenset[str]
    carry: Callable[..., Any]
