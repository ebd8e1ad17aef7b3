"""Copies of rows that make whole vectors of them: the mirror of ``CopyParams``, and its launch."""

from __future__ import annotations

import math

import numpy as np

from cupyna.arrays.device_array import DeviceArray

from .params import ARRAY, AXES, row_fields

__all__ = ["COPY_PARAMS", "copy_rows", "pack_copy"]

COPY_PARAMS = np.dtype(
    [
        ("source", ARRAY),
        ("target", ARRAY),
        ("length", np.int32, AXES),
        ("source_channels", np.int32),
        ("target_channels", np.int32),
    ],
    align=True,
)

# Elements are moved as they are: only their size matters.
_MOVED_AS = {2: "float16", 4: "float32"}


def pack_copy(source: DeviceArray, target: DeviceArray) -> np.ndarray:
    """One launch; both arrays are ``[batch, *spatial, heads, channels]`` of the same rows."""
    spatial = source.shape[1:-2]
    lengths = (*(1,) * (AXES - len(spatial)), *spatial)
    # Channels that only the source has are not read.
    channels = min(source.shape[-1], target.shape[-1])
    record = (row_fields(source), row_fields(target), lengths, channels, target.shape[-1])
    return np.array([record], COPY_PARAMS)


def copy_rows(source: DeviceArray, target: DeviceArray, stream: int) -> None:
    """Queue a copy of every row; channels that only the target has become zero."""
    from .launch import launch
    from .loader import load
    from .manifest import variant_of

    variant = variant_of("copy_rows", _MOVED_AS[source.item_bytes], 0)
    batch, *spatial, heads, channels = target.shape
    blocks = -(-math.prod(spatial) * channels // variant.threads)
    kernel = load(variant, target.device)
    params = pack_copy(source, target)
    launch(kernel, (blocks, heads, batch), (variant.threads,), 0, stream, params)
