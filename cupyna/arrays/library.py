"""What cupyna asks of an array library."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from .device_array import DeviceArray

__all__ = ["Device", "Library", "View"]

View = np.ndarray | DeviceArray


@dataclass(frozen=True, slots=True)
class Device:
    """Where an array is: ``Device("cpu", 0)`` or ``Device("cuda", index)``."""

    kind: str
    index: int


class Library(Protocol):
    """One array library.

    A *carrier* is an array on which results are computed. For most libraries it is an array of
    their own; where it is not, `hand_back` turns it into one.
    """

    @property
    def name(self) -> str:
        """The library's import name."""

    def check(self, array: Any, argument: str) -> None:
        """Raise TypeError or ValueError for a kind of array that cannot be used."""

    def dtype(self, array: Any) -> str:
        """Name of the element type, as NumPy and ml_dtypes spell it."""

    def device(self, array: Any) -> Device:
        """Where the array is."""

    def view(self, array: Any) -> View:
        """The array's memory as a backend reads it, without a copy where layouts allow."""

    def empty(self, shape: tuple[int, ...], dtype: str, device: Device) -> Any:
        """An uninitialized carrier from the library's own pool."""

    def hand_back(self, carrier: Any, like: Any) -> Any:
        """The carrier as an array of the kind that the caller gave."""

    def stream(self, device: Device) -> int:
        """The caller's current stream on a CUDA device; 0 on a CPU."""

    def is_writable(self, array: Any) -> bool:
        """Whether results may be written into the caller's array."""
