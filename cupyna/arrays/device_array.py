"""An array in GPU memory as a kernel sees it: where it is, and how it is laid out."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["DeviceArray"]


@dataclass(frozen=True, slots=True)
class DeviceArray:
    """A view of GPU memory that some library owns.

    Parameters
    ----------
    pointer : int
        Address of the first element.
    shape : tuple of int
    strides : tuple of int
        In elements, not bytes.
    dtype : str
        Name of the element type.
    device : int
        CUDA device that holds the memory.
    """

    pointer: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str
    device: int

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)
