"""Descriptors of boxes as the emulated copy engine reads them: ``struct Boxes`` of its sources."""

from __future__ import annotations

import struct

from cupyna.kernels.hopper.tensor_map import TENSOR_MAP_BYTES

_ITEM_BYTES = 2


def encode(pointer: int, dtype: str, axes: tuple[tuple[int, int, int, int], ...]) -> bytes:
    """In place of the driver: length, step in elements, box extent and distance of each axis."""
    fields = [
        struct.pack("@ihhq", length, box, gap, step * _ITEM_BYTES)
        for length, step, box, gap in axes
    ]
    row_bytes = axes[0][2] * _ITEM_BYTES
    packed = struct.pack("@Q", pointer) + b"".join(fields) + struct.pack("@ii", 0, row_bytes)
    return packed.ljust(TENSOR_MAP_BYTES, b"\0")
