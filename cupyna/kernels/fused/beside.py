"""Problem + device -> tiles of the backward of keys that every query sees beside its window.

Two passes: blocks of queries walk over all of the keys, and blocks of keys over slices of the
queries, whose sums are added up afterwards in the same order every time.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from functools import lru_cache

from cupyna.problem import DeviceSpec, Problem

from .heuristics import FusedChoice
from .shapes import BESIDE_SHAPES, FusedShape

__all__ = ["BesideChoice", "beside_choice"]

# Column tiles of queries that are worth a block.
_TILES = 4


@dataclass(frozen=True, slots=True)
class BesideChoice:
    """The two passes.

    Parameters
    ----------
    problem : Problem
        The grid of queries without its windows.
    queries, keys : FusedChoice
        Tiles of queries against keys, and of keys against queries. Keys lie along the last axis.
    slices : tuple of (int, int)
        Extent of a slice and number of slices along each axis of the grid.
    key_tiles : int
        Tiles of keys.
    """

    problem: Problem
    queries: FusedChoice
    keys: FusedChoice
    slices: tuple[tuple[int, int], ...]
    key_tiles: int

    @property
    def count(self) -> int:
        """Slices in all."""
        return math.prod(slices for _, slices in self.slices)


@lru_cache(maxsize=1024)
def beside_choice(problem: Problem, tokens: int, device: DeviceSpec) -> BesideChoice | None:
    """The passes for `tokens` keys; None where no compiled shape serves the problem."""
    shapes = [_shape(problem, device, side) for side in ("query", "key")]
    if shapes[0] is None or shapes[1] is None:
        return None
    of_queries, of_keys = shapes[0], shapes[1]
    ones = (1,) * problem.rank
    grid = replace(
        problem, kernel_size=ones, stride=ones, dilation=ones,
        is_causal=(False,) * problem.rank, has_bias=False,
    )  # fmt: skip
    rows = _fewest(problem.spatial, of_queries.rows)
    columns = _fewest(problem.spatial, of_keys.columns)
    key_tiles = -(-tokens // of_keys.rows)
    blocks = device.processors * of_keys.blocks
    wanted = -(-blocks // (problem.batch * problem.kv_heads * key_tiles))
    return BesideChoice(
        grid,
        FusedChoice(of_queries, rows, (*ones[1:], of_queries.columns), 0.0),
        FusedChoice(of_keys, (*ones[1:], of_keys.rows), columns, 0.0),
        _slices(problem, columns, wanted),
        key_tiles,
    )


def _shape(problem: Problem, device: DeviceSpec, side: str) -> FusedShape | None:
    fitting = [
        shape
        for shape in BESIDE_SHAPES
        if shape.side == side
        and shape.item_bytes == problem.item_bytes
        and max(problem.head_dim, problem.value_dim) <= shape.head_dim
        and shape.smem_bytes <= device.smem_bytes
    ]
    return min(fitting, key=lambda shape: shape.head_dim, default=None)


def _fewest(lengths: tuple[int, ...], size: int) -> tuple[int, ...]:
    """The tile of `size` tokens, a power of two, that covers a grid with the fewest.

    Of equals the one with the longest rows.
    """
    extents = [1 << i for i in range(size.bit_length())]
    tiles = (t for t in itertools.product(extents, repeat=len(lengths)) if math.prod(t) == size)
    return min(tiles, key=lambda tile: (_tiles(lengths, tile), tile))


def _tiles(lengths: tuple[int, ...], tile: tuple[int, ...]) -> int:
    return math.prod(-(-length // e) for length, e in zip(lengths, tile, strict=True))


def _slices(problem: Problem, columns: tuple[int, ...], wanted: int) -> tuple[tuple[int, int], ...]:
    """About so many slices of whole column tiles, each worth a block."""
    tiles = _tiles(problem.spatial, columns) * problem.head_group
    wanted = max(1, min(wanted, tiles // _TILES))
    slices = []
    for length, extent in zip(problem.spatial, columns, strict=True):
        along = -(-length // extent)
        of_slice = -(-along // min(along, wanted))
        count = -(-along // of_slice)
        slices.append((of_slice * extent, count))
        wanted = -(-wanted // count)
    return tuple(slices)
