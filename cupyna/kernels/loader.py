"""Row + device -> a kernel that is ready to launch."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

from .device import device_spec
from .variant import STATIC_SMEM_BYTES, Variant, architecture_of

__all__ = ["Kernel", "load"]

# A block gets this much without asking.
_DEFAULT_SMEM_BYTES = 48 * 1024

# Cubins of CUDA 13 load on its first driver, 580, and on every later one.
_MINIMUM_CUDA = 13000

_lock = threading.Lock()
_kernels: dict[tuple[Variant, int], Kernel] = {}


@dataclass(frozen=True, slots=True)
class Kernel:
    """One kernel in the memory of one device.

    Parameters
    ----------
    variant : Variant
    device : int
        CUDA device ordinal.
    function : cupy.cuda.function.Function
        Its attributes are set.
    """

    variant: Variant
    device: int
    function: Any


def load(variant: Variant, device: int) -> Kernel:
    """Load a kernel once on each device, compiling it first if there is no cubin.

    Call this before a CUDA graph is captured: loading is not a stream operation.

    Parameters
    ----------
    variant : Variant
    device : int
        CUDA device ordinal.

    Raises
    ------
    ValueError
        If no architecture of `variant` runs on the device, or it has too little shared memory.
    RuntimeError
        If the driver is too old, or the cubin is missing and cannot be compiled.
    """
    kernel = _kernels.get((variant, device))
    if kernel is not None:
        return kernel
    with _lock:
        kernel = _kernels.get((variant, device))
        if kernel is None:
            kernel = Kernel(variant, device, _function(variant, device))
            _kernels[variant, device] = kernel
    return kernel


def _function(variant: Variant, device: int) -> Any:
    import cupy

    from .modules import ready_module

    spec = device_spec(device)
    arch = architecture_of(variant, spec.compute_capability)
    smem_bytes = variant.smem_bytes
    if variant.is_elastic:
        smem_bytes = min(smem_bytes, spec.smem_bytes - STATIC_SMEM_BYTES)
    if smem_bytes > spec.smem_bytes:
        raise ValueError(
            f"{variant.symbol} needs {variant.smem_bytes} bytes of shared memory for a block, and "
            f"{spec.name} has {spec.smem_bytes}"
        )
    cuda = cupy.cuda.runtime.driverGetVersion()
    if cuda < _MINIMUM_CUDA:
        raise RuntimeError(
            f"the NVIDIA driver supports CUDA {_dotted(cuda)}, and the kernels need "
            f"{_dotted(_MINIMUM_CUDA)}: install driver 580 or newer"
        )
    module = ready_module(variant, arch, spec.compute_capability)
    with cupy.cuda.Device(device):
        kernel = module.get_function(variant.symbol)
        if smem_bytes > _DEFAULT_SMEM_BYTES:
            kernel.max_dynamic_shared_size_bytes = smem_bytes
        return kernel.kernel


def _dotted(cuda: int) -> str:
    return f"{cuda // 1000}.{cuda % 1000 // 10}"
