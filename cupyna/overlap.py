"""Whether two views share memory, on a CPU or a GPU."""

from __future__ import annotations

from typing import Any

import numpy as np

from .arrays import DeviceArray, View
from .arrays.host import host_dtype

__all__ = ["overlaps_itself", "share_memory"]

# NumPy solves a bounded Diophantine problem; past this much work the answer is "perhaps", which
# counts as yes.
_MAX_WORK: Any = 10_000


def share_memory(a: View, b: View) -> bool:
    """Whether any element of `a` is an element of `b`."""
    if isinstance(a, DeviceArray) != isinstance(b, DeviceArray):
        return False
    try:
        return bool(np.shares_memory(_on_host(a), _on_host(b), max_work=_MAX_WORK))
    except np.exceptions.TooHardError:
        return True


def overlaps_itself(view: View) -> bool:
    """Whether two indices may name one address: no stride may fall short of what lies below it."""
    array = _on_host(view)
    reach = array.itemsize
    for stride, length in sorted(zip(map(abs, array.strides), array.shape, strict=True)):
        if length > 1:
            if stride < reach:
                return True
            reach += stride * (length - 1)
    return False


def _on_host(view: View) -> np.ndarray:
    """An array of the same addresses that is never read: the question is only where it lies."""
    if not isinstance(view, DeviceArray):
        return view
    dtype = host_dtype(view.dtype)
    return np.asarray(_Addresses(view, dtype))


class _Addresses:
    """A GPU array's place in the one address space, as NumPy's array interface tells it."""

    def __init__(self, view: DeviceArray, dtype: np.dtype) -> None:
        size = dtype.itemsize
        self.__array_interface__: dict[str, Any] = {
            "version": 3,
            "shape": view.shape,
            "strides": tuple(stride * size for stride in view.strides),
            "typestr": f"|V{size}",
            "data": (view.pointer, False),
        }
