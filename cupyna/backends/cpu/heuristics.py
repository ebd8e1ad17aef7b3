"""Tile shapes for a CPU, from a cost model of BLAS, element-wise passes and Python's own time."""

from __future__ import annotations

import itertools
import math
from functools import lru_cache

from ...problem import Operation, Problem
from ...tiles import TilePlan

__all__ = ["fused_plan", "gemm_plan", "plan_time_us"]

# Largest matrix of one tile, all heads together. A thread holds about five at once in backward,
# and may use 64 MiB.
_MOST_BYTES = 8 << 20

# Figures of one core of a current server, in the units the model adds up. They only rank tiles
# and give `explain` an order of magnitude; nobody's result depends on them.
_TILE_US = 40.0
_BOX_TILE_US = 40.0
_FLOPS_PER_US = 8e4
_PASS_US = 1.05e-3  # mask, maximum, shift and exponential of one score
_TOKEN_CHANNEL_US = 4e-4  # copy one channel of a box token into a matrix

_EXTENTS = (1, 2, 4, 8, 16, 32, 64, 128)
_PRODUCTS = {"forward": 2, "backward": 7}


@lru_cache(maxsize=512)
def fused_plan(problem: Problem) -> TilePlan:
    """The cheapest query tile, with the largest key tile that memory leaves room for."""
    return _cheapest(problem, [_fit_box(problem, tile) for tile in _tile_shapes(problem)])


@lru_cache(maxsize=512)
def gemm_plan(problem: Problem) -> TilePlan:
    """Like :func:`fused_plan`, but a tile meets its whole key box: rows are cut out of it."""
    return _cheapest(problem, [_whole_box(problem, tile) for tile in _tile_shapes(problem)])


def plan_time_us(problem: Problem, plan: TilePlan, operation: Operation, threads: int) -> float:
    """Expected time in microseconds on a number of cores."""
    counts = plan.counts
    products = _PRODUCTS.get(operation, 1)
    channels = problem.head_dim + problem.value_dim
    pairs = counts.computed_products * problem.heads
    per_batch: float = (
        counts.tiles * _TILE_US
        + counts.box_tiles * _BOX_TILE_US
        + pairs * channels * products / _FLOPS_PER_US
        + pairs * _PASS_US * (products / 2)
        + counts.box_tokens * problem.kv_heads * channels * _TOKEN_CHANNEL_US
    )
    return per_batch * problem.batch / threads


def _cheapest(problem: Problem, plans: list[TilePlan]) -> TilePlan:
    return min(plans, key=lambda plan: plan_time_us(problem, plan, "forward", 1))


def _tile_shapes(problem: Problem) -> list[tuple[int, ...]]:
    """Shapes of 16 to 256 rows; no axis is cut finer than its dilation groups are long."""
    along = []
    for axis in problem.axes:
        longest = axis.group_length(0)
        along.append(sorted({min(extent, longest) for extent in _EXTENTS}))
    shapes = list(itertools.product(*along))
    rows = [math.prod(shape) for shape in shapes]
    enough = min(16, max(rows))
    return [shape for shape, r in zip(shapes, rows, strict=True) if enough <= r <= 256]


def _whole_box(problem: Problem, tile: tuple[int, ...]) -> TilePlan:
    """The plan of a query tile against key tiles as large as its largest box."""
    box = TilePlan(problem.axes, tile, problem.spatial).largest_box
    return TilePlan(problem.axes, tile, box)


def _fit_box(problem: Problem, tile: tuple[int, ...]) -> TilePlan:
    """The same, with the longest axis of the key tile halved until all heads fit."""
    box = list(_whole_box(problem, tile).box_tile_shape)
    rows = math.prod(tile) * problem.heads
    channels = problem.kv_heads * (problem.head_dim + problem.value_dim)
    most = _MOST_BYTES // (8 if problem.accumulator == "float64" else 4)
    while max(rows, channels) * math.prod(box) > most and max(box) > 1:
        longest = box.index(max(box))
        box[longest] = -(-box[longest] // 2)
    return TilePlan(problem.axes, tile, tuple(box))
