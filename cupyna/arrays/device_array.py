"""An array in GPU memory as a kernel sees it: where it is, and how it is laid out."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["DeviceArray", "has_forward_strides", "has_short_steps", "has_vector_rows"]


_ITEM_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}


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

    @classmethod
    def contiguous(
        cls, pointer: int, shape: tuple[int, ...], dtype: str, device: int
    ) -> DeviceArray:
        """An array whose elements follow each other, the last axis fastest."""
        strides = [1]
        for length in reversed(shape[1:]):
            strides.append(strides[-1] * length)
        return cls(pointer, shape, tuple(reversed(strides)), dtype, device)

    @property
    def item_bytes(self) -> int:
        """Bytes of one element."""
        return _ITEM_BYTES[self.dtype]

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


# What one thread moves at once.
_VECTOR_BYTES = 16

_MOST_STEP_BYTES = 2**31 - 1


def has_vector_rows(view: object) -> bool:
    """Whether the last axis is contiguous and every row starts on 16 bytes; hosts do not care."""
    if not isinstance(view, DeviceArray):
        return True
    size = view.item_bytes
    steps = [
        stride * size
        for stride, length in zip(view.strides[:-1], view.shape[:-1], strict=True)
        if length > 1
    ]
    ends = (view.pointer, view.shape[-1] * size, *steps)
    is_contiguous = view.strides[-1] == 1 or view.shape[-1] == 1
    return is_contiguous and all(end % _VECTOR_BYTES == 0 for end in ends)


def has_forward_strides(view: object) -> bool:
    """Whether memory rises along every axis: not broadcast, not reversed; hosts do not care."""
    if not isinstance(view, DeviceArray):
        return True
    return all(
        stride > 0 for stride, length in zip(view.strides, view.shape, strict=True) if length > 1
    )


def has_short_steps(view: object, dilation: tuple[int, ...]) -> bool:
    """Whether neighbors of a dilation group lie less than 2 GiB apart; hosts do not care."""
    if not isinstance(view, DeviceArray):
        return True
    steps = zip(view.strides[1:-2], dilation, strict=True)
    return all(abs(stride * gap) * view.item_bytes <= _MOST_STEP_BYTES for stride, gap in steps)
