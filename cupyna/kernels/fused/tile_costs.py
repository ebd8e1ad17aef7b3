"""What tiles of the fused kernels cost, by models in clocks of one multiprocessor.

There are two: products of three TF32 numbers take so long that little else counts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from cupyna.problem import DeviceSpec, Problem
from cupyna.tiles import Counts, TilePlan

from .shapes import FusedShape

__all__ = ["LAUNCH_US", "Work", "is_of_three", "time_us", "warp_tile", "work_of"]

LAUNCH_US = 3.0
_CLOCKS_PER_US = 1700.0

# Matrix products of each pair of tokens.
_MULTIPLICATIONS = {
    ("forward", "query"): 2, ("gradient", "query"): 3, ("gradient", "key"): 4,
    ("bias_gradient", "query"): 2,
}  # fmt: skip
# The part of a multiplication where warps of 32 rows split columns, which reads less shared memory.
_TALL_SPLIT = 0.8

# Per multiplication of a pair's channel, per pair of softmax and of mask, per 16 bytes copied into
# shared memory, per column tile and per row tile for all the rest, and more per column tile where
# its rows come with it. Fitted to 69 tilings of 11 forward problems measured on an H200, with a
# root-mean-square error of 16 %.
_MULTIPLY = 1.0e-3
_SOFTMAX = 0.058
_MASK = 0.217
_COPY = 0.245
_COLUMN_TILE = 323.0
_TILE = 1880.0
_PAIR_OF_TILES = 6200.0
# What forward takes more where eight warps, alone on a multiprocessor, meet at every barrier (of 8
# problems, in which such blocks took 0.89 to 1.09 of the time of blocks of four warps).
_EIGHT_WARPS = 1.1
# Products of TF32 numbers, of half the rate of 16-bit elements, and of three of them.
_TF32 = 2
_THREE_TF32 = 6

# Of products of three TF32 numbers: per multiplication of a pair's channel for all that a block
# computes, as warps that skip a tile wait for those that do not, and more for what its warps
# compute; per pair of mask, per column tile, per row tile, and per channel of its rows, the last
# two twice where a block is alone on its multiprocessor. Fewer warps than twelve leave more of it
# idle, most of all before their first product, which takes longer for more channels. Few columns at
# a time meet rows of many channels that are split anew for each. Fitted to 1554 tilings of 218
# problems, with root-mean-square errors of 7 %.
_THREE_OF_BLOCK = 5.4e-3
_THREE_OF_WARPS = 1.85e-3
_THREE_MASK = 0.15
_THREE_COLUMN_TILE = 140.0
_THREE_TILE = 620.0
_THREE_ROW_CHANNEL = 0.55
_ENOUGH_WARPS = 12
_IDLE = 1.05
_IDLE_TILE_CHANNEL = 14.0
_FEW_COLUMNS = 16
_MANY_CHANNELS = 128
_SPLIT_AGAIN = 1.11


@dataclass(frozen=True, slots=True)
class Work:
    """What a pass does for one head.

    Parameters
    ----------
    block : Counts
        Of the walk of every block.
    of_block, of_warps : float
        Pairs in whole column tiles that blocks walk, and that their warps do not skip.
    masked : float
        Pairs of these warps in tiles that need a mask.
    multiplications : float
        Products for each of the pairs.
    """

    block: Counts
    of_block: float
    of_warps: float
    masked: float
    multiplications: float


def time_us(
    problem: Problem,
    device: DeviceSpec,
    shape: FusedShape,
    row_tile: tuple[int, ...],
    column_tile: tuple[int, ...],
) -> float:
    """Expected time of a pass with given tiles."""
    work = work_of(problem, shape, row_tile, column_tile)
    if is_of_three(problem, shape):
        head_clocks, tile_clocks = _of_three(device, shape, work)
    else:
        head_clocks, tile_clocks = _of_one(problem, shape, work)
    # Keys meet the queries of every head that reads theirs.
    row_heads = problem.heads if shape.side == "query" else problem.kv_heads
    blocks = problem.batch * row_heads * work.block.tiles
    clocks = problem.batch * problem.heads * head_clocks + blocks * tile_clocks
    waves = max(1.0, device.processors / max(1, blocks))
    return clocks * waves / device.processors / _CLOCKS_PER_US


def is_of_three(problem: Problem, shape: FusedShape) -> bool:
    """Whether a pass multiplies float32 as three products of TF32 numbers."""
    is_pass = shape.direction in ("forward", "gradient")
    return shape.item_bytes == 4 and is_pass and not (problem.allow_tf32 and shape.has_tf32)


def warp_tile(row_tile: tuple[int, ...], rows: int) -> tuple[int, ...]:
    """The box of a tile's first `rows` rows, the last axis fastest."""
    extents = []
    for extent in reversed(row_tile):
        extents.append(min(extent, rows))
        rows //= extents[-1]
    return tuple(reversed(extents))


