"""The gemm method on a CPU: products of whole tiles by BLAS, weights selected and scattered.

A query tile meets the whole key box of its windows in one product. Stored weights are compact,
``[..., window]``; a tile's are selected out of its product, and scattered back before the next.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import product

import numpy as np

from ...execution import Choice
from ...problem import DeviceSpec, Operation, Problem
from ...tiles import BoxTile, Tile, TilePlan
from .blocks import box_index, read, tile_index, write
from .heuristics import gemm_plan, plan_time_us
from .scratch import Scratch
from .threads import map_tiles

__all__ = ["TileProducts"]


class TileProducts:
    """Each product runs tile by tile; `plan` has query tiles, its transpose has key tiles."""

    def scores(
        self, problem: Problem, a: np.ndarray, b: np.ndarray, scores: np.ndarray, empty: float
    ) -> None:
        plan, scratch = gemm_plan(problem), Scratch()

        def run(item: tuple[int, Tile]) -> None:
            batch, tile = item
            own, (box,) = tile_index(problem, tile), plan.box_tiles(tile)
            mine = read(problem, a, batch, own, scratch, "own")
            theirs = read(problem, b, batch, box_index(problem, tile, box), scratch, "theirs")
            keys = theirs.shape[-2]
            # One more column stands for empty slots.
            shape = (*mine.shape[:-1], keys + 1)
            products = scratch.array("products", shape, problem.accumulator)
            np.matmul(mine, theirs.mT, out=products[..., :keys])
            products[..., keys] = empty
            by_head = products.reshape(problem.heads, -1, keys + 1)
            columns = _columns_of_slots(plan, tile, box)
            write(problem, scores, batch, own, np.take_along_axis(by_head, columns[None], -1))

        for _ in map_tiles(run, product(range(problem.batch), plan.tiles())):
            pass

    def outputs(
        self, problem: Problem, weights: np.ndarray, b: np.ndarray, out: np.ndarray
    ) -> None:
        plan, scratch = gemm_plan(problem), Scratch()

        def run(item: tuple[int, Tile]) -> None:
            batch, tile = item
            own, (box,) = tile_index(problem, tile), plan.box_tiles(tile)
            theirs = read(problem, b, batch, box_index(problem, tile, box), scratch, "theirs")
            compact = read(problem, weights, batch, own, scratch, "weights")
            keys = theirs.shape[-2]
            shape = (*compact.shape[:-1], keys + 1)
            dense = scratch.array("dense", shape, problem.accumulator)
            dense[...] = 0
            columns = _columns_of_slots(plan, tile, box)
            by_head = (problem.heads, len(columns), -1)
            np.put_along_axis(dense.reshape(by_head), columns[None], compact.reshape(by_head), -1)
            write(problem, out, batch, own, dense[..., :keys] @ theirs)

        for _ in map_tiles(run, product(range(problem.batch), plan.tiles())):
            pass

    def inverse(
        self, problem: Problem, weights: np.ndarray, a: np.ndarray, out: np.ndarray
    ) -> None:
        plan = TilePlan(problem.axes, gemm_plan(problem).tile_shape, problem.spatial, "key")
        scratch = Scratch()

        def run(item: tuple[int, Tile]) -> None:
            batch, tile = item
            own, (box,) = tile_index(problem, tile), plan.box_tiles(tile)
            theirs = box_index(problem, tile, box)
            queries = read(problem, a, batch, theirs, scratch, "queries")
            # One more slot, of weight zero, for queries that do not see a key of the tile.
            padded = read(problem, weights, batch, theirs, scratch, "weights", ones=1)
            padded[..., -1] = 0
            slots = _slots_of_pairs(plan, tile, box)
            by_head = padded.reshape(problem.heads, len(slots), -1)
            dense = np.take_along_axis(by_head, slots[None], -1)
            dense = dense.reshape(*padded.shape[:-1], slots.shape[1])
            write(problem, out, batch, own, dense.mT @ queries)

        for _ in map_tiles(run, product(range(problem.batch), plan.tiles())):
            pass

    def choice(self, problem: Problem, operation: Operation, device: DeviceSpec) -> Choice:
        plan = gemm_plan(problem)
        planes = problem.batch * problem.heads
        weights = planes * problem.tokens * problem.window
        stored = {"forward": 1, "backward": 2}.get(operation, 0)
        return Choice(
            kernel="tiles and BLAS, weights stored",
            q_tile=plan.tile_shape,
            kv_tile=plan.largest_box,
            useful_products=plan.counts.useful_products * planes,
            computed_products=plan.counts.computed_products * planes,
            workspace_bytes=stored * weights * np.dtype(problem.accumulator).itemsize,
            time_us=1.6 * plan_time_us(problem, plan, operation, device.processors),
        )


def _columns_of_slots(plan: TilePlan, tile: Tile, box: BoxTile) -> np.ndarray:
    """Key column of every slot, ``[query tokens, window]``; empty slots name one past the last."""
    tables, sizes = [], []
    for axis, own, begin, end in zip(plan.axes, tile.axes, box.begin, box.end, strict=True):
        queries = np.arange(own.begin, own.end)
        line = axis.line(own.group)
        keys = line.window_begin(queries)[:, None] + np.arange(axis.kernel_size)
        inside = keys < line.window_end(queries)[:, None]
        tables.append(np.where(inside, keys - begin, -1))
        sizes.append(end - begin)
    return _flatten(tuple((t.shape, t.tobytes()) for t in tables), tuple(sizes))


def _slots_of_pairs(plan: TilePlan, tile: Tile, box: BoxTile) -> np.ndarray:
    """Slot of every pair, ``[query tokens, key tokens]``; unwanted pairs name one past the last."""
    tables, sizes = [], []
    for axis, own, begin, end in zip(plan.axes, tile.axes, box.begin, box.end, strict=True):
        line = axis.line(own.group)
        queries, keys = np.arange(begin, end), np.arange(own.begin, own.end)
        first, past = line.window_begin(queries)[:, None], line.window_end(queries)[:, None]
        tables.append(np.where((first <= keys) & (keys < past), keys - first, -1))
        sizes.append(axis.kernel_size)
    return _flatten(tuple((t.shape, t.tobytes()) for t in tables), tuple(sizes))


@lru_cache(maxsize=64)
def _flatten(
    tables: tuple[tuple[tuple[int, ...], bytes], ...], sizes: tuple[int, ...]
) -> np.ndarray:
    """Product of per-axis tables of indices below `sizes`; -1 anywhere gives one past the last.

    Tiles away from borders share one table, hence the cache.
    """
    flat = np.zeros((1, 1), np.int64)
    valid = np.ones((1, 1), bool)
    for (shape, content), size in zip(tables, sizes, strict=True):
        table = np.frombuffer(content, np.int64).reshape(shape)
        rows, columns = flat.shape[0] * shape[0], flat.shape[1] * shape[1]
        outer, inner = np.s_[:, None, :, None], np.s_[None, :, None, :]
        flat = (flat[outer] * size + table[inner]).reshape(rows, columns)
        valid = (valid[outer] & (table >= 0)[inner]).reshape(rows, columns)
    index = np.where(valid, flat, int(np.prod(sizes)))
    index.flags.writeable = False
    return index
