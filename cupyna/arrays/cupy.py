"""CuPy arrays."""

from __future__ import annotations

from typing import Any

import cupy

from .device_array import DeviceArray
from .host import host_dtype
from .library import Device

__all__ = ["CUPY"]


class CupyLibrary:
    """Arrays of CuPy, on its current stream and from its memory pool."""

    name = "cupy"

    def check(self, array: Any, argument: str) -> None:
        if not array.dtype.isnative:
            raise TypeError(f"{argument} has foreign byte order {array.dtype.str!r}")

    def dtype(self, array: Any) -> str:
        return str(array.dtype.name)

    def device(self, array: Any) -> Device:
        return Device("cuda", array.device.id)

    def view(self, array: Any) -> DeviceArray:
        size = array.itemsize
        if array.data.ptr % size or any(stride % size for stride in array.strides):
            # A field of a packed record: no kernel addresses its elements by whole strides.
            with array.device:
                array = cupy.ascontiguousarray(array)
        strides = tuple(stride // size for stride in array.strides)
        return DeviceArray(
            array.data.ptr, tuple(array.shape), strides, self.dtype(array), array.device.id
        )

    def empty(self, shape: tuple[int, ...], dtype: str, device: Device) -> Any:
        with cupy.cuda.Device(device.index):
            return cupy.empty(shape, host_dtype(dtype))

    def hand_back(self, carrier: Any, like: Any) -> Any:
        return carrier

    def stream(self, device: Device) -> int:
        with cupy.cuda.Device(device.index):
            return int(cupy.cuda.get_current_stream().ptr)

    def is_writable(self, array: Any) -> bool:
        return True


CUPY = CupyLibrary()