def work_of(
    problem: Problem,
    shape: FusedShape,
    row_tile: tuple[int, ...],
    column_tile: tuple[int, ...],
) -> Work:
    """What a pass with given tiles does."""
    block = TilePlan(problem.axes, row_tile, column_tile, shape.side).counts
    # Warps skip and mask by their own rows.
    warp_rows = warp_tile(row_tile, shape.warp_rows)
    warp = TilePlan(problem.axes, warp_rows, column_tile, shape.side).counts
    padding = shape.columns / math.prod(column_tile)
    of_warps = warp.computed_products * padding
    is_whole = padding == 1 and not problem.has_bias
    multiplications: float = _MULTIPLICATIONS[shape.direction, shape.side] + shape.sums_queries
    if shape.shares > 1 and not shape.splits:  # each share computes all weights and their gradients
        multiplications += (1 if shape.direction == "forward" else 2) * (shape.shares - 1)
    if shape.splits and shape.row_tiles > 1:
        multiplications *= _TALL_SPLIT
    return Work(
        block,
        of_block=block.computed_products * padding,
        of_warps=of_warps,
        masked=of_warps - (warp.dense_products if is_whole else 0),
        multiplications=multiplications,
    )


def _of_one(problem: Problem, shape: FusedShape, work: Work) -> tuple[float, float]:
    """Clocks of one head's walks, and of one row tile beside them."""
    multiplications = work.multiplications
    if shape.item_bytes == 4:
        multiplications *= _TF32 if problem.allow_tf32 and shape.has_tf32 else _THREE_TF32
    copied, column_tile_clocks = shape.columns, _COLUMN_TILE
    if shape.direction == "bias_gradient":  # rows and their windows change with the columns
        copied += shape.rows
        column_tile_clocks += _PAIR_OF_TILES
    # Both arrays of the columns.
    chunks = 2 * copied * shape.head_dim * shape.item_bytes / 16
    head_clocks = (
        work.of_warps * (multiplications * shape.head_dim * _MULTIPLY + _SOFTMAX)
        + work.masked * _MASK
        + work.block.box_tiles * (chunks * _COPY + column_tile_clocks)
    )
    if shape.direction == "forward" and shape.warps == 8:
        head_clocks *= _EIGHT_WARPS
    return head_clocks, _TILE


def _of_three(device: DeviceSpec, shape: FusedShape, work: Work) -> tuple[float, float]:
    """The same of products of three TF32 numbers."""
    is_idle = shape.blocks * shape.warps * shape.shares < _ENOUGH_WARPS
    multiplications = work.multiplications * (_IDLE if is_idle else 1)
    if shape.column_block <= _FEW_COLUMNS and shape.head_dim >= _MANY_CHANNELS:
        multiplications *= _SPLIT_AGAIN
    pairs = work.of_block * _THREE_OF_BLOCK + work.of_warps * _THREE_OF_WARPS
    head_clocks = (
        pairs * multiplications * shape.head_dim
        + work.masked * _THREE_MASK
        + work.block.box_tiles * _THREE_COLUMN_TILE
    )
    tile_clocks = _THREE_TILE + _THREE_ROW_CHANNEL * shape.rows * shape.head_dim
    tile_clocks *= 2 if 2 * shape.smem_bytes > device.smem_bytes else 1
    return head_clocks, tile_clocks + (_IDLE_TILE_CHANNEL * shape.head_dim if is_idle else 0)
