"""One test body, three array libraries."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from cupyna.arrays.host import host_dtype

LIBRARIES = [
    "numpy",
    pytest.param("cupy", marks=pytest.mark.gpu),
    pytest.param("torch", marks=[pytest.mark.gpu, pytest.mark.torch]),
]

each_library = pytest.mark.parametrize("library", LIBRARIES)
each_gpu_library = pytest.mark.parametrize("library", LIBRARIES[1:])

# Elements around every allocation, a whole number of cache lines.
GUARD = 256
CANARY = 1234.0


def put(library: str, array: np.ndarray | None) -> Any:
    """The array on the library's device."""
    if array is None or library == "numpy":
        return array
    if library == "cupy":
        import cupy

        return cupy.asarray(array)
    import torch

    if array.dtype == ml_dtypes.bfloat16:
        bits = torch.from_numpy(array.view(np.uint16))
        return bits.view(torch.bfloat16).cuda()
    return torch.from_numpy(array).cuda()


def get(array: Any) -> np.ndarray:
    """The array on the host, after all that was queued before."""
    if isinstance(array, np.ndarray):
        return array
    if hasattr(array, "get"):
        return array.get()
    import torch

    if array.dtype is torch.bfloat16:
        return array.view(torch.uint16).cpu().numpy().view(ml_dtypes.bfloat16)
    return array.cpu().numpy()


def full(library: str, shape: tuple[int, ...], dtype: str, value: float) -> Any:
    if library == "torch":
        import torch

        return torch.full(shape, value, dtype=getattr(torch, dtype), device="cuda")
    if library == "cupy":
        import cupy

        return cupy.full(shape, value, host_dtype(dtype))
    return np.full(shape, value, host_dtype(dtype))


@contextmanager
def guarded(library: str) -> Iterator[None]:
    """Poison what the library allocates for results and workspace, and watch what is beside it."""
    target: Any = import_module(f"cupyna.arrays.{'host' if library == 'numpy' else library}")
    target = getattr(target, library.upper())
    allocations = []

    def empty(shape: tuple[int, ...], dtype: str, device: Any) -> Any:
        size = int(np.prod(shape))
        whole = full(library, (size + 2 * GUARD,), dtype, CANARY)
        inside = whole[GUARD : GUARD + size]
        inside[...] = float("nan")
        allocations.append((whole, size))
        return inside.reshape(shape)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(target), "empty", lambda self, *args: empty(*args))
        yield
    assert allocations
    for whole, size in allocations:
        for canaries in (whole[:GUARD], whole[GUARD + size :]):
            assert (get(canaries).astype(np.float64) == host_dtype_canary(whole)).all()


def host_dtype_canary(whole: Any) -> float:
    return float(get(whole[:1]).dtype.type(CANARY))
