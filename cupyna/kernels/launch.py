"""The one place that launches a kernel."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from cupy.cuda import Device
from cupy.cuda.function import CPointer
from cupy.cuda.runtime import getDevice

from .loader import Kernel

__all__ = ["Stream", "kept_launches", "launch", "launches_kept_back"]


class Stream:
    """A raw stream handle, with the one attribute that CuPy's launch reads."""

    __slots__ = ("ptr",)

    def __init__(self, ptr: int) -> None:
        self.ptr = ptr


_keeper = threading.local()


@contextmanager
def launches_kept_back(take: Callable[..., None]) -> Iterator[None]:
    """Hand every launch of this thread to `take`, with its arguments, instead of queueing it."""
    _keeper.take = take
    try:
        yield
    finally:
        del _keeper.take


def kept_launches(run: Callable[[], None], stream_ptr: int) -> Callable[[], None]:
    """What queues the launches of `run` again, without what they cost to prepare.

    Parameters
    ----------
    run : callable
        Called once; none of its launches is queued.
    stream_ptr : int
        Raw ``cudaStream_t`` on which they are queued.
    """
    kept: list[tuple[Any, ...]] = []
    with launches_kept_back(lambda *launched: kept.append(launched)):
        run()

    def queue() -> None:
        for kernel, grid, block, smem_bytes, params in kept:
            launch(kernel, grid, block, smem_bytes, stream_ptr, params)

    return queue


def launch(
    kernel: Kernel,
    grid: tuple[int, ...],
    block: tuple[int, ...],
    smem_bytes: int,
    stream_ptr: int,
    params: np.ndarray[Any, Any],
) -> None:
    """Queue one kernel, whose only argument is one struct passed by value.

    Parameters
    ----------
    kernel : Kernel
        From `cupyna.kernels.loader.load`.
    grid, block : tuple of int
        Blocks and threads, at most three axes each; no entry may be zero.
    smem_bytes : int
        Dynamic shared memory of each block.
    stream_ptr : int
        Raw ``cudaStream_t`` of the kernel's device; 0 is its default stream.
    params : ndarray
        One structured element. It is copied by this call.
    """
    take = getattr(_keeper, "take", None)
    if take is not None:
        take(kernel, grid, block, smem_bytes, params)
        return
    if getDevice() != kernel.device:
        with Device(kernel.device):
            launch(kernel, grid, block, smem_bytes, stream_ptr, params)
        return
    arguments = (CPointer(params.ctypes.data),)
    kernel.function(grid, block, arguments, smem_bytes, Stream(stream_ptr))
