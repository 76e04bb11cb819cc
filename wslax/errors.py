"""The one error type, and the sentence that proposes what was meant."""

import difflib
from collections.abc import Iterable

_LONGEST = 3000  # letters of a message


class WeightSpaceError(ValueError):
    """Bad input, named before any work: which leaf, what was expected, what came, what to do.

    Example:
        >>> import wslax as ws
        >>> raise ws.WeightSpaceError("dense/kernel: expected [4, 2], got [2, 4]")
        Traceback (most recent call last):
        ...
        wslax.errors.WeightSpaceError: dense/kernel: expected [4, 2], got [2, 4]
    """

    def __init__(self, message: str) -> None:
        """Keep the message printable: of bearable length and of letters that are characters.

        What is named may come from a file, which may hold anything.
        """
        if len(message) > _LONGEST:
            message = f"{message[:_LONGEST]} ... and {len(message) - _LONGEST:,} letters more"
        super().__init__(message.encode("utf-8", "backslashreplace").decode())


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A sentence that names the nearest of `known`, or lists them when nothing is near.

    Args:
      word: what was given.
      known: what would have been right.

    Returns:
      `" Did you mean 'ties'?"`, `" Known: 'a', 'b'."`, or `""` when nothing is known. At most ten
      known words are listed.

    Example:
        >>> did_you_mean("teis", ["linear", "ties"])
        " Did you mean 'ties'?"
    """
    known = list(known)
    near = difflib.get_close_matches(word, known, n=1)
    if near:
        return f" Did you mean {near[0]!r}?"
    if not known:
        return ""
    more = f", and {len(known) - 10} more" if len(known) > 10 else ""
    return f" Known: {', '.join(map(repr, known[:10]))}{more}."
