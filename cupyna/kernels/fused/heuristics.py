"""Problem + device -> variant and tile shapes of the fused kernels, by a cost model.

Pure functions: the same problem on the same figures always gives the same choice.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from cupyna.problem import DeviceSpec, Problem
from cupyna.tiles import TilePlan

from .shapes import BIAS_SHAPES, FORWARD_SHAPES, GRADIENT_SHAPES, FusedShape

__all__ = [
    "FusedChoice",
    "Pass",
    "cheapest_tiling",
    "fused_choices",
    "fused_forward_choice",
    "fused_gradient_choices",
    "gradient_time_us",
    "is_of_three",
    "is_served",
    "lone_gradient_choice",
]

# Clocks of one multiprocessor: per multiplication of a pair's channel, per pair of softmax and of
# mask, per 16 bytes copied into shared memory, per column tile and per row tile for all the rest,
# more per column tile where its rows come with it, and the part of a multiplication where warps of
# 32 rows split columns, which reads less shared memory.
# Fitted to 69 tilings of 11 forward problems measured on an H200, with a root-mean-square error of
# 16 %.
_MULTIPLY = 1.0e-3
_SOFTMAX = 0.058
_MASK = 0.217
_COPY = 0.245
_COLUMN_TILE = 323.0
_TILE = 1880.0
_PAIR_OF_TILES = 6200.0
_TALL_SPLIT = 0.8
# What forward takes more where eight warps, alone on a multiprocessor, meet at every barrier (of 8
# problems, in which such blocks took 0.89 to 1.09 of the time of blocks of four warps).
_EIGHT_WARPS = 1.1
# The same of products of three TF32 numbers, which take so long that little else counts: per
# multiplication of a pair's channel for all that a block computes, as warps that skip a tile wait
# for those that do not, and more for what its warps compute; per pair of mask, per column tile, per
# row tile, and per channel of its rows, the last two twice where a block is alone on its
# multiprocessor. Fewer warps than twelve leave more of it idle, most of all before their first
# product, which takes longer for more channels. Few columns at a time meet rows of many channels
# that are split anew for each. Fitted to 1554 tilings of 218 problems, with root-mean-square errors
# of 7 %.
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
_CLOCKS_PER_US = 1700.0
_LAUNCH_US = 3.0

# Matrix products of each pair of tokens.
_MULTIPLICATIONS = {
    ("forward", "query"): 2, ("gradient", "query"): 3, ("gradient", "key"): 4,
    ("bias_gradient", "query"): 2,
}  # fmt: skip

_TWO_PASSES = [shape for shape in GRADIENT_SHAPES if not shape.sums_queries]

# Forward, and of backward the pass over queries, the one over keys, and the one for both.
Pass = Literal["forward", "query", "key", "both"]

_SHAPES: dict[Pass, Sequence[FusedShape]] = {
    "forward": FORWARD_SHAPES,
    "query": [shape for shape in _TWO_PASSES if shape.side == "query"],
    "key": [shape for shape in _TWO_PASSES if shape.side == "key"],
    "both": [shape for shape in GRADIENT_SHAPES if shape.sums_queries],
}

_COLUMN_EXTENTS = (1, 2, 3, 4, 6, 8, 10, 12, 16, 20, 24, 32, 64, 128)


@dataclass(frozen=True, slots=True)
class FusedChoice:
    """A compiled shape with the tiles it runs.

    Parameters
    ----------
    shape : FusedShape
        The variant.
    row_tile, column_tile : tuple of int
        Extents along each axis: of queries and keys, or the reverse where rows are keys.
    time_us : float
        Expected time.
    """

    shape: FusedShape
    row_tile: tuple[int, ...]
    column_tile: tuple[int, ...]
    time_us: float

    def plan(self, problem: Problem) -> TilePlan:
        """The walk of every block."""
        return TilePlan(problem.axes, self.row_tile, self.column_tile, self.shape.side)

    def products(self, problem: Problem) -> TilePlan:
        """The products of every warp, which skips what its own rows do not meet."""
        rows = warp_tile(self.row_tile, self.shape.warp_rows)
        return TilePlan(problem.axes, rows, self.column_tile, self.shape.side)


@lru_cache(maxsize=1024)
def fused_forward_choice(
    problem: Problem, device: DeviceSpec, has_additional: bool = False
) -> FusedChoice:
    """The cheapest variant and tiles of forward, perhaps with keys beside the windows.

    Raises
    ------
    ValueError
        If no compiled shape has enough channels.
    """
    shapes = [s for s in FORWARD_SHAPES if s.takes_additional or not has_additional]
    return _cheapest(problem, device, shapes)


@lru_cache(maxsize=1024)
def fused_gradient_choices(problem: Problem, device: DeviceSpec) -> tuple[FusedChoice, ...]:
    """The passes of backward: over queries and then over keys, or one over keys for both.

    Raises
    ------
    ValueError
        If no compiled shape has enough channels.
    """
    lone = lone_gradient_choice(problem, device)
    passes = tuple(
        _cheapest(problem, device, [s for s in _TWO_PASSES if s.side == side])
        for side in ("query", "key")
    )
    if lone is None or problem.deterministic:
        return passes
    lone_us = gradient_time_us(problem, device, (lone,))
    return (lone,) if lone_us < gradient_time_us(problem, device, passes) else passes


def gradient_time_us(
    problem: Problem, device: DeviceSpec, passes: tuple[FusedChoice, ...]
) -> float:
    """Expected time of the passes of backward, with all that goes with them."""
    time_us = sum(chosen.time_us for chosen in passes)
    if len(passes) > 1:
        return time_us
    # Sums of queries are cleared before, and read and rounded after.
    queries = problem.batch * problem.heads * math.prod(problem.spatial)
    moved_bytes = queries * (problem.head_dim * (4 + 4 + 2) + problem.value_dim * 4)
    return time_us + moved_bytes / device.bytes_per_us + _LAUNCH_US


def fused_choices(problem: Problem, device: DeviceSpec, side: Pass) -> list[FusedChoice]:
    """Every tiling of a pass that the device holds, the cheapest first; none where it has none."""
    shapes = _fitting(problem, device, _SHAPES[side])
    return sorted(_tilings(problem, device, shapes), key=lambda choice: choice.time_us)


def lone_gradient_choice(problem: Problem, device: DeviceSpec) -> FusedChoice | None:
    """The cheapest pass over keys that gives all gradients; None where no shape serves."""
    return cheapest_tiling(problem, device, _SHAPES["both"])


def _fitting(
    problem: Problem, device: DeviceSpec, shapes: Sequence[FusedShape]
) -> list[FusedShape]:
    """Shapes of the fewest channels that hold a problem's, on a device that holds the shape."""
    fitting = [s for s in shapes if s.serves(problem) and s.smem_bytes <= device.smem_bytes]
    least = min((shape.head_dim for shape in fitting), default=0)
    fitting = [shape for shape in fitting if shape.head_dim == least]
    if problem.item_bytes != 4:
        return fitting
    # Small blocks are fast where a multiprocessor holds as many as they are compiled for.
    return [s for s in fitting if s.blocks * s.smem_bytes <= device.smem_bytes] or fitting


