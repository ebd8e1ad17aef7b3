"""The mirrors of ``WindowParams`` and ``WindowGradientParams``: what the kernels are told."""

from __future__ import annotations

from typing import Any

import numpy as np

from cupyna.arrays.device_array import DeviceArray
from cupyna.operands import BackwardArrays, ForwardArrays
from cupyna.problem import Problem

from ..fused.params import (
    ATTENTION_PARAMS,
    GRADIENT_PARAMS,
    BackwardRoom,
    pack_attention,
    pack_gradient,
)
from ..params import AXES
from .costs import WindowChoice

__all__ = ["WINDOW_GRADIENT_PARAMS", "WINDOW_PARAMS", "pack_window", "pack_window_gradient"]

WINDOW_AXIS = np.dtype(
    [
        (name, np.int32)
        for name in ("warp_extent_log2", "warp_tiles", "slots", "box", "pitch")
    ],
    align=True,
)  # fmt: skip

WINDOW_GRID = np.dtype(
    [
        ("axis", WINDOW_AXIS, AXES),
        ("blocks_of_slots", np.int32),
        ("steps_of_slots", np.int32),
        ("box_tokens", np.int32),
        ("head_tokens", np.int32),
        ("heads", np.int32),
        ("head_blocks", np.int32),
        ("works", np.uint32),
    ],
    align=True,
)

WINDOW_PARAMS = np.dtype([("attention", ATTENTION_PARAMS), ("grid", WINDOW_GRID)], align=True)
WINDOW_GRADIENT_PARAMS = np.dtype(
    [("attention", GRADIENT_PARAMS), ("grid", WINDOW_GRID)], align=True
)


def pack_window(
    problem: Problem,
    scale: float,
    chosen: WindowChoice,
    arrays: ForwardArrays[DeviceArray],
) -> np.ndarray[Any, Any]:
    """One launch of forward."""
    params = np.zeros(1, WINDOW_PARAMS)
    tiles = chosen.row_tile, chosen.column_tile
    packed = pack_attention(problem, scale, *tiles, arrays)
    for name in ATTENTION_PARAMS.names or ():
        params["attention"][name] = packed[name]
    _fill_grid(params["grid"][0], problem, chosen)
    return params


def pack_window_gradient(
    problem: Problem,
    scale: float,
    chosen: WindowChoice,
    arrays: BackwardArrays[DeviceArray],
    room: BackwardRoom,
) -> np.ndarray[Any, Any]:
    """One launch of backward, for the gradients of one side."""
    params = np.zeros(1, WINDOW_GRADIENT_PARAMS)
    tiles = chosen.row_tile, chosen.column_tile
    params["attention"] = pack_gradient(problem, scale, *tiles, arrays, room)
    _fill_grid(params["grid"][0], problem, chosen)
    return params


def _fill_grid(grid: Any, problem: Problem, chosen: WindowChoice) -> None:
    padding = AXES - problem.rank
    axes = zip(
        chosen.warp_tile, chosen.warp_tiles, chosen.slot_box, chosen.column_tile, chosen.pitch,
        strict=True,
    )  # fmt: skip
    grid["axis"] = [(0, 1, 1, 1, chosen.pitch[0])] * padding + [
        (extent.bit_length() - 1, *rest) for extent, *rest in axes
    ]
    grid["blocks_of_slots"] = chosen.blocks_of_slots
    grid["steps_of_slots"] = chosen.steps_of_slots
    grid["box_tokens"] = chosen.box_tokens * chosen.heads
    grid["head_tokens"] = chosen.box_tokens
    grid["heads"] = chosen.heads
    grid["head_blocks"] = problem.kv_heads // chosen.heads
    grid["works"] = chosen.works(problem)
