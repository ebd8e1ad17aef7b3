"""Tiles of tokens and the boxes of tokens they touch: the schedule that CPU and GPU share.

A plan cuts each dilation group of the grid into *tiles* of one side (queries, or keys for the
transposed plan of backward). The *box* of a tile is the smallest box of the other side that holds
every partner of every token in it; box tiles start at the box's own corner, not on a grid. A box
tile is *dense* when every pair in it is wanted, so that no mask is needed; the others are edges,
and their mask is the product of one mask per axis.

Everything is a product over axes, so counts over millions of tiles are sums per axis.
Integers only, and the twin of ``cuda_src/geometry/tile.cuh``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

import numpy as np

from .geometry import Axis, Line
from .problem import Problem

__all__ = [
    "AxisTile",
    "BoxTile",
    "Counts",
    "Side",
    "Tile",
    "TilePlan",
    "axis_pairs",
    "useful_pairs",
]

Side = Literal["query", "key"]


@dataclass(frozen=True, slots=True)
class AxisTile:
    """One tile along one axis, in positions of its dilation group."""

    group: int
    begin: int
    end: int
    box_begin: int
    box_end: int
    common_begin: int
    common_end: int

    @property
    def size(self) -> int:
        return self.end - self.begin

    @property
    def box_size(self) -> int:
        return self.box_end - self.box_begin


@dataclass(frozen=True, slots=True)
class Tile:
    """A tile of tokens: one :class:`AxisTile` for each axis."""

    axes: tuple[AxisTile, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Extent along each axis."""
        return tuple(axis.size for axis in self.axes)

    @property
    def box_shape(self) -> tuple[int, ...]:
        """Extent of the box along each axis."""
        return tuple(axis.box_size for axis in self.axes)


@dataclass(frozen=True, slots=True)
class BoxTile:
    """A part of a tile's box, in positions; `is_dense` means that no pair in it is masked."""

    begin: tuple[int, ...]
    end: tuple[int, ...]
    is_dense: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """Extent along each axis."""
        return tuple(end - begin for begin, end in zip(self.begin, self.end, strict=True))


@dataclass(frozen=True, slots=True)
class Counts:
    """What a plan costs for one head of one batch entry.

    Parameters
    ----------
    tiles, box_tiles : int
        Tiles, and box tiles over all of them.
    useful_products : int
        Pairs of tokens that the windows ask for.
    computed_products : int
        Pairs that whole tiles evaluate, padding included.
    dense_products : int
        Of these, the pairs in dense box tiles.
    box_tokens : int
        Tokens of the other side that are read, over all tiles.
    """

    tiles: int
    box_tiles: int
    useful_products: int
    computed_products: int
    dense_products: int
    box_tokens: int

    @property
    def coverage(self) -> float:
        """Useful share of the computed products."""
        return self.useful_products / self.computed_products

    @property
    def dense_share(self) -> float:
        """Share of the computed products that needs no mask."""
        return self.dense_products / self.computed_products


@lru_cache(maxsize=1024)
def _axis_columns(axis: Axis, extent: int, side: Side) -> np.ndarray:
    """The fields of every :class:`AxisTile` along an axis, ``[fields, tiles]``."""
    columns = []
    for group, line in axis.lines():
        begin = np.arange(0, line.length, extent)
        end = np.minimum(begin + extent, line.length)
        first, last = (
            (line.window_begin, line.window_end)
            if side == "query"
            else (line.query_begin, line.query_end)
        )
        # Bounds never decrease: the box spans from the first token's partners to the last's,
        # and the partners common to all are from the last token's begin to the first's end.
        columns.append(
            np.stack(
                np.broadcast_arrays(
                    group, begin, end, first(begin), last(end - 1), first(end - 1), last(begin)
                )
            )
        )
    return np.concatenate(columns, axis=1)


@lru_cache(maxsize=4096)
def _axis_largest_box(axis: Axis, extent: int, side: Side) -> int:
    columns = _axis_columns(axis, extent, side)
    return int((columns[4] - columns[3]).max())


@lru_cache(maxsize=1024)
def axis_pairs(axis: Axis) -> int:
    """Pairs of a query and a key that it sees, along one axis."""
    if not axis.is_causal:  # every window is full, on an axis of millions of tokens, too
        return axis.length * axis.kernel_size
    begins, ends = axis.windows()
    return int((ends - begins).sum())


