"""The mirror of ``HopperParams``: the argument of the fused forward on Hopper."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cupyna.arrays.device_array import DeviceArray
from cupyna.operands import ForwardArrays
from cupyna.problem import Problem

from ..fused.params import axis_tiles
from ..params import ARRAY, AXES, AXIS, axis_fields, row_fields, statistic_fields
from .choice import ForwardChoice
from .schedule import Schedule
from .tensor_map import TENSOR_MAP, box_order, encode_boxes

__all__ = ["HOPPER_PARAMS", "TILE", "aligned", "pack_hopper"]

TILE = np.dtype(
    [(name, np.int32) for name in ("rows_log2", "row_extent", "key_extent", "row_tiles")],
    align=True,
)
SHORT_TILES = np.dtype(
    [(name, np.int32) for name in ("first_item", "tiles", "begin", "row_extent", "row_tiles")],
    align=True,
)
_COUNTS = (
    "split_axis", "box_order", "q_head_stride", "k_head_stride", "v_head_stride",
    "heads", "head_group", "tiles", "items", "reversed_planes", "rotation", "takes_turns",
)  # fmt: skip
_LOG2_E = math.log2(math.e)


def aligned(fields: list[Any], alignment: int) -> np.dtype[Any]:
    """A struct that ends on a multiple of `alignment`: NumPy knows no alignment beyond a type's."""
    packed = np.dtype(fields, align=True)
    size = -(-packed.itemsize // alignment) * alignment
    names = packed.names or ()
    offsets = [packed.fields[name][1] for name in names]  # type: ignore[index]
    formats = [packed[name] for name in names]
    return np.dtype(
        {"names": list(names), "formats": formats, "offsets": offsets, "itemsize": size}
    )


HOPPER_PARAMS = aligned(
    [
        *((name, TENSOR_MAP) for name in ("q_map", "k_map", "v_map")),
        *((name, ARRAY) for name in ("out", "lse")),
        ("axis", AXIS, AXES),
        ("tile", TILE, AXES),
        *((name, np.int32) for name in _COUNTS),
        ("shorts", SHORT_TILES),
        ("value_dim", np.int32),
        *((name, np.float32) for name in ("sign", "scale", "scale_log2")),
    ],
    64,
)


def pack_hopper(
    problem: Problem,
    scale: float,
    choice: ForwardChoice,
    arrays: ForwardArrays[DeviceArray],
    grid: Schedule,
) -> np.ndarray[Any, Any]:
    """One launch."""
    order = box_order(problem)
    padding = AXES - problem.rank
    row_tiles = [
        axis_tiles(length, dilation, extent)
        for length, dilation, extent in zip(
            problem.spatial, problem.dilation, choice.row_tile, strict=True
        )
    ]
    planes = problem.heads * problem.batch
    shorts, short_tiles = (0, 0, 0, 0), 0
    if grid.shorts is not None:
        cut = choice.split_axis
        short_tiles = math.prod(row_tiles) // row_tiles[cut] * grid.shorts.count
        row_tiles[cut] = grid.shorts.begin // choice.row_tile[cut]
        shorts = (short_tiles, grid.shorts.begin, grid.shorts.extent, grid.shorts.count)
    tiles = math.prod(row_tiles)
    maps = [
        encode_boxes(array, order, tile, problem.dilation)
        for array, tile in (
            (arrays.q, choice.consumer_tile),
            (arrays.k, choice.column_tile),
            (arrays.v, choice.column_tile),
        )
    ]
    record = (
        *maps,
        row_fields(arrays.out),
        statistic_fields(arrays.lse),
        list(axis_fields(problem)),
        [(0, 1, 1, 1)] * padding
        + [
            (rows.bit_length() - 1, *extents)
            for rows, *extents in zip(
                choice.consumer_tile, choice.row_tile, choice.column_tile, row_tiles, strict=True
            )
        ],
        padding + choice.split_axis,
        int(order),
        *(array.strides[-2] for array in (arrays.q, arrays.k, arrays.v)),
        problem.heads,
        problem.head_group,
        tiles,
        (tiles + short_tiles) * planes,
        grid.reversed_planes,
        grid.rotation,
        int(grid.takes_turns),
        (tiles * planes, *shorts),
        problem.value_dim,
        # A running maximum needs scores that grow with a positive factor.
        math.copysign(1.0, scale) if scale else 0.0,
        abs(scale) if scale else 1.0,
        abs(scale) * _LOG2_E if scale else _LOG2_E,
    )
    return np.array([record], HOPPER_PARAMS)
