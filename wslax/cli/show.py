"""What commands show alike: sizes, and a bar while they work."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


def size(count: int) -> str:
    """A number of bytes for reading.

    Example:
        >>> size(2_500_000), size(1200)
        ('2 MB', '1 kB')
    """
    return f"{count / 1e6:,.0f} MB" if count >= 1e6 else f"{count / 1e3:,.0f} kB"


@contextmanager
def bar(total: int, what: str) -> Iterator[Callable[[int], None] | None]:
    """A bar on stderr, to be told the bytes done; None where stderr is no terminal.

    Example:
        >>> with bar(10, "diff") as tell:
        ...     tell is None or tell(10)
        True
    """
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

    columns = (BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda done: progress.advance(task, done)
