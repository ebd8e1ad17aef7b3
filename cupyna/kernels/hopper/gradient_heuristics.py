"""Problem + device -> shapes and tiles of the fused backward on Hopper, by a cost model."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from cupyna.problem import DeviceSpec, Problem
from cupyna.tiles import TilePlan

from ..fused.heuristics import warp_tile
from .gradient_shapes import HOPPER_GRADIENT_SHAPES, HopperGradientShape
from .shapes import WARP_ROWS
from .tilings import block_tile, column_tiles, consumer_tiles

__all__ = [
    "HopperGradientChoice",
    "column_tile_us",
    "hopper_gradient_choices",
    "hopper_gradient_passes",
    "passes_us",
    "row_tile_us",
]

# Clocks of one multiprocessor: per multiplication of a pair's channel, per pair of softmax and of
# mask, per query whose sums are added to memory, per tile of columns (fitted to 43 runs of 14
# problems on an H200), more per query where they are added alone (30 runs of dilated problems), and
# per tile of rows where shared memory holds one of them or two (chosen for 21 runs of 5 problems,
# which all of these meet with a root-mean-square error of 7 %).
_MULTIPLY = 0.491e-3
_SOFTMAX = 0.044
_MASK = 0.0114
_ADD = 18.7
_ADD_ALONE = 10.0
_COLUMN_TILE = 627.0
_ROW_TILE = {1: 10000.0, 2: 5500.0}
_CLOCKS_PER_US = 1700.0
_LAUNCH_US = 3.0

# Steps of a walk, by tiles of rows in shared memory, that are too few to hide the next tile's
# copies behind them, and the clocks of a channel that waiting takes (25 runs of 12 problems).
_SHORT_WALK = {1: 3.0, 2: 2.0}
_WAIT = 40.0

# Share of the work that a consumer leaves out which its block saves: where consumers exchange
# nothing, one that is ahead stays ahead, and hardly waits for the other.
_SKIPPED = 0.9
_SKIPPED_TOGETHER = 0.5


@dataclass(frozen=True, slots=True)
class HopperGradientChoice:
    """A compiled shape with the tiles it runs.

    Parameters
    ----------
    shape : HopperGradientShape
        The variant.
    consumer_tile, column_tile : tuple of int
        Extents along each axis: of the rows of one consumer, and of columns.
    split_axis : int
        The axis along which the tiles of consumers are neighbors.
    time_us : float
        Expected time.
    """

    shape: HopperGradientShape
    consumer_tile: tuple[int, ...]
    column_tile: tuple[int, ...]
    split_axis: int
    time_us: float

    @property
    def row_tile(self) -> tuple[int, ...]:
        """Rows of one block."""
        return block_tile(self.consumer_tile, self.split_axis, self.shape.consumers)

    def plan(self, problem: Problem) -> TilePlan:
        """The walk of every block."""
        return TilePlan(problem.axes, self.row_tile, self.column_tile, self.shape.side)

    def products(self, problem: Problem) -> TilePlan:
        """The products of every consumer, which skips what its own rows do not meet."""
        return TilePlan(problem.axes, self.consumer_tile, self.column_tile, self.shape.side)


@lru_cache(maxsize=1024)
def hopper_gradient_passes(
    problem: Problem, device: DeviceSpec
) -> tuple[HopperGradientChoice, ...]:
    """The cheapest passes: one over keys for all gradients, or one over queries and one over keys.

    Raises
    ------
    ValueError
        If no compiled shape has enough channels.
    """
    choices = list(hopper_gradient_choices(problem, device))
    if not choices:
        channels = max(problem.head_dim, problem.value_dim)
        raise ValueError(f"no fused kernel has {channels} channels")

    def cheapest(side: str, sums_queries: bool) -> HopperGradientChoice:
        of_pass = [
            c for c in choices if (c.shape.side, c.shape.sums_queries) == (side, sums_queries)
        ]
        return min(of_pass, key=lambda choice: choice.time_us)

    two = (cheapest("query", False), cheapest("key", False))
    if problem.deterministic:
        return two
    one = (cheapest("key", True),)
    return min(one, two, key=lambda passes: passes_us(problem, device, passes))


def passes_us(
    problem: Problem, device: DeviceSpec, passes: tuple[HopperGradientChoice, ...]
) -> float:
    """Expected time with the small kernels before and after."""
    queries = problem.batch * problem.heads * math.prod(problem.spatial)
    moved_bytes = queries * problem.value_dim * 4
    launches = 1
    if len(passes) == 1:
        # Sums of queries are cleared before, and read and rounded after.
        moved_bytes += queries * problem.head_dim * (4 + 4 + 2)
        launches += 1
    small_us = moved_bytes / device.bytes_per_us + launches * _LAUNCH_US
    return small_us + sum(chosen.time_us for chosen in passes)


def row_tile_us(shape: HopperGradientShape) -> float:
    """Time of a tile of rows beside its columns."""
    return _ROW_TILE[shape.row_buffers] / _CLOCKS_PER_US


def column_tile_us(shape: HopperGradientShape) -> float:
    """Time of one step of the walk, all of whose pairs are wanted."""
    pairs = shape.rows * shape.columns
    multiplied = shape.multiplications * shape.head_dim * _MULTIPLY
    added = shape.sums_queries * shape.columns * _ADD
    return (pairs * (multiplied + _SOFTMAX) + added + _COLUMN_TILE) / _CLOCKS_PER_US


def hopper_gradient_choices(problem: Problem, device: DeviceSpec) -> Iterator[HopperGradientChoice]:
    """Every shape with every tile that the kernels can run."""
    channels = max(problem.head_dim, problem.value_dim)
    fitting = [shape for shape in HOPPER_GRADIENT_SHAPES if shape.head_dim >= channels]
    least = min((shape.head_dim for shape in fitting), default=0)
    for shape in fitting:
        if shape.head_dim != least:
            continue
        for consumer_tile, split_axis in consumer_tiles(problem, shape.consumers):
            unpriced = HopperGradientChoice(shape, consumer_tile, (), split_axis, 0.0)
            for column_tile in column_tiles(problem, shape.columns, unpriced.row_tile, shape.side):
                time_us = _time_us(
                    problem, device, shape, unpriced.row_tile, consumer_tile, column_tile
                )
                yield HopperGradientChoice(shape, consumer_tile, column_tile, split_axis, time_us)


def _time_us(
    problem: Problem,
    device: DeviceSpec,
    shape: HopperGradientShape,
    row_tile: tuple[int, ...],
    consumer_tile: tuple[int, ...],
    column_tile: tuple[int, ...],
) -> float:
    block = TilePlan(problem.axes, row_tile, column_tile, shape.side).counts
    consumer = TilePlan(problem.axes, consumer_tile, column_tile, shape.side).counts
    of_warp = warp_tile(consumer_tile, WARP_ROWS)
    warp = TilePlan(problem.axes, of_warp, column_tile, shape.side).counts
    padding = shape.columns / math.prod(column_tile)
    computed = padding * consumer.computed_products
    skipped = _SKIPPED_TOGETHER if shape.sums_queries else _SKIPPED
    # A run of neighbors is one addition; tokens of a dilated line have no neighbors.
    add = _ADD + (_ADD_ALONE if problem.dilation[-1] > 1 else 0.0)
    products = (1 - skipped) * padding * block.computed_products + skipped * computed
    dense = warp.dense_products if padding == 1 else 0
    clocks_of_heads = problem.heads * (
        products * (shape.multiplications * shape.head_dim * _MULTIPLY + _SOFTMAX)
        + max(0.0, computed - dense) * _MASK
        + block.box_tiles * (_COLUMN_TILE + shape.sums_queries * shape.columns * add)
    )
    row_heads = problem.heads if shape.side == "query" else problem.kv_heads
    is_short = 1 < block.box_tiles / block.tiles <= _SHORT_WALK[shape.row_buffers]
    of_tile = _ROW_TILE[shape.row_buffers] + is_short * _WAIT * shape.head_dim
    clocks_of_tiles = row_heads * block.tiles * of_tile
    clocks = problem.batch * (clocks_of_heads + clocks_of_tiles)
    blocks = problem.batch * row_heads * block.tiles
    waves = -(-blocks // device.processors) * device.processors / blocks
    return clocks * waves / device.processors / _CLOCKS_PER_US
