"""Tile plans: every token in one tile, every pair counted once, dense means dense."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cupyna.geometry import Axis
from cupyna.problem import Problem
from cupyna.profiling.pictures import tile_picture
from cupyna.testing import axes
from cupyna.tiles import BoxTile, Tile, TilePlan


@st.composite
def plans(draw: st.DrawFn) -> TilePlan:
    grid = tuple(draw(axes(max_length=14)) for _ in range(draw(st.integers(1, 2))))
    extents = st.tuples(*(st.integers(1, axis.length) for axis in grid))
    side = draw(st.sampled_from(("query", "key")))
    return TilePlan(grid, draw(extents), draw(extents), side)


def tokens_of(
    plan: TilePlan, tile: Tile, begin: list[int], end: list[int]
) -> list[tuple[int, ...]]:
    """Grid coordinates of positions begin..end of the tile's dilation groups."""
    along = [
        range(axis.length)[axis.tokens(own.group, b, e)]
        for axis, own, b, e in zip(plan.axes, tile.axes, begin, end, strict=True)
    ]
    return list(itertools.product(*along))


def own_tokens(plan: TilePlan, tile: Tile) -> list[tuple[int, ...]]:
    return tokens_of(plan, tile, [a.begin for a in tile.axes], [a.end for a in tile.axes])


def wanted_pairs(plan: TilePlan, tile: Tile, box: BoxTile) -> list[tuple[tuple[int, ...], ...]]:
    """(query, key) pairs that the masks of a box tile let through."""
    masks = plan.axis_masks(tile, box)
    mine = list(np.ndindex(*tile.shape))
    other = list(np.ndindex(*box.shape))
    own, theirs = own_tokens(plan, tile), tokens_of(plan, tile, list(box.begin), list(box.end))
    pairs = []
    for (i, token), (j, partner) in itertools.product(
        zip(mine, own, strict=True), zip(other, theirs, strict=True)
    ):
        if all(mask[a, b] for mask, a, b in zip(masks, i, j, strict=True)):
            pairs.append((token, partner) if plan.side == "query" else (partner, token))
    return pairs


def pairs_by_definition(grid: tuple[Axis, ...]) -> Counter[tuple[tuple[int, ...], ...]]:
    tables = [axis.neighbors() for axis in grid]
    pairs: Counter[tuple[tuple[int, ...], ...]] = Counter()
    for query in np.ndindex(*(axis.length for axis in grid)):
        keys = [
            [int(k) for k, real in zip(near[i], inside[i], strict=True) if real]
            for i, (near, inside) in zip(query, tables, strict=True)
        ]
        pairs.update((query, key) for key in itertools.product(*keys))
    return pairs


@given(plan=plans())
def test_every_token_is_in_one_tile_and_every_pair_counts_once(plan: TilePlan) -> None:
    tokens = Counter(token for tile in plan.tiles() for token in own_tokens(plan, tile))
    assert tokens == Counter(np.ndindex(*(axis.length for axis in plan.axes)))
    pairs = Counter(
        pair
        for tile in plan.tiles()
        for box in plan.box_tiles(tile)
        for pair in wanted_pairs(plan, tile, box)
    )
    assert pairs == pairs_by_definition(plan.axes)


@given(plan=plans())
def test_dense_means_that_no_pair_is_masked(plan: TilePlan) -> None:
    for tile in plan.tiles():
        for box in plan.box_tiles(tile):
            unmasked = all(mask.all() for mask in plan.axis_masks(tile, box))
            assert box.is_dense == unmasked


@given(plan=plans())
def test_boxes_are_tight_and_their_tiles_partition_them(plan: TilePlan) -> None:
    for tile in plan.tiles():
        boxes = list(plan.box_tiles(tile))
        covered = Counter(
            token for box in boxes for token in itertools.product(*map(range, box.begin, box.end))
        )
        whole = itertools.product(*(range(a.box_begin, a.box_end) for a in tile.axes))
        assert covered == Counter(whole)
        reached = {partner for box in boxes for pair in wanted_pairs(plan, tile, box)
                   for partner in [pair[plan.side == "query"]]}  # fmt: skip
        for i, (axis, own) in enumerate(zip(plan.axes, tile.axes, strict=True)):
            along = range(axis.length)[axis.tokens(own.group, own.box_begin, own.box_end)]
            assert {along[0], along[-1]} <= {token[i] for token in reached}


