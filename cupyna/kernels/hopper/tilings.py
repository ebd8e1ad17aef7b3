"""Tiles that blocks of Hopper's kernels can run: what boxes hold, and what fills a product."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

from cupyna.problem import Problem
from cupyna.tiles import Side, TilePlan

from .shapes import CONSUMER_ROWS
from .tensor_map import most_tokens

__all__ = ["block_tile", "column_tiles", "consumer_tiles", "fits_boxes"]


def block_tile(consumer_tile: tuple[int, ...], split_axis: int, consumers: int) -> tuple[int, ...]:
    """Rows of one block, whose consumers are neighbors along one axis."""
    return tuple(
        extent * (consumers if axis == split_axis else 1)
        for axis, extent in enumerate(consumer_tile)
    )


def consumer_tiles(problem: Problem, consumers: int) -> Iterator[tuple[tuple[int, ...], int]]:
    """Powers of two for one consumer, with the axis along which consumers divide a tile."""
    powers = [1 << i for i in range(CONSUMER_ROWS.bit_length())]
    lengths = [axis.group_length(0) for axis in problem.axes]
    found = []
    for tile in itertools.product(powers, repeat=problem.rank):
        if math.prod(tile) != CONSUMER_ROWS or not _fits(tile, problem.dilation):
            continue
        for split_axis in range(problem.rank):
            whole = block_tile(tile, split_axis, consumers)
            # Rows past the end of an axis are lost.
            lost = math.prod(
                -(-length // extent) * extent / length
                for extent, length in zip(whole, lengths, strict=True)
            )
            found.append((lost, tile, split_axis))
    least = min(lost for lost, _, _ in found)
    return ((tile, axis) for lost, tile, axis in found if lost <= 1.5 * least)


def column_tiles(
    problem: Problem, columns: int, row_tile: tuple[int, ...], side: Side
) -> Iterator[tuple[int, ...]]:
    """Extents whose product fills the columns, or nearly so, if the box of the rows allows it."""
    box = TilePlan(problem.axes, row_tile, row_tile, side).largest_box
    *leading, last = (
        min(extent, most_tokens(gap)) for extent, gap in zip(box, problem.dilation, strict=True)
    )
    tiles = set()
    for outer in itertools.product(*(_extents(extent, columns) for extent in leading)):
        room = columns // math.prod(outer)
        if room:
            tiles |= {(*outer, min(room, last)), (*outer, min(last, max(1, room // 8 * 8)))}
    most = max(math.prod(tile) for tile in tiles)
    return (tile for tile in sorted(tiles) if math.prod(tile) * 10 >= most * 9)


def _extents(extent: int, columns: int) -> list[int]:
    """Divisors of `columns` and the whole extent, no more than either."""
    divisors = [size for size in range(1, min(extent, columns) + 1) if columns % size == 0]
    return sorted({*divisors, min(extent, columns)})


def fits_boxes(dilation: tuple[int, ...]) -> bool:
    """Whether boxes can be described that hold the queries of one consumer."""
    return math.prod(_power_below(most_tokens(gap)) for gap in dilation) >= CONSUMER_ROWS


def _power_below(count: int) -> int:
    return 1 << count.bit_length() - 1


def _fits(tile: tuple[int, ...], dilation: tuple[int, ...]) -> bool:
    return all(count <= most_tokens(gap) for count, gap in zip(tile, dilation, strict=True))
