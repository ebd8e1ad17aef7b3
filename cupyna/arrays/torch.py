"""torch tensors, on a CPU through NumPy views and on a GPU by address."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from .device_array import DeviceArray
from .host import host_dtype
from .library import Device, View

__all__ = ["TORCH"]


class TorchLibrary:
    """Tensors of torch, on its current stream and from its caching allocator."""

    name = "torch"

    def check(self, array: torch.Tensor, argument: str) -> None:
        if array.layout is not torch.strided or array.device.type not in ("cpu", "cuda"):
            raise TypeError(
                f"{argument} must be a dense tensor on a CPU or CUDA device, "
                f"got layout {array.layout} on {array.device}"
            )
        if array.requires_grad and torch.is_grad_enabled():
            raise ValueError(
                f"{argument} requires a gradient, which this function does not record; "
                f"use the functions of cupyna.torch, or pass {argument}.detach()"
            )

    def dtype(self, array: torch.Tensor) -> str:
        return str(array.dtype).removeprefix("torch.")

    def device(self, array: torch.Tensor) -> Device:
        if array.device.type == "cpu":
            return Device("cpu", 0)
        index = array.device.index
        return Device("cuda", torch.cuda.current_device() if index is None else index)

    def view(self, array: torch.Tensor) -> View:
        array = array.detach()
        if array.device.type == "cuda":
            return DeviceArray(
                array.data_ptr(),
                tuple(array.shape),
                tuple(array.stride()),
                self.dtype(array),
                self.device(array).index,
            )
        if array.dtype is torch.bfloat16:
            # NumPy and torch share no bfloat16: the bits travel as integers.
            bits: np.ndarray = array.view(torch.uint16).numpy()
            return bits.view(host_dtype("bfloat16"))
        return np.asarray(array.numpy())

    def empty(self, shape: tuple[int, ...], dtype: str, device: Device) -> torch.Tensor:
        place = "cpu" if device.kind == "cpu" else f"cuda:{device.index}"
        return torch.empty(shape, dtype=getattr(torch, dtype), device=place)

    def hand_back(self, carrier: torch.Tensor, like: Any) -> torch.Tensor:
        return carrier

    def stream(self, device: Device) -> int:
        if device.kind == "cpu":
            return 0
        return int(torch.cuda.current_stream(device.index).cuda_stream)

    def is_writable(self, array: torch.Tensor) -> bool:
        return True


TORCH = TorchLibrary()
