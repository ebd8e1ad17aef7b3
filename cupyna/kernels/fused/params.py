"""The mirrors of ``AttentionParams`` and ``GradientParams``: the argument of the fused kernels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np

from cupyna.arrays.device_array import DeviceArray
from cupyna.operands import (
    BackwardArrays,
    BackwardBesideArrays,
    ForwardArrays,
    ForwardBesideArrays,
)
from cupyna.problem import Problem

from ..params import (
    ABSENT,
    ARRAY,
    AXES,
    AXIS,
    axis_fields,
    bias_fields,
    row_fields,
    statistic_fields,
)
from .bias import BiasChoice

__all__ = [
    "ATTENTION_PARAMS",
    "BESIDE_GRADIENT_PARAMS",
    "BIAS_GRADIENT_PARAMS",
    "FORWARD_PARAMS",
    "GRADIENT_PARAMS",
    "BackwardRoom",
    "SumOrder",
    "pack_attention",
    "pack_beside_gradient",
    "pack_bias_gradient",
    "pack_gradient",
]

TILE = np.dtype(
    [(name, np.int32) for name in ("row_extent_log2", "column_extent", "row_tiles")], align=True
)

SLICE = np.dtype([(name, np.int32) for name in ("extent", "slices")], align=True)

DISTANCE = np.dtype([(name, np.int32) for name in ("first", "tiles")], align=True)

_LOG2_E = math.log2(math.e)

# The signs in a word of queries, by bytes of an element.
_SIGNS = {2: 0x80008000, 4: 0x80000000}

_ATTENTION_FIELDS: list[Any] = [
    *((name, ARRAY) for name in ("q", "k", "v", "out", "lse", "bias")),
    ("axis", AXIS, AXES),
    ("tile", TILE, AXES),
    ("head_group", np.int32),
    ("head_dim", np.int32),
    ("value_dim", np.int32),
    ("scale", np.float32),
    ("scale_log2", np.float32),
    ("query_keep", np.uint32),
    ("query_flip", np.uint32),
]
_GRADIENTS = ("dout", "dlse", "dq", "dk", "dv")

ATTENTION_PARAMS = np.dtype(_ATTENTION_FIELDS, align=True)
FORWARD_PARAMS = np.dtype(
    [*_ATTENTION_FIELDS, ("more_k", ARRAY), ("more_v", ARRAY), ("more_tokens", np.int32)],
    align=True,
)
_GRADIENT_FIELDS: list[Any] = [
    *_ATTENTION_FIELDS,
    *((name, ARRAY) for name in _GRADIENTS),
    ("statistics", np.uint64),
    ("query_sums", np.uint64),
    ("row_lanes", np.int32),
    ("sum_order", np.int32),
]
GRADIENT_PARAMS = np.dtype(_GRADIENT_FIELDS, align=True)
BESIDE_GRADIENT_PARAMS = np.dtype(
    [
        *_GRADIENT_FIELDS,
        ("window_dq", ARRAY),
        ("key_sums", np.uint64),
        ("value_sums", np.uint64),
        ("slice", SLICE, AXES),
        ("more_tokens", np.int32),
    ],
    align=True,
)
BIAS_GRADIENT_PARAMS = np.dtype(
    [
        *_GRADIENT_FIELDS,
        ("dbias", ARRAY),
        ("partial_sums", np.uint64),
        ("distance", DISTANCE, AXES),
        *((name, np.int32) for name in ("batches", "parts", "lanes")),
    ],
    align=True,
)


class SumOrder(IntEnum):
    """How channels of a query's sums stand in memory: ``SumOrder`` of the sources."""

    BY_CHANNEL = 0
    TURNED = 1
    BY_THREAD = 2

    def row_length(self, head_dim: int) -> int:
        """Numbers from one row of sums to the next."""
        return -(-head_dim // 32) * 32 if self is SumOrder.BY_THREAD else head_dim


@dataclass(frozen=True, slots=True)
class BackwardRoom:
    """Memory that the kernels of backward hand numbers to each other in.

    Parameters
    ----------
    statistics : int
        Pointer to two float32 numbers for each query, ``[batch, heads, tokens, 2]``.
    query_sums : int
        Pointer to float32 sums, ``[batch, heads, tokens, row]``; 0 where no kernel needs them.
    sum_order : SumOrder
        How their channels stand in a row.
    """

    statistics: int
    query_sums: int = 0
    sum_order: SumOrder = SumOrder.BY_CHANNEL


def pack_attention(
    problem: Problem,
    scale: float,
    row_tile: tuple[int, ...],
    column_tile: tuple[int, ...],
    arrays: ForwardArrays[DeviceArray],
) -> np.ndarray[Any, Any]:
    """One launch of forward; tiles have one extent for each spatial axis."""
    more: tuple[Any, ...] = (ABSENT, ABSENT, 0)
    if isinstance(arrays, ForwardBesideArrays):
        more = row_fields(arrays.more_k), row_fields(arrays.more_v), arrays.more_k.shape[1]
    # Scores grow with a positive factor, so a running maximum needs no scale: the sign of the
    # scale goes into the queries, and a scale of zero clears them.
    record = (
        *_common(problem, row_tile, column_tile, arrays),
        abs(scale) if scale else 1.0,
        abs(scale) * _LOG2_E if scale else _LOG2_E,
        0xFFFFFFFF if scale else 0,
        _SIGNS[problem.item_bytes] if math.copysign(1.0, scale) < 0 and scale else 0,
        *more,
    )
    return _filled(record, FORWARD_PARAMS)


def pack_gradient(
    problem: Problem,
    scale: float,
    row_tile: tuple[int, ...],
    column_tile: tuple[int, ...],
    arrays: BackwardArrays[DeviceArray],
    room: BackwardRoom,
) -> np.ndarray[Any, Any]:
    """One launch of backward, for the gradients of one side."""
    record = _gradient_record(problem, scale, row_tile, column_tile, arrays, room)
    return _filled(record, GRADIENT_PARAMS)


def pack_beside_gradient(
    problem: Problem,
    scale: float,
    row_tile: tuple[int, ...],
    column_tile: tuple[int, ...],
    slices: tuple[tuple[int, int], ...],
    key_tiles: int,
    arrays: BackwardBesideArrays[DeviceArray],
    room: BackwardRoom,
) -> np.ndarray[Any, Any]:
    """One launch of backward for keys beside the windows, the gradients of one side.

    `problem` is one of windows of a single key. `slices` has an extent and a count for each axis;
    `key_tiles` is the number of row tiles where rows are keys, and zero where they are queries.
    """
    padding = AXES - problem.rank
    more_k, more_v = arrays.more_k, arrays.more_v
    # Those of keys are written as sums.
    of_windows = BackwardArrays(
        arrays.q, more_k, more_v, None, arrays.out, arrays.lse, arrays.dout, arrays.dlse,
        arrays.dq, more_k, more_v, None,
    )  # fmt: skip
    record = (
        *_gradient_record(problem, scale, row_tile, column_tile, of_windows, room),
        row_fields(arrays.window_dq),
        arrays.key_sums.pointer,
        arrays.value_sums.pointer,
        [(1, 1)] * padding + list(slices),
        more_k.shape[1],
    )
    params = _filled(record, BESIDE_GRADIENT_PARAMS)
    if key_tiles:
        params["tile"]["row_tiles"] = (*(1,) * (AXES - 1), key_tiles)
    return params


def pack_bias_gradient(
    problem: Problem,
    scale: float,
    choice: BiasChoice,
    arrays: BackwardArrays[DeviceArray],
    room: BackwardRoom,
    partial_sums: int,
) -> np.ndarray[Any, Any]:
    """Both launches of the gradient of the bias."""
    tiles = choice.tiling.row_tile, choice.tiling.column_tile
    padding = AXES - problem.rank
    record = (
        *_gradient_record(problem, scale, *tiles, arrays, room),
        bias_fields(arrays.dbias),
        partial_sums,
        [(0, 1)] * padding + [tuple(distances) for distances in choice.distances],
        problem.batch,
        choice.parts,
        choice.lanes,
    )
    return _filled(record, BIAS_GRADIENT_PARAMS)


def _gradient_record(
    problem: Problem,
    scale: float,
    row_tile: tuple[int, ...],
    column_tile: tuple[int, ...],
    arrays: BackwardArrays[DeviceArray],
    room: BackwardRoom,
) -> tuple[Any, ...]:
    return (
        *_common(problem, row_tile, column_tile, arrays),
        scale,
        scale * _LOG2_E,
        0xFFFFFFFF,
        0,
        row_fields(arrays.dout),
        statistic_fields(arrays.dlse),
        *(row_fields(array) for array in (arrays.dq, arrays.dk, arrays.dv)),
        room.statistics,
        room.query_sums,
        row_lanes(problem),
        room.sum_order,
    )


def _filled(record: tuple[Any, ...], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """One element whose padding is zero too: a recording compares every byte."""
    params = np.zeros(1, dtype)
    params[0] = record
    return params


def _common(
    problem: Problem,
    row_tile: tuple[int, ...],
    column_tile: tuple[int, ...],
    arrays: ForwardArrays[DeviceArray] | BackwardArrays[DeviceArray],
) -> tuple[Any, ...]:
    padding = AXES - problem.rank
    tiles = [(0, 1, 1)] * padding + [
        (extent.bit_length() - 1, column_extent, axis_tiles(length, dilation, extent))
        for extent, column_extent, length, dilation in zip(
            row_tile, column_tile, problem.spatial, problem.dilation, strict=True
        )
    ]
    return (
        *(row_fields(array) for array in (arrays.q, arrays.k, arrays.v, arrays.out)),
        statistic_fields(arrays.lse),
        bias_fields(arrays.bias),
        list(axis_fields(problem)),  # a list fills a field of several records
        tiles,
        problem.head_group,
        problem.head_dim,
        problem.value_dim,
    )


def row_lanes(problem: Problem) -> int:
    """Threads that share a row of queries, eight channels each."""
    chunks = max(problem.head_dim, problem.value_dim) // 8
    return 1 << (chunks - 1).bit_length()


def axis_tiles(length: int, dilation: int, extent: int) -> int:
    """Tiles along one axis, over all its dilation groups: AxisTiling::count of the sources."""
    longer = length % dilation
    shorter_tiles = -(-(length // dilation) // extent)
    longer_tiles = -(-(length // dilation + 1) // extent)
    return longer * longer_tiles + (dilation - longer) * shorter_tiles