@given(plan=plans())
def test_counts_are_those_of_the_tiles(plan: TilePlan) -> None:
    boxes = [(tile, box) for tile in plan.tiles() for box in plan.box_tiles(tile)]
    computed = int(np.prod(plan.tile_shape) * np.prod(plan.box_tile_shape))
    full = [box for _, box in boxes if box.is_dense and box.shape == plan.box_tile_shape]
    counts = plan.counts
    assert counts.tiles == len(list(plan.tiles()))
    assert counts.box_tiles == len(boxes)
    of_each = [len(list(plan.box_tiles(tile))) for tile in plan.tiles()]
    assert plan.box_tiles_of_each.tolist() == of_each
    assert counts.useful_products == sum(pairs_by_definition(plan.axes).values())
    assert counts.computed_products == len(boxes) * computed
    assert counts.dense_products == len(full) * computed
    assert counts.box_tokens == sum(int(np.prod(tile.box_shape)) for tile in plan.tiles())
    assert plan.largest_box == tuple(
        max(tile.box_shape[i] for tile in plan.tiles()) for i in range(len(plan.axes))
    )


@given(plan=plans(), data=st.data())
def test_parts_leave_out_the_box_tiles_that_they_do_not_meet(
    plan: TilePlan, data: st.DataObject
) -> None:
    along = data.draw(st.integers(0, len(plan.axes) - 1))
    whole, extent = plan.tile_shape[along], plan.box_tile_shape[along]
    part = data.draw(st.sampled_from([size for size in range(1, whole + 1) if whole % size == 0]))
    met = 0
    for tile in plan.tiles():
        own = tile.axes[along]
        line = plan.axes[along].line(own.group)
        begin_of, end_of = (
            (line.window_begin, line.window_end)
            if plan.side == "query"
            else (line.query_begin, line.query_end)
        )
        for begin in range(own.begin, own.end, part):
            first, past = begin_of(begin), end_of(min(begin + part, own.end) - 1)
            begins = [box.begin[along] for box in plan.box_tiles(tile)]
            met += sum(first < of_box + extent and of_box < past for of_box in begins)
    pairs = int(np.prod(plan.tile_shape)) // whole * part * int(np.prod(plan.box_tile_shape))
    assert plan.products_of_parts(along, part) == met * pairs
    assert plan.products_of_parts(along, whole) == plan.counts.computed_products


@given(plan=plans())
def test_transposing_twice_gives_the_plan_back(plan: TilePlan) -> None:
    assert plan.transposed().transposed() == plan
    assert plan.transposed().counts.useful_products == plan.counts.useful_products


def test_bytes_are_those_of_the_boxes() -> None:
    problem = Problem(
        2, (8, 6), 4, 2, 16, 8, "float16", (3, 3), (1, 1), (1, 2), (False, True)
    )  # fmt: skip
    plan = TilePlan.of(problem, (4, 3), (2, 2))
    boxes = sum(int(np.prod(tile.box_shape)) for tile in plan.tiles())
    assert plan.read_bytes(problem) == 2 * (48 * 4 * 16 + boxes * 2 * (16 + 8)) * 2
    whole = TilePlan.of(problem, problem.spatial, problem.spatial)
    once = whole.read_bytes(problem) + 2 * 48 * 4 * 8 * 2  # and the output
    assert once >= problem.least_bytes == 2 * 48 * (4 * 24 + 2 * 24) * 2


def test_large_grids_are_counted_without_walking_them() -> None:
    plan = TilePlan((Axis(1 << 20, 1 << 12),) * 3, (16, 8, 1), (1, 4, 24))
    assert plan.counts.useful_products == (1 << 32) ** 3
    assert 0 < plan.counts.coverage < 1


def test_a_picture_shows_the_tile_and_its_box() -> None:
    plan = TilePlan((Axis(length=32, kernel_size=13),) * 2, (8, 8), (4, 4))
    picture = tile_picture(plan, (1, 1), (4, 4))
    fills = Counter(part.split('"')[0] for part in picture.split('fill="')[1:])
    dense = sum(
        part.is_dense for part in plan.box_tiles(Tile(tuple(a[1] for a in plan.axis_tiles)))
    )
    # The grid, a 20 x 20 box in parts of 4 x 4, and four warps.
    assert sorted(fills.values()) == sorted([1, dense, 25 - dense, 4])
    with pytest.raises(ValueError, match="two axes"):
        tile_picture(TilePlan(plan.axes[:1], (8,), (4,)), (0, 0), (4, 4))