def is_served(problem: Problem, device: DeviceSpec, direction: str) -> bool:
    """Whether the device holds a shape for each pass of a direction."""
    passes = [_SHAPES["forward"]] if direction == "forward" else [_SHAPES["query"], _SHAPES["key"]]
    if direction == "backward" and problem.has_bias:
        passes.append(BIAS_SHAPES)
    return all(_fitting(problem, device, shapes) for shapes in passes)


def cheapest_tiling(
    problem: Problem, device: DeviceSpec, shapes: Sequence[FusedShape]
) -> FusedChoice | None:
    """The cheapest tiles of some shapes; None where none serves."""
    fitting = _fitting(problem, device, shapes)
    if not fitting:
        return None
    return min(_tilings(problem, device, fitting), key=lambda choice: choice.time_us)


def _cheapest(problem: Problem, device: DeviceSpec, shapes: Sequence[FusedShape]) -> FusedChoice:
    choice = cheapest_tiling(problem, device, shapes)
    if choice is None:
        channels = max(problem.head_dim, problem.value_dim)
        raise ValueError(f"no fused kernel has {channels} channels")
    return choice


def _tilings(
    problem: Problem, device: DeviceSpec, shapes: Sequence[FusedShape]
) -> Iterator[FusedChoice]:
    return (
        FusedChoice(shape, rows, columns, _time_us(problem, device, shape, rows, columns))
        for shape in shapes
        for rows in _row_tiles(problem, shape.rows)
        for columns in _column_tiles(problem, rows, shape)
    )


def warp_tile(row_tile: tuple[int, ...], rows: int) -> tuple[int, ...]:
    """The box of a tile's first `rows` rows, the last axis fastest."""
    extents = []
    for extent in reversed(row_tile):
        extents.append(min(extent, rows))
        rows //= extents[-1]
    return tuple(reversed(extents))


