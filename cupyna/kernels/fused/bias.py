"""Problem + device -> how the fused method sums the gradient of a bias.

A block takes one head and one distance between a tile of queries and a tile of keys; see
``cuda_src/mainloop/fused/bias_gradient_sm80.cuh``. Pure functions, like those of the passes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from cupyna.geometry import Axis
from cupyna.problem import DeviceSpec, Problem
from cupyna.tiles import TilePlan

from .heuristics import FusedChoice, cheapest_tiling
from .shapes import BIAS_SHAPES

__all__ = ["BiasChoice", "Distances", "bias_gradient_choice"]

# Blocks that a multiprocessor is given, one after the other, where there is work for them.
_BLOCKS = 12

# Pairs of tiles that are worth a block.
_PAIRS = 4

_WARP = 32


class Distances(NamedTuple):
    """Where the tiles of keys that a tile of queries may meet begin, along one axis.

    `first` counts from the begin of the tile of queries; `tiles` follow each other.
    """

    first: int
    tiles: int


@dataclass(frozen=True, slots=True)
class BiasChoice:
    """A compiled shape with the tiles it runs.

    Parameters
    ----------
    tiling : FusedChoice
        The shape, the tiles of queries and of keys, and the expected time.
    distances : tuple of Distances
        One for each axis.
    parts : int
        Blocks that share the pairs of tiles of one head and distance.
    """

    tiling: FusedChoice
    distances: tuple[Distances, ...]
    parts: int

    @property
    def offsets(self) -> int:
        """Offsets between the tokens of one pair of tiles."""
        extents = zip(self.tiling.row_tile, self.tiling.column_tile, strict=True)
        return math.prod(rows + columns - 1 for rows, columns in extents)

    @property
    def blocks(self) -> int:
        """Blocks of one head and part: pairs of tiles that have a distance of their own."""
        return math.prod(distances.tiles for distances in self.distances)

    @property
    def lanes(self) -> int:
        """Threads that add up one entry, each some of the parts."""
        return min(_WARP, 1 << (self.parts - 1).bit_length())

    def partial_sums(self, problem: Problem) -> tuple[int, ...]:
        """Shape of the workspace."""
        return self.parts, problem.heads, self.blocks, self.offsets


@lru_cache(maxsize=1024)
def bias_gradient_choice(problem: Problem, device: DeviceSpec) -> BiasChoice | None:
    """The cheapest tiles; None where no compiled shape serves the problem."""
    tiling = cheapest_tiling(problem, device, BIAS_SHAPES)
    if tiling is None:
        return None
    distances = tuple(
        _distances(axis, rows, columns)
        for axis, rows, columns in zip(
            problem.axes, tiling.row_tile, tiling.column_tile, strict=True
        )
    )
    counts = TilePlan(problem.axes, tiling.row_tile, tiling.column_tile).counts
    works = problem.batch * counts.tiles
    usual = problem.heads * -(-counts.box_tiles // counts.tiles)  # blocks with much to do
    parts = min(device.processors * _BLOCKS // usual, works // _PAIRS, works)
    return BiasChoice(tiling, distances, max(1, parts))


def _distances(axis: Axis, rows: int, columns: int) -> Distances:
    """Of all tiles along an axis; those far from a border meet the fewest tiles of keys."""
    least, most = -(axis.kernel_size - 1), rows - 1
    if axis.is_causal:
        begin = least
    else:
        most += axis.kernel_size - 1
        begin = axis.stride // 2 - axis.kernel_size // 2
        if rows % axis.stride:  # tiles begin anywhere inside a stride
            begin -= axis.stride - 1
    first = begin - -(-(begin - least) // columns) * columns
    last = min(most, axis.group_length(0) - 1)
    return Distances(first, (last - first) // columns + 1)
