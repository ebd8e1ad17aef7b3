"""Descriptors of boxes of arrays, as the copy engine of Hopper reads them (CUtensorMap)."""

from __future__ import annotations

import ctypes
from enum import IntEnum
from functools import cache, lru_cache
from typing import Any

import numpy as np

from cupyna.arrays.device_array import DeviceArray
from cupyna.problem import Problem

from ..params import AXES

__all__ = [
    "ALIGNMENT",
    "BLOCK_CHANNELS",
    "MOST_DILATION",
    "TENSOR_MAP",
    "TENSOR_MAP_BYTES",
    "BoxOrder",
    "box_order",
    "encode_boxes",
    "most_tokens",
    "replace_address",
]

TENSOR_MAP_BYTES = 128
TENSOR_MAP = np.dtype((np.void, TENSOR_MAP_BYTES))
ALIGNMENT = 64  # bytes, of a descriptor that the driver writes
BLOCK_CHANNELS = 64
_MOST_BOX = 256  # elements along an axis, those between the tokens of a dilation group included
MOST_DILATION = 8

# Values of CUtensorMapDataType and of the other enumerations that cuTensorMapEncodeTiled takes.
_DATA_TYPE = {"float16": 6, "bfloat16": 9}
_INTERLEAVE_NONE = 0
# The swizzle of a row, by its channels.
_SWIZZLE = {32: 2, 64: 3}
_L2_PROMOTION_256B = 3
_FILL_ZEROS = 0
_ITEM_BYTES = 2


class BoxOrder(IntEnum):
    """Which axes of an array a descriptor's five are: ``enum class BoxOrder`` of the sources."""

    BATCH_OUTERMOST = 0
    AXIS_OUTERMOST = 1
    HEADS_FOLDED = 2


def box_order(problem: Problem) -> BoxOrder:
    """The order that a problem's arrays are described in."""
    if problem.rank < AXES:
        return BoxOrder.BATCH_OUTERMOST
    return BoxOrder.AXIS_OUTERMOST if problem.batch == 1 else BoxOrder.HEADS_FOLDED


def most_tokens(dilation: int) -> int:
    """Most tokens of a dilation group along one axis of a box."""
    return (_MOST_BOX - 1) // dilation + 1


def encode_boxes(
    array: DeviceArray,
    order: BoxOrder,
    tile: tuple[int, ...],
    dilation: tuple[int, ...],
    box_channels: int = BLOCK_CHANNELS,
) -> bytes:
    """Describe boxes of some channels of one head and a tile of tokens.

    Parameters
    ----------
    array : DeviceArray
        ``[batch, *spatial, heads, channels]`` of a 16-bit type, channels contiguous.
    order : BoxOrder
    tile : tuple of int
        Tokens along each spatial axis.
    dilation : tuple of int
        Distance between them.
    box_channels : {64, 32}
        Channels of a box; its rows lie under the swizzle of their length.

    Returns
    -------
    bytes
        128 of them, for a kernel's parameters.

    Raises
    ------
    RuntimeError
        If the driver refuses the layout.
    """
    batch, *spatial, heads, channels = array.shape
    batch_step, *steps, head_step, _ = array.strides
    # Innermost first: extent, step in elements, box extent, distance.
    tokens = [
        (length, step, (count - 1) * gap + 1, gap if count > 1 else 1)
        for length, step, count, gap in zip(spatial, steps, tile, dilation, strict=True)
    ][::-1]
    entries = (batch, batch_step, 1, 1)
    if order == BoxOrder.HEADS_FOLDED:
        folded = (heads - 1) * head_step + channels
        axes = [(folded, 1, box_channels, 1), *tokens, entries]
    else:
        axes = [(channels, 1, box_channels, 1), (heads, head_step, 1, 1), *tokens]
        missing = (1, 1, 1, 1)
        axes += [missing] * (4 - len(axes))
        if order == BoxOrder.BATCH_OUTERMOST:
            axes.append(entries)
    return _encode(array.pointer, array.dtype, tuple(axes))


def replace_address(tensor_map: int, pointer: int) -> None:
    """Let a descriptor describe another array of the same layout.

    Parameters
    ----------
    tensor_map : int
        Address of the 128 bytes, a multiple of 64.
    pointer : int
        Device address of the array.

    Raises
    ------
    RuntimeError
        If the driver refuses the address.
    """
    status = _replace()(tensor_map, pointer)
    if status:
        raise RuntimeError(f"cuTensorMapReplaceAddress failed with {status} for {pointer:#x}")


@cache
def _driver() -> Any:
    # These calls are shorter than giving the interpreter's lock away and getting it back.
    return ctypes.PyDLL("libcuda.so.1")


@cache
def _replace() -> Any:
    replace = _driver().cuTensorMapReplaceAddress
    replace.argtypes = (ctypes.c_void_p, ctypes.c_void_p)
    return replace


@lru_cache(maxsize=4096)
def _encode(pointer: int, dtype: str, axes: tuple[tuple[int, int, int, int], ...]) -> bytes:
    rank = len(axes)
    lengths, steps, boxes, gaps = zip(*axes, strict=True)
    # The step of an axis of one element is never taken, and may be anything.
    strides = [
        step * _ITEM_BYTES if length > 1 else BLOCK_CHANNELS * _ITEM_BYTES
        for length, step in zip(lengths[1:], steps[1:], strict=True)
    ]
    storage = ctypes.create_string_buffer(TENSOR_MAP_BYTES + ALIGNMENT)
    aligned = -(-ctypes.addressof(storage) // ALIGNMENT) * ALIGNMENT
    status = _driver().cuTensorMapEncodeTiled(
        ctypes.c_void_p(aligned),
        _DATA_TYPE[dtype],
        ctypes.c_uint32(rank),
        ctypes.c_void_p(pointer),
        (ctypes.c_uint64 * rank)(*lengths),
        (ctypes.c_uint64 * (rank - 1))(*strides),
        (ctypes.c_uint32 * rank)(*boxes),
        (ctypes.c_uint32 * rank)(*gaps),
        _INTERLEAVE_NONE,
        _SWIZZLE[boxes[0]],
        _L2_PROMOTION_256B,
        _FILL_ZEROS,
    )
    if status:
        raise RuntimeError(
            f"cuTensorMapEncodeTiled failed with {status} for extents {lengths}, strides "
            f"{strides} bytes, box {boxes} and distances {gaps} at {pointer:#x}"
        )
    return ctypes.string_at(aligned, TENSOR_MAP_BYTES)
