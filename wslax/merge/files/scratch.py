"""Buffers that a thread uses again and again."""

import threading
from typing import Any

import numpy as np


class Scratch(threading.local):
    """Buffers of one thread, by use and dtype."""

    def __init__(self) -> None:
        self.buffers: dict[Any, np.ndarray] = {}

    def get(self, use: Any, dtype: np.dtype, size: int) -> np.ndarray:
        """`size` elements that hold anything."""
        buffer = self.buffers.get((use, dtype))
        if buffer is None or buffer.size < size:
            buffer = self.buffers[use, dtype] = np.empty(size, dtype)
        return buffer[:size]


scratch = Scratch()
