"""Arrays of any other library, by DLPack: read in place, results handed back as its own kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .host import NUMPY
from .library import Device, Library, View

__all__ = ["DlpackLibrary"]

# Device types of the DLPack specification.
_CPU_TYPES = (1, 3)  # kDLCPU, kDLCUDAHost
_CUDA_TYPES = (2, 13)  # kDLCUDA, kDLCUDAManaged


@dataclass(frozen=True, slots=True)
class DlpackLibrary:
    """A library known by its array API namespace.

    Its arrays are seen, and its results are computed, through NumPy on a CPU and CuPy on a GPU.
    """

    name: str
    namespace: Any

    @classmethod
    def of(cls, array: Any, argument: str) -> DlpackLibrary:
        """The library of an array that speaks DLPack."""
        name = type(array).__module__.partition(".")[0]
        if not hasattr(array, "__array_namespace__"):
            raise TypeError(
                f"{argument} is a {name} array without __array_namespace__, so no result of its "
                "kind can be made; convert it with numpy.from_dlpack or cupy.from_dlpack"
            )
        return cls(name, array.__array_namespace__())

    def check(self, array: Any, argument: str) -> None:
        kind, _ = array.__dlpack_device__()
        if int(kind) not in _CPU_TYPES + _CUDA_TYPES:
            raise TypeError(
                f"{argument} must be on a CPU or CUDA device, got DLPack device type {int(kind)}"
            )
        carrier = self._carrier(array)
        self._carriers(self.device(array)).check(carrier, argument)

    def dtype(self, array: Any) -> str:
        return str(getattr(array.dtype, "name", array.dtype)).rpartition(".")[2]

    def device(self, array: Any) -> Device:
        kind, index = array.__dlpack_device__()
        return Device("cpu", 0) if int(kind) in _CPU_TYPES else Device("cuda", int(index))

    def view(self, array: Any) -> View:
        return self._carriers(self.device(array)).view(self._carrier(array))

    def empty(self, shape: tuple[int, ...], dtype: str, device: Device) -> Any:
        return self._carriers(device).empty(shape, dtype, device)

    def hand_back(self, carrier: Any, like: Any) -> Any:
        if isinstance(carrier, np.ndarray):
            # A copy: NumPy exports no bfloat16, and a JAX process that holds NumPy's memory by
            # DLPack may wait at its exit for ever.
            return self.namespace.asarray(carrier)
        return self.namespace.from_dlpack(carrier)

    def stream(self, device: Device) -> int:
        return self._carriers(device).stream(device)

    def is_writable(self, array: Any) -> bool:
        return False

    def _carriers(self, device: Device) -> Library:
        if device.kind == "cpu":
            return NUMPY
        from .cupy import CUPY

        return CUPY

    def _carrier(self, array: Any) -> Any:
        if isinstance(array, np.ndarray):
            return array
        if self.device(array).kind == "cuda":
            import cupy

            return cupy.from_dlpack(array)
        try:
            return np.from_dlpack(array)
        except (BufferError, RuntimeError, TypeError):
            return np.asarray(array)
