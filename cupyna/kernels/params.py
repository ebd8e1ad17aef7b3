"""The mirror of ``struct Params``: the one argument of the naive kernels, passed by value."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from cupyna.arrays.device_array import DeviceArray
from cupyna.problem import Problem

__all__ = [
    "ABSENT",
    "AXES",
    "PARAMS",
    "ArrayFields",
    "array_fields",
    "axis_fields",
    "bias_fields",
    "pack",
    "row_fields",
    "statistic_fields",
]

# Grids of fewer axes have leading axes of length one, so one kernel serves them all.
AXES = 3

ARRAY = np.dtype(
    [
        ("data", np.uint64),
        ("batch", np.int64),
        ("axis", np.int64, AXES),
        ("head", np.int64),
        ("channel", np.int64),
    ],
    align=True,
)

AXIS = np.dtype(
    [(name, np.int32) for name in ("length", "kernel_size", "stride", "dilation", "is_causal")],
    align=True,
)

_ARRAYS = ("query", "key", "output", "slots", "lse", "dlse", "bias")
_BLOCKS = ("weights", "gradient")
_COUNTS = (
    "batch", "heads", "head_group", "channels", "lanes", "runs", "blocks", "items", "keys",
)  # fmt: skip

PARAMS = np.dtype(
    [
        *((name, ARRAY) for name in _ARRAYS),
        *((name, np.uint64) for name in _BLOCKS),
        ("scale", np.float64),
        ("empty", np.float64),
        ("axis", AXIS, AXES),
        *((name, np.int32) for name in _COUNTS),
    ],
    align=True,
)

ArrayFields = tuple[int, int, tuple[int, ...], int, int]

ABSENT: ArrayFields = (0, 0, (0,) * AXES, 0, 0)


def array_fields(
    pointer: int, batch: int, axes: Sequence[int], head: int, channel: int
) -> ArrayFields:
    """Fields of one array; strides in elements, one for each spatial axis."""
    return pointer, batch, (*(0,) * (AXES - len(axes)), *axes), head, channel


def axis_fields(problem: Problem) -> tuple[tuple[int, ...], ...]:
    """Fields of the axes, the last one last."""
    axes = tuple(
        (axis.length, axis.kernel_size, axis.stride, axis.dilation, int(axis.is_causal))
        for axis in problem.axes
    )
    return ((1, 1, 1, 1, 0),) * (AXES - len(axes)) + axes


# A structured element costs four times as much as its bytes.
_BYTES = struct.Struct(f"@{'Q6q' * len(_ARRAYS)}{len(_BLOCKS)}Q2d{5 * AXES + len(_COUNTS)}i")


def pack(fields: dict[str, Any]) -> np.ndarray[Any, Any]:
    """One element of ``PARAMS``; arrays that are not named are absent, numbers are zero."""
    numbers: list[float] = []
    for name in _ARRAYS:
        data, batch, axes, head, channel = fields.get(name, ABSENT)
        numbers += (data, batch, *axes, head, channel)
    numbers += (fields.get(name, 0) for name in _BLOCKS)
    numbers += (fields.get("scale", 0.0), fields.get("empty", 0.0))
    for axis in fields["axis"]:
        numbers += axis
    numbers += (fields.get(name, 0) for name in _COUNTS)
    return np.frombuffer(_BYTES.pack(*numbers), PARAMS)


def row_fields(array: DeviceArray | None) -> ArrayFields:
    """Fields of ``[batch, *spatial, heads, channels]``; absent where there is no array."""
    if array is None:
        return ABSENT
    batch, *axes, head, channel = array.strides
    return array_fields(array.pointer, batch, axes, head, channel)


def statistic_fields(array: DeviceArray | None) -> ArrayFields:
    """Fields of ``[batch, *spatial, heads]``, such as the log-sum-exp."""
    if array is None:
        return ABSENT
    batch, *axes, head = array.strides
    return array_fields(array.pointer, batch, axes, head, 0)


def bias_fields(array: DeviceArray | None) -> ArrayFields:
    """Fields of ``[heads, *(2 * kernel_size - 1)]``."""
    if array is None:
        return ABSENT
    head, *axes = array.strides
    return array_fields(array.pointer, 0, axes, head, 0)
