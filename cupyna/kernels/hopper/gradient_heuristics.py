"""Problem + device -> shapes and tiles of the fused backward on Hopper, by a cost model."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache

from cupyna.problem import DeviceSpec, Problem
from cupyna.tiles import TilePlan

from ..fused.tile_costs import warp_tile
from .choice import GradientChoice, HopperChoice
from .gradient_shapes import HOPPER_GRADIENT_SHAPES, HopperGradientShape
from .shapes import WARP_ROWS
from .tilings import column_tiles, consumer_tiles

__all__ = [
    "column_tile_us",
    "hopper_gradient_choices",
    "hopper_gradient_passes",
    "passes_us",
    "row_tile_us",
]

# Clocks of one multiprocessor: per multiplication of a pair's channel, at least per pair, per pair
# that is masked, per query whose sums are added to memory and more where they are added alone, per
# tile of columns and of rows, and more where two steps of a walk do not hide the next tile's
# copies; and passes over the arrays of forward, which are felt beside the clocks, of a pass that
# adds no sums and of one that does. Fitted to 1020 passes of 141 problems measured on an H200, with
# a root-mean-square error of 6 %.
_MULTIPLY = 0.512e-3
_LEAST_PAIR = 0.0728
_MASK = 0.0032
_ADD = 15.1
_ADD_ALONE = 15.2
_COLUMN_TILE = 965.0
_ROW_TILE = 3830.0
_SHORT_WALK = 2.5
_WAIT = 810.0
_PASSES = {False: 1.95, True: 3.18}
_CLOCKS_PER_US = 1700.0

# Of the small kernels: what three launches that follow each other take beside their work (371
# problems, some random), and passes over the bytes of what they read for statistics, and of sums
# that they clear, read and round.
_LAUNCHES_US = 14.0
_STATISTICS_PASSES = 1.68
_SUMS_PASSES = 1.05


@lru_cache(maxsize=1024)
def hopper_gradient_passes(problem: Problem, device: DeviceSpec) -> tuple[GradientChoice, ...]:
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

    def cheapest(side: str, sums_queries: bool) -> GradientChoice:
        of_pass = [
            c for c in choices if (c.shape.side, c.shape.sums_queries) == (side, sums_queries)
        ]
        return min(of_pass, key=lambda choice: choice.time_us)

    two = (cheapest("query", False), cheapest("key", False))
    if problem.deterministic:
        return two
    one = (cheapest("key", True),)
    return min(one, two, key=lambda passes: passes_us(problem, device, passes))


def passes_us(problem: Problem, device: DeviceSpec, passes: tuple[GradientChoice, ...]) -> float:
    """Expected time with the small kernels before and after."""
    queries = problem.batch * problem.heads * math.prod(problem.spatial)
    moved_bytes = _STATISTICS_PASSES * queries * problem.value_dim * 4
    if len(passes) == 1:
        moved_bytes += _SUMS_PASSES * queries * problem.head_dim * (4 + 4 + 2)
    small_us = moved_bytes / device.bytes_per_us + _LAUNCHES_US
    return small_us + sum(chosen.time_us for chosen in passes)


def row_tile_us() -> float:
    """Time of a tile of rows beside its columns."""
    return _ROW_TILE / _CLOCKS_PER_US


def column_tile_us(shape: HopperGradientShape) -> float:
    """Time of one step of the walk, all of whose pairs are wanted."""
    pairs = shape.rows * shape.columns
    added = shape.sums_queries * shape.columns * _ADD
    return (pairs * _pair(shape) + added + _COLUMN_TILE) / _CLOCKS_PER_US


def _pair(shape: HopperGradientShape) -> float:
    return max(shape.multiplications * shape.head_dim * _MULTIPLY, _LEAST_PAIR)


def hopper_gradient_choices(problem: Problem, device: DeviceSpec) -> Iterator[GradientChoice]:
    """Every shape with every tile that the kernels can run."""
    channels = max(problem.head_dim, problem.value_dim)
    fitting = [shape for shape in HOPPER_GRADIENT_SHAPES if shape.head_dim >= channels]
    least = min((shape.head_dim for shape in fitting), default=0)
    for shape in fitting:
        if shape.head_dim != least:
            continue
        for consumer_tile, split_axis in consumer_tiles(problem, shape.consumers):
            unpriced = HopperChoice(shape, consumer_tile, (), split_axis, 0.0)
            for column_tile in column_tiles(problem, shape.columns, unpriced.row_tile, shape.side):
                choice = replace(unpriced, column_tile=column_tile)
                yield replace(choice, time_us=_time_us(problem, device, choice))


def _time_us(problem: Problem, device: DeviceSpec, choice: GradientChoice) -> float:
    shape = choice.shape
    block = choice.plan(problem).counts
    of_warp = warp_tile(choice.consumer_tile, WARP_ROWS)
    warp = TilePlan(problem.axes, of_warp, choice.column_tile, shape.side).counts
    padding = shape.columns / math.prod(choice.column_tile)
    computed = padding * choice.computed_products(problem)
    dense = warp.dense_products if padding == 1 else 0
    # A run of neighbors is one addition; tokens of a dilated line have no neighbors.
    add = _ADD + (_ADD_ALONE if problem.dilation[-1] > 1 else 0.0)
    clocks_of_heads = problem.heads * (
        computed * _pair(shape)
        + max(0.0, computed - dense) * _MASK
        + block.box_tiles * (_COLUMN_TILE + shape.sums_queries * shape.columns * add)
    )
    row_heads = problem.heads if shape.side == "query" else problem.kv_heads
    is_short = 1 < block.box_tiles / block.tiles <= _SHORT_WALK
    clocks_of_tiles = row_heads * block.tiles * (_ROW_TILE + is_short * _WAIT)
    clocks = problem.batch * (clocks_of_heads + clocks_of_tiles)
    blocks = problem.batch * row_heads * block.tiles
    waves = -(-blocks // device.processors) * device.processors / blocks
    bytes_us = _PASSES[shape.sums_queries] * problem.least_bytes / device.bytes_per_us
    return math.hypot(clocks * waves / device.processors / _CLOCKS_PER_US, bytes_us)
