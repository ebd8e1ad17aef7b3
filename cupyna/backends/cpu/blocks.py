"""Tiles of the user's arrays as matrices: rows of tokens, one matrix for each key/value head."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from ...problem import Problem
from ...tiles import BoxTile, Tile, TilePlan
from .scratch import Scratch

__all__ = ["additive_mask", "box_index", "read", "relative_positions", "tile_index", "write"]

Index = tuple[Any, ...]


def tile_index(problem: Problem, tile: Tile) -> Index:
    """Where the tile's own tokens are in the spatial axes."""
    return tuple(
        axis.tokens(own.group, own.begin, own.end)
        for axis, own in zip(problem.axes, tile.axes, strict=True)
    )


def box_index(problem: Problem, tile: Tile, box: BoxTile) -> Index:
    """Where the tokens of one of the tile's box tiles are in the spatial axes."""
    return tuple(
        axis.tokens(own.group, begin, end)
        for axis, own, begin, end in zip(problem.axes, tile.axes, box.begin, box.end, strict=True)
    )


def read(
    problem: Problem,
    array: np.ndarray,
    batch: int,
    index: Index,
    scratch: Scratch,
    name: str,
    ones: int = 0,
) -> np.ndarray:
    """A block as matrices ``[kv_heads, head_group * tokens, channels]`` of the accumulator's type.

    The query heads that share a key/value head are stacked, so that one product serves them all.
    `ones` more channels hold 1. The matrices lie in the scratch memory of that name.
    """
    block = _heads_first(array[(batch, *index)])
    *lead, channels = block.shape
    matrices = scratch.array(name, (*lead, channels + ones), problem.accumulator)
    matrices[..., :channels] = block
    matrices[..., channels:] = 1
    return matrices.reshape(problem.kv_heads, -1, channels + ones)


def write(
    problem: Problem, array: np.ndarray, batch: int, index: Index, matrices: np.ndarray
) -> None:
    """Store matrices that :func:`read` would have given, rounded to the array's type."""
    target = _heads_first(array[(batch, *index)])
    target[...] = matrices.reshape(target.shape)


def _heads_first(block: np.ndarray) -> np.ndarray:
    """``[heads, *extent, channels]``; what np.moveaxis gives, at a tenth of its time per tile."""
    heads = block.ndim - 2
    return block.transpose(heads, *range(heads), heads + 1)


def additive_mask(plan: TilePlan, tile: Tile, box: BoxTile, dtype: str) -> np.ndarray | None:
    """``[tile tokens, box tokens]``: 0 where a pair is wanted, -inf elsewhere; None if all are.

    Adding it lets a non-finite score of an unwanted pair through as NaN, which the library
    documents: such an input may reach every query whose tile's key box holds it.
    """
    if box.is_dense:
        return None
    masks = plan.axis_masks(tile, box)
    return _outer_mask(tuple((m.shape, m.tobytes()) for m in masks), dtype)


@lru_cache(maxsize=256)
def _outer_mask(axis_masks: tuple[tuple[tuple[int, ...], bytes], ...], dtype: str) -> np.ndarray:
    """Product of the axis masks. Tiles away from borders share one, hence the cache."""
    wanted = np.ones((1, 1), bool)
    for shape, bits in axis_masks:
        axis = np.frombuffer(bits, bool).reshape(shape)
        wanted = np.einsum("ik,jl->ijkl", wanted, axis).reshape(
            wanted.shape[0] * shape[0], wanted.shape[1] * shape[1]
        )
    mask = np.where(wanted, 0.0, -np.inf).astype(dtype)
    mask.flags.writeable = False
    return mask


def relative_positions(problem: Problem, plan: TilePlan, tile: Tile, box: BoxTile) -> np.ndarray:
    """Flat index into the bias of every pair, ``[query tokens, key tokens]``.

    Pairs outside a window are clipped to some entry: they carry weight zero.
    """
    flat = np.zeros((1, 1), np.int64)
    for size, own, begin, end in zip(
        problem.kernel_size, tile.axes, box.begin, box.end, strict=True
    ):
        mine, other = np.arange(own.begin, own.end), np.arange(begin, end)
        queries, keys = (mine, other) if plan.side == "query" else (other, mine)
        relative = np.clip(keys - queries[:, None] + size - 1, 0, 2 * size - 2)
        combined = flat[:, None, :, None] * (2 * size - 1) + relative[None, :, None, :]
        flat = combined.reshape(flat.shape[0] * len(queries), flat.shape[1] * len(keys))
    return flat
