"""Which tensors of an unfinished output are whole, so that a stopped merge can go on."""

import json
import os
import pathlib
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, TextIO

from wslax.errors import WeightSpaceError
from wslax.io.writer import Place, TensorWriter
from wslax.merge.files.stream import Check

_PIECE = 1 << 22  # bytes read at a time to check a tensor


class Journal(NamedTuple):
    """A line that says when the inputs changed last, and one for every tensor that was written.

    Attributes:
      file: open for more lines.
      found: what earlier runs wrote down.
    """

    file: TextIO
    found: dict[str, Check]

    def add(self, name: str, check: Check) -> None:
        """Write a tensor down."""
        self.file.write(json.dumps({"name": name, **check._asdict()}) + "\n")
        self.file.flush()

    def verified(self, writer: TensorWriter) -> dict[str, Check]:
        """Those whose bytes, read again, have the checksum that was written down."""
        return {
            name: check
            for name, check in self.found.items()
            if name in writer.places and _crc32(writer.places[name]) == check.crc32
        }


def _crc32(place: Place) -> int:
    found, position, end = 0, place.offset, place.offset + place.spec.nbytes
    while position < end:
        data = os.pread(place.descriptor, min(_PIECE, end - position), position)
        if not data:
            return -1
        found, position = zlib.crc32(data, found), position + len(data)
    return found


def _check_of(line: str) -> tuple[str, Check] | None:
    """A line's tensor; None for one that a kill cut short."""
    try:
        row: Any = json.loads(line)
        check = Check(int(row["crc32"]), float(row["square"]), tuple(map(float, row["distances"])))
        return str(row["name"]), check
    except (ValueError, TypeError, KeyError):
        return None


@contextmanager
def open_journal(
    partial: pathlib.Path, resume: bool, changed: Mapping[str, int]
) -> Iterator[Journal]:
    """The journal of an output at its temporary name; it goes when the output is whole.

    Args:
      partial: the output's temporary name.
      resume: read what earlier runs wrote down, and keep the journal on an error.
      changed: when each input was changed last.

    Raises:
      WeightSpaceError: if one was changed since.
    """
    path = partial.with_name(partial.name + ".journal")
    kept = resume and path.exists() and partial.exists()
    lines = path.read_text("utf-8", "replace").splitlines() if kept else []
    begun = json.dumps(changed)
    if lines and lines[0] != begun:
        raise WeightSpaceError(f"{partial}: its inputs have changed; remove it to start anew")
    path.parent.mkdir(parents=True, exist_ok=True)
    found = dict(entry for entry in map(_check_of, lines[1:]) if entry is not None)
    done = False
    with path.open("a" if lines else "w", encoding="utf-8") as file:
        file.write("\n" if lines else begun + "\n")  # a kill may have cut the last line short
        file.flush()
        try:
            yield Journal(file, found)
            done = True
        finally:
            if done or not resume:
                path.unlink(missing_ok=True)
