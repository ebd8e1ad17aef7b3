"""Memory that a thread uses again for every tile.

Fresh arrays of a tile's size come from the operating system and go back to it: each page is mapped,
cleared and unmapped under one lock for all threads, which costs more than the arithmetic.
"""

from __future__ import annotations

import threading
from math import prod

import numpy as np

__all__ = ["Scratch"]


class Scratch(threading.local):
    """Named arrays of one call, for each thread its own; they hold whatever was left in them."""

    def __init__(self) -> None:
        self._buffers: dict[str, np.ndarray] = {}

    def array(self, name: str, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        """An uninitialized array; it lives until the next one of that name."""
        size = prod(shape)
        buffer = self._buffers.get(name)
        if buffer is None or buffer.size < size:
            buffer = self._buffers[name] = np.empty(size, dtype)
        return buffer[:size].reshape(shape)
