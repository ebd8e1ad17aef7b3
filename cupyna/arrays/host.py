"""NumPy arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from .library import Device

__all__ = ["NUMPY", "host_dtype"]

CPU = Device("cpu", 0)


def host_dtype(name: str) -> np.dtype:
    """The NumPy dtype of a type name; bfloat16 comes from ml_dtypes."""
    if name == "bfloat16":
        import ml_dtypes

        bfloat16: np.dtype = np.dtype(ml_dtypes.bfloat16)
        return bfloat16
    return np.dtype(name)


class NumpyLibrary:
    """Arrays in, arrays out; no conversion."""

    name = "numpy"

    def check(self, array: np.ndarray, argument: str) -> None:
        if isinstance(array, np.ma.MaskedArray):
            raise TypeError(
                f"{argument} is a masked array, whose mask would be ignored; "
                f"pass a plain array, for instance {argument}.filled(0)"
            )
        if not array.dtype.isnative:
            raise TypeError(
                f"{argument} has foreign byte order {array.dtype.str!r}; "
                f"pass {argument}.astype({argument}.dtype.newbyteorder('='))"
            )

    def dtype(self, array: np.ndarray) -> str:
        return array.dtype.name

    def device(self, array: np.ndarray) -> Device:
        return CPU

    def view(self, array: np.ndarray) -> np.ndarray:
        return np.asarray(array)

    def empty(self, shape: tuple[int, ...], dtype: str, device: Device) -> np.ndarray:
        return np.empty(shape, host_dtype(dtype))

    def hand_back(self, carrier: np.ndarray, like: Any) -> Any:
        return carrier

    def stream(self, device: Device) -> int:
        return 0

    def is_writable(self, array: np.ndarray) -> bool:
        return bool(array.flags.writeable)


NUMPY = NumpyLibrary()
