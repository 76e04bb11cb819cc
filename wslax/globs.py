"""Globs over leaf names."""

import fnmatch
from collections.abc import Sequence

from wslax.errors import WeightSpaceError, did_you_mean


def matches(name: str, glob: str) -> bool:
    """Whether a glob picks a leaf name; `.` and `/` are one separator, `*` crosses it.

    Example:
        >>> matches("model.layers.0.weight", "*/weight"), matches("a/b", "a")
        (True, False)
    """
    return fnmatch.fnmatchcase(name.replace(".", "/"), glob.replace(".", "/"))


def hashable(where: str | Sequence[str] | None) -> str | tuple[str, ...] | None:
    """Globs as a static value, for what is compiled once for equal ones.

    Example:
        >>> hashable(["a/*", "b"])
        ('a/*', 'b')
    """
    return where if where is None or isinstance(where, str) else tuple(where)


def pick(names: Sequence[str], where: str | Sequence[str] | None) -> tuple[bool, ...]:
    """Which names a glob or a list of globs picks.

    Args:
      names: leaf names.
      where: a glob, several (any may match), or None for all.

    Returns:
      One bool a name.

    Raises:
      WeightSpaceError: if a glob picks nothing; the sentence lists near names.

    Example:
        >>> pick(["a/kernel", "a/bias"], "*/kernel")
        (True, False)
    """
    if where is None:
        return (True,) * len(names)
    globs = [where] if isinstance(where, str) else list(where)
    for glob in globs:
        if not any(matches(name, glob) for name in names):
            raise WeightSpaceError(f"where={glob!r} picks no leaf.{did_you_mean(glob, names)}")
    return tuple(any(matches(name, glob) for glob in globs) for name in names)