def _time_us(
    problem: Problem,
    device: DeviceSpec,
    shape: FusedShape,
    row_tile: tuple[int, ...],
    column_tile: tuple[int, ...],
) -> float:
    block = TilePlan(problem.axes, row_tile, column_tile, shape.side).counts
    # Warps skip and mask by their own rows.
    warp_rows = warp_tile(row_tile, shape.warp_rows)
    warp = TilePlan(problem.axes, warp_rows, column_tile, shape.side).counts
    padding = shape.columns / math.prod(column_tile)
    products = warp.computed_products * padding
    is_whole = padding == 1 and not problem.has_bias
    masked = products - (warp.dense_products if is_whole else 0)
    row_heads = problem.heads if shape.side == "query" else problem.kv_heads
    multiplications: float = _MULTIPLICATIONS[shape.direction, shape.side] + shape.sums_queries
    if shape.shares > 1 and not shape.splits:  # each share computes all weights and their gradients
        multiplications += (1 if shape.direction == "forward" else 2) * (shape.shares - 1)
    if shape.splits and shape.row_tiles > 1:
        multiplications *= _TALL_SPLIT
    if is_of_three(problem, shape):
        is_idle = shape.blocks * shape.warps * shape.shares < _ENOUGH_WARPS
        multiplications *= _IDLE if is_idle else 1
        if shape.column_block <= _FEW_COLUMNS and shape.head_dim >= _MANY_CHANNELS:
            multiplications *= _SPLIT_AGAIN
        together = block.computed_products * padding * _THREE_OF_BLOCK + products * _THREE_OF_WARPS
        clocks_of_heads = problem.heads * (
            together * multiplications * shape.head_dim
            + masked * _THREE_MASK
            + block.box_tiles * _THREE_COLUMN_TILE
        )
        tile_clocks = _THREE_TILE + _THREE_ROW_CHANNEL * shape.rows * shape.head_dim
        tile_clocks *= 2 if 2 * shape.smem_bytes > device.smem_bytes else 1
        tile_clocks += _IDLE_TILE_CHANNEL * shape.head_dim if is_idle else 0
    else:
        if shape.item_bytes == 4:  # TF32 has half the rate of 16-bit elements
            multiplications *= 2 if problem.allow_tf32 and shape.has_tf32 else 6
        copied = shape.columns
        column_tile_clocks = _COLUMN_TILE
        if shape.direction == "bias_gradient":  # rows and their windows change with the columns
            copied += shape.rows
            column_tile_clocks += _PAIR_OF_TILES
        chunks = block.box_tiles * copied * shape.head_dim * shape.item_bytes / 16 * 2
        # Keys meet the queries of every head that reads theirs.
        clocks_of_heads = problem.heads * (
            products * multiplications * shape.head_dim * _MULTIPLY
            + products * _SOFTMAX
            + masked * _MASK
            + chunks * _COPY
            + block.box_tiles * column_tile_clocks
        )
        tile_clocks = _TILE
        if shape.direction == "forward" and shape.warps == 8:
            clocks_of_heads *= _EIGHT_WARPS
    clocks = problem.batch * (clocks_of_heads + row_heads * block.tiles * tile_clocks)
    blocks = problem.batch * row_heads * block.tiles
    waves = max(1.0, device.processors / max(1, blocks))
    return clocks * waves / device.processors / _CLOCKS_PER_US


def is_of_three(problem: Problem, shape: FusedShape) -> bool:
    """Whether a pass multiplies float32 as three products of TF32 numbers."""
    is_pass = shape.direction in ("forward", "gradient")
    return shape.item_bytes == 4 and is_pass and not (problem.allow_tf32 and shape.has_tf32)


def _row_tiles(problem: Problem, rows: int) -> list[tuple[int, ...]]:
    """Powers of two whose product is `rows`, none twice as long as its axis if that can be."""
    powers = [1 << i for i in range(rows.bit_length())]
    tiles = [t for t in itertools.product(powers, repeat=problem.rank) if math.prod(t) == rows]
    lengths = [axis.group_length(0) for axis in problem.axes]
    fitting = [
        tile
        for tile in tiles
        if all(extent < 2 * length for extent, length in zip(tile, lengths, strict=True))
    ]
    return fitting or tiles


def _column_tiles(
    problem: Problem, row_tile: tuple[int, ...], shape: FusedShape
) -> Iterator[tuple[int, ...]]:
    """Extents whose product fills at least three quarters of the columns, if the box allows it."""
    box = TilePlan(problem.axes, row_tile, row_tile, shape.side).largest_box
    along = [
        sorted({e for e in (*_COLUMN_EXTENTS, extent) if e <= min(extent, shape.columns)})
        for extent in box
    ]
    tiles = [t for t in itertools.product(*along) if math.prod(t) <= shape.columns]
    most = max(math.prod(tile) for tile in tiles)
    return (tile for tile in tiles if math.prod(tile) * 4 >= most * 3)
