"""The fused method on a CPU: tiles, BLAS and an online softmax; no weights are stored.

Forward walks the key box of each query tile. Backward walks it again for dQ, and walks the query
box of each key tile for dK and dV: two passes instead of additions from many tiles into one
place, so tiles run on any number of threads and every run gives the same bits.
"""

from __future__ import annotations

from itertools import product

import numpy as np

from ...execution import Choice, Execution
from ...problem import DeviceSpec, Method, Operation, Problem
from ...tiles import BoxTile, Tile, TilePlan
from .blocks import additive_mask, box_index, read, relative_positions, tile_index, write
from .heuristics import fused_plan, plan_time_us
from .threads import map_tiles

__all__ = ["CpuFused"]


class CpuFused:
    """Tiles and BLAS, nothing of size tokens x window in memory."""

    name = "cpu-fused"
    method: Method = "fused"

    def refusals(
        self, problem: Problem, operation: Operation, device: DeviceSpec
    ) -> tuple[str, ...]:
        if operation in ("forward", "backward"):
            return ()
        return ("the fused method stores no weights: 'naive' and 'gemm' do",)

    def choice(self, problem: Problem, operation: Operation, device: DeviceSpec) -> Choice:
        plan = fused_plan(problem)
        return Choice(
            kernel="tiles, BLAS and online softmax",
            q_tile=plan.tile_shape,
            kv_tile=plan.box_tile_shape,
            useful_products=plan.counts.useful_products * problem.batch * problem.heads,
            computed_products=plan.counts.computed_products * problem.batch * problem.heads,
            time_us=plan_time_us(problem, plan, operation, device.processors),
        )

    def forward(
        self,
        problem: Problem,
        scale: float,
        execution: Execution,
        q: np.ndarray,
        k: np.ndarray,
        v: np.ndarray,
        bias: np.ndarray | None,
        out: np.ndarray,
        lse: np.ndarray | None,
    ) -> None:
        plan = fused_plan(problem)

        def attend(item: tuple[int, Tile]) -> None:
            batch, tile = item
            own = tile_index(problem, tile)
            queries = read(problem, q, batch, own) * scale
            largest = np.full((*queries.shape[:2], 1), -np.inf, queries.dtype)
            # The last column sums the weights: one product gives the output and its normalizer.
            total = np.zeros((*queries.shape[:2], problem.value_dim + 1), queries.dtype)
            for box in plan.box_tiles(tile):
                theirs = box_index(problem, tile, box)
                keys, values = read(problem, k, batch, theirs), read(problem, v, batch, theirs)
                scores = _scores(problem, plan, tile, box, queries, keys, bias)
                before, largest = largest, np.maximum(largest, scores.max(-1, keepdims=True))
                # A row without a key so far must not meet inf - inf.
                shift = np.where(np.isneginf(largest), 0, largest)
                scores -= shift
                weights = np.exp(scores, out=scores)
                total *= np.exp(before - shift)
                total += weights @ _with_ones(values)
            sums = total[..., -1:]
            write(problem, out, batch, own, total[..., :-1] / sums)
            if lse is not None:
                write(problem, lse[..., None], batch, own, largest + np.log(sums))

        for _ in map_tiles(attend, product(range(problem.batch), plan.tiles())):
            pass

    def backward(
        self,
        problem: Problem,
        scale: float,
        execution: Execution,
        dout: np.ndarray,
        q: np.ndarray,
        k: np.ndarray,
        v: np.ndarray,
        bias: np.ndarray | None,
        out: np.ndarray,
        lse: np.ndarray,
        dlse: np.ndarray | None,
        dq: np.ndarray,
        dk: np.ndarray,
        dv: np.ndarray,
        dbias: np.ndarray | None,
    ) -> None:
        plan = fused_plan(problem)
        inverse = plan.transposed()

        def query_side(batch: int, index: tuple[slice, ...]) -> tuple[np.ndarray, ...]:
            gradients = read(problem, dout, batch, index)
            delta = (gradients * read(problem, out, batch, index)).sum(-1, keepdims=True)
            if dlse is not None:
                delta -= read(problem, dlse[..., None], batch, index)
            queries = read(problem, q, batch, index) * scale
            return queries, gradients, delta, read(problem, lse[..., None], batch, index)

        def toward_queries(item: tuple[int, Tile]) -> np.ndarray | None:
            batch, tile = item
            own = tile_index(problem, tile)
            queries, gradients, delta, norm = query_side(batch, own)
            total = np.zeros_like(queries)
            partial = None if dbias is None else np.zeros(dbias.shape).reshape(problem.heads, -1)
            for box in plan.box_tiles(tile):
                theirs = box_index(problem, tile, box)
                keys, values = read(problem, k, batch, theirs), read(problem, v, batch, theirs)
                scores = _scores(problem, plan, tile, box, queries, keys, bias)
                weights = np.exp(scores - norm)
                dscores = weights * (gradients @ values.mT - delta)
                total += dscores @ keys
                if partial is not None:
                    _add_by_position(problem, plan, tile, box, dscores, partial)
            write(problem, dq, batch, own, total * scale)
            return partial

        def toward_keys(item: tuple[int, Tile]) -> None:
            batch, tile = item
            own = tile_index(problem, tile)
            keys, values = read(problem, k, batch, own), read(problem, v, batch, own)
            total_keys, total_values = np.zeros_like(keys), np.zeros_like(values)
            for box in inverse.box_tiles(tile):
                theirs = box_index(problem, tile, box)
                queries, gradients, delta, norm = query_side(batch, theirs)
                scores = _scores(problem, inverse, tile, box, queries, keys, bias)
                weights = np.exp(scores - norm)
                total_values += weights.mT @ gradients
                dscores = weights * (gradients @ values.mT - delta)
                total_keys += dscores.mT @ queries  # queries carry the scale
            write(problem, dk, batch, own, total_keys)
            write(problem, dv, batch, own, total_values)

        partials = map_tiles(toward_queries, product(range(problem.batch), plan.tiles()))
        summed = np.zeros(problem.bias_shape).reshape(problem.heads, -1)
        for partial in partials:
            if partial is not None:
                summed += partial
        if dbias is not None:
            dbias[...] = summed.reshape(dbias.shape)
        for _ in map_tiles(toward_keys, product(range(problem.batch), inverse.tiles())):
            pass


