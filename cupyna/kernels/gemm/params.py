"""The mirror of ``struct GemmParams``: the one argument of the gemm kernels, passed by value."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..params import ABSENT, ARRAY, AXES, AXIS

__all__ = ["GEMM_PARAMS", "VECTORS", "pack_gemm"]

TILE = np.dtype([(name, np.int32) for name in ("warp_log2", "warps_log2", "tiles")], align=True)

_ARRAYS = (
    "query", "key", "dout", "value", "output", "weights", "gradient", "lse", "dlse", "bias",
    "statistics",
)  # fmt: skip
_COUNTS = (
    "batch", "heads", "head_group", "channels", "value_channels", "split", "slab", "slab_rows",
    "stages", "chunks", "groups", "part_groups", "vectors", "fills", "is_precise", "is_transposed",
)  # fmt: skip

# Bits of `vectors`, in the order of the enumeration of the sources.
VECTORS = {
    name: 1 << bit
    for bit, name in enumerate(("query", "key", "dout", "value", "output", "weights", "gradient"))
}

GEMM_PARAMS = np.dtype(
    [
        *((name, ARRAY) for name in _ARRAYS),
        ("maxima", np.uint64),
        ("scale", np.float64),
        ("empty", np.float64),
        ("axis", AXIS, AXES),
        ("tile", TILE, AXES),
        *((name, np.int32) for name in _COUNTS),
    ],
    align=True,
)

# A structured element costs four times as much as its bytes.
_BYTES = struct.Struct(f"@{'Q6q' * len(_ARRAYS)}Q2d{5 * AXES + 3 * AXES + len(_COUNTS)}i0q")


def pack_gemm(fields: Mapping[str, Any]) -> np.ndarray[Any, Any]:
    """One element of ``GEMM_PARAMS``; arrays that are not named are absent, numbers are zero."""
    numbers: list[float] = []
    for name in _ARRAYS:
        data, batch, axes, head, channel = fields.get(name, ABSENT)
        numbers += (data, batch, *axes, head, channel)
    numbers += (fields.get("maxima", 0),)
    numbers += (fields.get("scale", 0.0), fields.get("empty", 0.0))
    for name in ("axis", "tile"):
        for along in fields[name]:
            numbers += along
    numbers += (fields.get(name, 0) for name in _COUNTS)
    return np.frombuffer(_BYTES.pack(*numbers), GEMM_PARAMS)
