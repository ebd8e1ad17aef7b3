"""The mirrors of ``DirectParams`` and ``DirectGradientParams``: what the kernels are told."""

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
from .costs import DirectChoice, row_heads

__all__ = [
    "DIRECT_GRADIENT_PARAMS",
    "DIRECT_PARAMS",
    "pack_direct",
    "pack_direct_gradient",
]

DIRECT_AXIS = np.dtype(
    [
        (name, np.uint32)
        for name in (
            "runs_of_longer", "runs_of_shorter", "longer", "longer_runs", "runs", "tile_log2",
            "tiles",
        )
    ],
    align=True,
)  # fmt: skip

DIRECT_GRID = np.dtype(
    [
        ("axis", DIRECT_AXIS, AXES),
        ("first_step", np.int32, AXES),
        ("second_step", np.int32, AXES),
        *((name, np.uint32) for name in ("heads_log2", "head_tiles", "planes", "sharers")),
    ],
    align=True,
)

DIRECT_PARAMS = np.dtype([("attention", ATTENTION_PARAMS), ("grid", DIRECT_GRID)], align=True)
DIRECT_GRADIENT_PARAMS = np.dtype(
    [("attention", GRADIENT_PARAMS), ("grid", DIRECT_GRID)], align=True
)


def pack_direct(
    problem: Problem,
    scale: float,
    chosen: DirectChoice,
    arrays: ForwardArrays[DeviceArray],
) -> np.ndarray[Any, Any]:
    """One launch of forward."""
    params = np.zeros(1, DIRECT_PARAMS)
    ones = (1,) * problem.rank
    packed = pack_attention(problem, scale, ones, ones, arrays)
    for name in ATTENTION_PARAMS.names or ():
        params["attention"][name] = packed[name]
    _fill_grid(params["grid"][0], problem, chosen, arrays.k, arrays.v)
    return params


def pack_direct_gradient(
    problem: Problem,
    scale: float,
    chosen: DirectChoice,
    arrays: BackwardArrays[DeviceArray],
    room: BackwardRoom,
) -> np.ndarray[Any, Any]:
    """One launch of backward, for the gradients of one side."""
    params = np.zeros(1, DIRECT_GRADIENT_PARAMS)
    ones = (1,) * problem.rank
    params["attention"] = pack_gradient(problem, scale, ones, ones, arrays, room)
    is_over_queries = chosen.shape.side == "query"
    columns = (arrays.k, arrays.v) if is_over_queries else (arrays.q, arrays.dout)
    _fill_grid(params["grid"][0], problem, chosen, *columns)
    return params


def _fill_grid(
    grid: Any, problem: Problem, chosen: DirectChoice, first: DeviceArray, second: DeviceArray
) -> None:
    padding = AXES - problem.rank
    grid["axis"] = [(1, 1, 0, 0, 1, 0, 1)] * padding + [
        (*runs.fields, extent.bit_length() - 1, tiles)
        for runs, extent, tiles in zip(
            chosen.runs(problem), chosen.run_tile, chosen.tiles(problem), strict=True
        )
    ]
    grid["first_step"][padding:] = _steps(problem, first)
    grid["second_step"][padding:] = _steps(problem, second)
    grid["heads_log2"] = chosen.heads.bit_length() - 1
    grid["head_tiles"] = row_heads(problem, chosen.shape) // chosen.heads
    grid["planes"] = chosen.planes(problem)
    grid["sharers"] = chosen.sharers(problem)


def _steps(problem: Problem, array: DeviceArray) -> tuple[int, ...]:
    """Bytes from one token of a dilation group to the next, along each axis."""
    _, *axes, _, _ = array.strides
    return tuple(
        stride * dilation * problem.item_bytes
        for stride, dilation in zip(axes, problem.dilation, strict=True)
    )