def _with_ones(values: np.ndarray) -> np.ndarray:
    """Values with one more channel that counts weights."""
    widened = np.ones((*values.shape[:-1], values.shape[-1] + 1), values.dtype)
    widened[..., :-1] = values
    return widened


def _scores(
    problem: Problem,
    plan: TilePlan,
    tile: Tile,
    box: BoxTile,
    queries: np.ndarray,
    keys: np.ndarray,
    bias: np.ndarray | None,
) -> np.ndarray:
    """Masked scores ``[kv_heads, head_group * query tokens, key tokens]``; queries are scaled."""
    scores: np.ndarray = queries @ keys.mT
    mask = additive_mask(plan, tile, box, problem.accumulator)
    # Rows of one key/value head hold its query heads one after another.
    by_head = scores.reshape(problem.heads, -1, scores.shape[-1])
    if bias is not None:
        relative = relative_positions(problem, plan, tile, box)
        by_head += bias.reshape(problem.heads, -1)[:, relative].astype(scores.dtype)
    if mask is not None:
        by_head += mask if plan.side == "query" else mask.T
    return scores


def _add_by_position(
    problem: Problem,
    plan: TilePlan,
    tile: Tile,
    box: BoxTile,
    dscores: np.ndarray,
    total: np.ndarray,
) -> None:
    """Add the gradient of every score to the bias entry it came from; `total` is per head."""
    relative = relative_positions(problem, plan, tile, box).ravel()
    for head, gradients in enumerate(dscores.reshape(problem.heads, -1)):
        total[head] += np.bincount(relative, gradients, total.shape[1])