def useful_pairs(problem: Problem) -> int:
    """Pairs of a query and a key of its window, over all heads and batch entries."""
    return problem.batch * problem.heads * math.prod(map(axis_pairs, problem.axes))


@lru_cache(maxsize=4096)
def _axis_counts(axis: Axis, extent: int, box_extent: int, side: Side) -> tuple[int, ...]:
    """The fields of :class:`Counts` along one axis; over the grid they multiply."""
    _, _, _, box_begin, box_end, common_begin, common_end = _axis_columns(axis, extent, side)
    box_size = box_end - box_begin
    box_tiles = int((-(-box_size // box_extent)).sum())
    # Whole box tiles between the bounds common to all tokens; a part cut short still computes
    # its padding, which only a mask keeps out.
    first_dense = -(-(common_begin - box_begin) // box_extent)
    last_dense = (common_end - box_begin) // box_extent
    dense = int(np.maximum(last_dense - first_dense, 0).sum())
    return (
        len(box_begin),
        box_tiles,
        axis_pairs(axis),
        box_tiles * extent * box_extent,
        dense * extent * box_extent,
        int(box_size.sum()),
    )


@lru_cache(maxsize=4096)
def _axis_met(axis: Axis, extent: int, part: int, box_extent: int, side: Side) -> int:
    """Box tiles along one axis that parts of tiles meet, over all parts."""
    tiles, parts = _axis_columns(axis, extent, side), _axis_columns(axis, part, side)
    tile_begin, part_begin = (of[0] * axis.length + of[1] for of in (tiles, parts))
    corner = tiles[3][np.searchsorted(tile_begin, part_begin, side="right") - 1]
    first, past = (parts[3] - corner) // box_extent, -((corner - parts[4]) // box_extent)
    return int((past - first).sum())


@lru_cache(maxsize=16384)
def _counts(
    axes: tuple[Axis, ...], tile_shape: tuple[int, ...], box_tile_shape: tuple[int, ...], side: Side
) -> Counts:
    """Kept, as searches meet most plans several times."""
    per_axis = [
        _axis_counts(axis, extent, box_extent, side)
        for axis, extent, box_extent in zip(axes, tile_shape, box_tile_shape, strict=True)
    ]
    return Counts(*(math.prod(column) for column in zip(*per_axis, strict=True)))


@lru_cache(maxsize=4096)
def _axis_mask(
    line: Line, side: Side, begin: int, end: int, box_begin: int, box_end: int
) -> np.ndarray:
    """Which pairs of two intervals of one line are wanted. Rows of tiles share it: kept."""
    mine, other = np.arange(begin, end)[:, None], np.arange(box_begin, box_end)
    if side == "query":
        wanted = (line.window_begin(mine) <= other) & (other < line.window_end(mine))
    else:
        wanted = (line.query_begin(mine) <= other) & (other < line.query_end(mine))
    mask: np.ndarray = wanted
    mask.flags.writeable = False
    return mask


@dataclass(frozen=True)
class TilePlan:
    """Tiles of one side over a grid.

    Parameters
    ----------
    axes : tuple of Axis
        The grid.
    tile_shape : tuple of int
        Largest extent of a tile along each axis.
    box_tile_shape : tuple of int
        Extent of a box tile along each axis.
    side : {"query", "key"}
        Which side the tiles cut.

    Examples
    --------
    >>> from cupyna.geometry import Axis
    >>> plan = TilePlan((Axis(length=8, kernel_size=3),), (4,), (2,))
    >>> [(t.axes[0].begin, t.axes[0].box_begin, t.axes[0].box_end) for t in plan.tiles()]
    [(0, 0, 5), (4, 3, 8)]
    """

    axes: tuple[Axis, ...]
    tile_shape: tuple[int, ...]
    box_tile_shape: tuple[int, ...]
    side: Side = "query"

    @classmethod
    def of(cls, problem: Problem, q_tile: tuple[int, ...], kv_tile: tuple[int, ...]) -> TilePlan:
        """The plan of query tiles against boxes of keys."""
        return cls(problem.axes, q_tile, kv_tile, "query")

    def transposed(self) -> TilePlan:
        """The plan of backward: key tiles against boxes of the queries that see them."""
        other: Side = "key" if self.side == "query" else "query"
        return TilePlan(self.axes, self.box_tile_shape, self.tile_shape, other)

    @cached_property
    def axis_tiles(self) -> tuple[tuple[AxisTile, ...], ...]:
        """The tiles along each axis; tiles of the grid are their products."""
        return tuple(
            tuple(AxisTile(*fields) for fields in _axis_columns(axis, extent, self.side).T.tolist())
            for axis, extent in zip(self.axes, self.tile_shape, strict=True)
        )

    @property
    def largest_box(self) -> tuple[int, ...]:
        """Largest extent of a box along each axis."""
        return tuple(
            _axis_largest_box(axis, extent, self.side)
            for axis, extent in zip(self.axes, self.tile_shape, strict=True)
        )

    def tiles(self) -> Iterator[Tile]:
        """Every tile; each token of the grid belongs to exactly one."""
        return (Tile(axes) for axes in itertools.product(*self.axis_tiles))

    def box_tiles(self, tile: Tile) -> Iterator[BoxTile]:
        """The parts of a tile's box, from its corner on; the last ones may be cut short."""
        along = [
            self._box_tiles_of(axis, extent)
            for axis, extent in zip(tile.axes, self.box_tile_shape, strict=True)
        ]
        for parts in itertools.product(*along):
            yield BoxTile(
                begin=tuple(begin for begin, _, _ in parts),
                end=tuple(end for _, end, _ in parts),
                is_dense=all(is_dense for _, _, is_dense in parts),
            )

    def axis_masks(self, tile: Tile, box_tile: BoxTile) -> tuple[np.ndarray, ...]:
        """Which pairs are wanted along each axis, ``[tile extent, box tile extent]``."""
        return tuple(
            _axis_mask(axis.line(own.group), self.side, own.begin, own.end, begin, end)
            for axis, own, begin, end in zip(
                self.axes, tile.axes, box_tile.begin, box_tile.end, strict=True
            )
        )

    @cached_property
    def counts(self) -> Counts:
        """Tiles, products and tokens read."""
        return _counts(self.axes, self.tile_shape, self.box_tile_shape, self.side)

    def products_of_parts(self, along: int, part: int) -> int:
        """Pairs evaluated if parts of tiles leave out the box tiles that they do not meet.

        Parameters
        ----------
        along : int
            The axis along which tiles are cut into parts.
        part : int
            Extent of a part: a divisor of the tile's.
        """
        axis, extent = self.axes[along], self.tile_shape[along]
        box_extent = self.box_tile_shape[along]
        met = _axis_met(axis, extent, part, box_extent, self.side)
        box_tiles = _axis_counts(axis, extent, box_extent, self.side)[1]
        return self.counts.computed_products // (box_tiles * extent) * met * part

    @property
    def box_tiles_of_each(self) -> np.ndarray:
        """Box tiles of every tile, in the order of :meth:`tiles`."""
        found = np.ones(1, np.int64)
        for axis, extent, box_extent in zip(
            self.axes, self.tile_shape, self.box_tile_shape, strict=True
        ):
            columns = _axis_columns(axis, extent, self.side)
            found = np.multiply.outer(found, -(-(columns[4] - columns[3]) // box_extent))
        return found.ravel()

    def read_bytes(self, problem: Problem) -> int:
        """Bytes that forward asks for: queries once, keys and values once for each tile's box."""
        counts, size = self.counts, problem.item_bytes
        queries = problem.tokens * problem.heads * problem.head_dim
        boxes = counts.box_tokens * problem.kv_heads * (problem.head_dim + problem.value_dim)
        return problem.batch * (queries + boxes) * size

    @staticmethod
    def _box_tiles_of(axis: AxisTile, extent: int) -> list[tuple[int, int, bool]]:
        parts = []
        for begin in range(axis.box_begin, axis.box_end, extent):
            end = min(begin + extent, axis.box_end)
            is_dense = axis.common_begin <= begin and end <= axis.common_end
            parts.append((begin, end, is_dense))
        return parts
