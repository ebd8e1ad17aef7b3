"""The mirror of ``struct AttentionParams``: the one argument of the fused kernels."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cupyna.arrays.device_array import DeviceArray
from cupyna.problem import Problem

from .params import ARRAY, AXES, AXIS, axis_fields, bias_fields, row_fields, statistic_fields

__all__ = ["ATTENTION_PARAMS", "pack_attention"]

TILE = np.dtype(
    [(name, np.int32) for name in ("q_extent_log2", "kv_extent", "q_tiles")], align=True
)

ATTENTION_PARAMS = np.dtype(
    [
        *((name, ARRAY) for name in ("q", "k", "v", "out", "lse", "bias")),
        ("axis", AXIS, AXES),
        ("tile", TILE, AXES),
        ("head_group", np.int32),
        ("head_dim", np.int32),
        ("value_dim", np.int32),
        ("scale", np.float32),
        ("query_keep", np.uint32),
        ("query_flip", np.uint32),
    ],
    align=True,
)


def pack_attention(
    problem: Problem,
    scale: float,
    q_tile: tuple[int, ...],
    kv_tile: tuple[int, ...],
    q: DeviceArray,
    k: DeviceArray,
    v: DeviceArray,
    bias: DeviceArray | None,
    out: DeviceArray,
    lse: DeviceArray | None,
) -> np.ndarray[Any, Any]:
    """One launch of forward; tiles have one extent for each spatial axis."""
    padding = AXES - problem.rank
    tiles = [(0, 1, 1)] * padding + [
        (extent.bit_length() - 1, kv_extent, axis_tiles(length, dilation, extent))
        for extent, kv_extent, length, dilation in zip(
            q_tile, kv_tile, problem.spatial, problem.dilation, strict=True
        )
    ]
    # Scores grow with a positive factor, so a running maximum needs no scale: the sign of the
    # scale goes into the queries, and a scale of zero clears them.
    record = (
        row_fields(q),
        row_fields(k),
        row_fields(v),
        row_fields(out),
        statistic_fields(lse),
        bias_fields(bias),
        list(axis_fields(problem)),  # a list fills a field of several records
        tiles,
        problem.head_group,
        problem.head_dim,
        problem.value_dim,
        abs(scale) if scale else 1.0,
        0xFFFFFFFF if scale else 0,
        0x80008000 if math.copysign(1.0, scale) < 0 and scale else 0,
    )
    return np.array([record], ATTENTION_PARAMS)


def axis_tiles(length: int, dilation: int, extent: int) -> int:
    """Tiles along one axis, over all its dilation groups: AxisTiling::count of the sources."""
    longer = length % dilation
    shorter_tiles = -(-(length // dilation) // extent)
    longer_tiles = -(-(length // dilation + 1) // extent)
    return longer * longer_tiles + (dilation - longer) * shorter_tiles
