"""The mirror of ``WindowParams``: the argument of the small-window kernels."""

from __future__ import annotations

from typing import Any

import numpy as np

from cupyna.arrays.device_array import DeviceArray
from cupyna.problem import Problem

from ..fused.params import ATTENTION_PARAMS, pack_attention
from ..params import AXES
from .costs import WindowChoice

__all__ = ["WINDOW_PARAMS", "pack_window"]

WINDOW_AXIS = np.dtype(
    [
        (name, np.int32)
        for name in ("warp_extent_log2", "warp_tiles", "slots", "box", "pitch")
    ],
    align=True,
)  # fmt: skip

WINDOW_PARAMS = np.dtype(
    [
        ("attention", ATTENTION_PARAMS),
        ("window", WINDOW_AXIS, AXES),
        ("blocks_of_slots", np.int32),
        ("box_tokens", np.int32),
        ("kv_heads", np.int32),
        ("works", np.uint32),
    ],
    align=True,
)


def pack_window(
    problem: Problem,
    scale: float,
    chosen: WindowChoice,
    q: DeviceArray,
    k: DeviceArray,
    v: DeviceArray,
    out: DeviceArray,
    lse: DeviceArray | None,
) -> np.ndarray[Any, Any]:
    """One launch of forward."""
    params = np.zeros(1, WINDOW_PARAMS)
    tiles = chosen.row_tile, chosen.column_tile
    packed = pack_attention(problem, scale, *tiles, q, k, v, None, out, lse)
    for name in ATTENTION_PARAMS.names or ():
        params["attention"][name] = packed[name]
    padding = AXES - problem.rank
    axes = zip(
        chosen.warp_tile, chosen.warp_tiles, chosen.slot_box, chosen.column_tile, chosen.pitch,
        strict=True,
    )  # fmt: skip
    params["window"][0] = [(0, 1, 1, 1, chosen.pitch[0])] * padding + [
        (extent.bit_length() - 1, *rest) for extent, *rest in axes
    ]
    params["blocks_of_slots"] = chosen.blocks_of_slots
    params["box_tokens"] = chosen.box_tokens
    params["kv_heads"] = problem.kv_heads
    params["works"] = chosen.works(problem)
    return params
