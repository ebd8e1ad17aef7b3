"""The mirror of ``WindowRingParams``: what the small-window forward on Hopper is told."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cupyna.arrays.device_array import DeviceArray
from cupyna.operands import ForwardArrays
from cupyna.problem import Problem

from ..hopper.params import aligned
from ..hopper.tensor_map import TENSOR_MAP, box_order, encode_boxes
from ..params import ARRAY, AXES, AXIS, axis_fields, row_fields, statistic_fields
from .ring_costs import WindowRingChoice

__all__ = ["WINDOW_RING_PARAMS", "pack_window_ring"]

_TILE = np.dtype(
    [
        (name, np.int32)
        for name in ("warp_extent_log2", "row_extent", "row_tiles", "box", "lines")
    ],
    align=True,
)  # fmt: skip

WINDOW_RING_PARAMS = aligned(
    [
        *((name, TENSOR_MAP) for name in ("k_map", "v_map")),
        *((name, ARRAY) for name in ("q", "out", "lse")),
        ("axis", AXIS, AXES),
        ("tile", _TILE, AXES),
        *(
            (name, np.int32)
            for name in (
                "box_order", "k_head_stride", "v_head_stride", "stages", "slices_log2",
                "line_entries", "kv_heads", "head_group",
            )
        ),
        ("works", np.uint32),
        *((name, np.int32) for name in ("head_dim", "value_dim")),
        *((name, np.float32) for name in ("scale", "scale_log2")),
        *((name, np.uint32) for name in ("query_keep", "query_flip")),
    ],
    64,
)  # fmt: skip

_LOG2_E = math.log2(math.e)
_SIGNS = 0x80008000


def pack_window_ring(
    problem: Problem,
    scale: float,
    choice: WindowRingChoice,
    arrays: ForwardArrays[DeviceArray],
) -> np.ndarray[Any, Any]:
    """One launch."""
    maps = [
        encode_boxes(
            array,
            box_order(problem),
            (choice.slices, *choice.key_box),
            problem.dilation,
            choice.shape.head_dim,
        )
        for array in (arrays.k, arrays.v)
    ]
    tiles = [
        (warp.bit_length() - 1, rows, count, box, lines)
        for warp, rows, count, box, lines in zip(
            choice.warp_tile,
            choice.row_tile,
            choice.row_tiles(problem),
            (1, *choice.key_box),
            (1, *(choice.lines,) * (problem.rank - 2), choice.shape.line),
            strict=True,
        )
    ]
    walked = [row_fields(arrays.q), row_fields(arrays.out), statistic_fields(arrays.lse)]
    record = (
        *maps,
        *((data, batch, _first(problem, axes), *rest) for data, batch, axes, *rest in walked),
        _first(problem, axis_fields(problem)),
        tiles if problem.rank == AXES else [tiles[0], (0, 1, 1, 1, 1), tiles[1]],
        int(box_order(problem)),
        arrays.k.strides[-2],
        arrays.v.strides[-2],
        choice.stages,
        choice.slices.bit_length() - 1,
        choice.line_entries,
        problem.kv_heads,
        problem.head_group,
        choice.works(problem),
        problem.head_dim,
        problem.value_dim,
        # Weights are lowered by the largest scores, which are to grow with a positive factor.
        abs(scale) if scale else 1.0,
        abs(scale) * _LOG2_E if scale else _LOG2_E,
        0xFFFFFFFF if scale else 0,
        _SIGNS if math.copysign(1.0, scale) < 0 and scale else 0,
    )
    params = np.zeros(1, WINDOW_RING_PARAMS)
    params[0] = record
    return params


def _first(problem: Problem, axes: tuple[Any, ...]) -> Any:
    """The axis that keys are streamed along first, where a grid has two and one of length one."""
    if problem.rank == AXES:
        return list(axes)
    padding, first, last = axes
    return [first, padding, last]
