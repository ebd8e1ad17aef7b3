"""The mirror of ``HopperGradientParams``: the argument of the fused backward on Hopper."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cupyna.arrays.device_array import DeviceArray
from cupyna.operands import BackwardArrays
from cupyna.problem import Problem

from ..fused.params import BackwardRoom, axis_tiles
from ..params import ABSENT, ARRAY, AXES, AXIS, axis_fields, row_fields
from .choice import GradientChoice
from .params import TILE, aligned
from .tensor_map import TENSOR_MAP, box_order, encode_boxes

__all__ = ["HOPPER_GRADIENT_PARAMS", "pack_hopper_gradient"]

_COUNTS = (
    "row_heads", "head_group", "tiles", "items", "reversed_planes", "rotation",
)  # fmt: skip
_LOG2_E = math.log2(math.e)

HOPPER_GRADIENT_PARAMS = aligned(
    [
        ("row_map", TENSOR_MAP, 2),
        ("column_map", TENSOR_MAP, 2),
        ("gradient", ARRAY, 2),
        ("axis", AXIS, AXES),
        ("tile", TILE, AXES),
        ("split_axis", np.int32),
        ("box_order", np.int32),
        ("row_head_stride", np.int32, 2),
        ("column_head_stride", np.int32, 2),
        *((name, np.int32) for name in _COUNTS),
        *((name, np.int32) for name in ("head_dim", "value_dim")),
        *((name, np.float32) for name in ("scale", "scale_log2")),
        *((name, np.uint64) for name in ("statistics", "query_sums")),
    ],
    64,
)


def pack_hopper_gradient(
    problem: Problem,
    scale: float,
    choice: GradientChoice,
    arrays: BackwardArrays[DeviceArray],
    room: BackwardRoom,
    reversed_planes: int = 0,
    rotation: int = 0,
) -> np.ndarray[Any, Any]:
    """One pass; the order of tiles as in :class:`~cupyna.kernels.hopper.schedule.Schedule`."""
    order = box_order(problem)
    padding = AXES - problem.rank
    queries, keys = (arrays.q, arrays.dout), (arrays.k, arrays.v)
    is_over_keys = choice.shape.side == "key"
    rows, columns = (keys, queries) if is_over_keys else (queries, keys)
    of_rows = (arrays.dk, arrays.dv) if is_over_keys else (arrays.dq, None)
    row_heads = problem.kv_heads if is_over_keys else problem.heads
    row_tiles = [
        axis_tiles(length, dilation, extent)
        for length, dilation, extent in zip(
            problem.spatial, problem.dilation, choice.row_tile, strict=True
        )
    ]

    def maps(two: tuple[DeviceArray, DeviceArray], tile: tuple[int, ...]) -> list[bytes]:
        return [encode_boxes(array, order, tile, problem.dilation) for array in two]

    params = np.zeros(1, HOPPER_GRADIENT_PARAMS)
    params[0] = (
        maps(rows, choice.consumer_tile),
        maps(columns, choice.column_tile),
        [ABSENT if array is None else row_fields(array) for array in of_rows],
        list(axis_fields(problem)),
        [(0, 1, 1, 1)] * padding
        + [
            (count.bit_length() - 1, *extents)
            for count, *extents in zip(
                choice.consumer_tile, choice.row_tile, choice.column_tile, row_tiles, strict=True
            )
        ],
        padding + choice.split_axis,
        int(order),
        [array.strides[-2] for array in rows],
        [array.strides[-2] for array in columns],
        row_heads,
        problem.head_group,
        math.prod(row_tiles),
        math.prod(row_tiles) * row_heads * problem.batch,
        reversed_planes,
        rotation,
        problem.head_dim,
        problem.value_dim,
        scale,
        scale * _LOG2_E,
        room.statistics,
        room.query_sums,
    )
    return params
