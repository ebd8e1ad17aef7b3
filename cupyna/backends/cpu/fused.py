"""The fused method on a CPU: tiles, BLAS and an online softmax; no weights are stored.

Forward walks the key box of each query tile. Backward walks it again for dQ, and walks the query
box of each key tile for dK and dV: two passes instead of additions from many tiles into one
place, so tiles run on any number of threads and every run gives the same bits.
"""

from __future__ import annotations

from itertools import product

import numpy as np

from ...execution import Choice, Execution
from ...operands import BackwardArrays, ForwardArrays
from ...problem import DeviceSpec, Method, Operation, Problem
from ...tiles import BoxTile, Tile, TilePlan
from .blocks import additive_mask, box_index, read, relative_positions, tile_index, write
from .heuristics import fused_plan, plan_time_us
from .scratch import Scratch
from .threads import map_tiles

__all__ = ["CpuFused"]


class CpuFused:
    """Tiles and BLAS, nothing of size tokens x window in memory."""

    name = "cpu-fused"
    method: Method = "fused"
    is_lean = True

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
        arrays: ForwardArrays[np.ndarray],
    ) -> None:
        plan = fused_plan(problem)
        lowest = np.finfo(problem.accumulator).min
        scratch = Scratch()

        def attend(item: tuple[int, Tile]) -> None:
            batch, tile = item
            own = tile_index(problem, tile)
            queries = read(problem, arrays.q, batch, own, scratch, "queries")
            queries *= scale
            # None before the first box: most tiles have one, and many small calls on arrays make
            # threads wait for each other.
            largest: np.ndarray | None = None
            total: np.ndarray | None = None
            for box in plan.box_tiles(tile):
                theirs = box_index(problem, tile, box)
                keys = read(problem, arrays.k, batch, theirs, scratch, "keys")
                # The column of ones sums the weights: one product gives output and normalizer.
                values = read(problem, arrays.v, batch, theirs, scratch, "values", ones=1)
                scores = _scores(problem, plan, tile, box, queries, keys, arrays.bias, scratch)
                highest = scores.max(-1, keepdims=True)
                if largest is not None:
                    np.maximum(highest, largest, out=highest)
                # A row without a key so far must not meet inf - inf.
                shift = np.maximum(highest, lowest)
                scores -= shift
                np.exp(scores, out=scores)
                part = scores @ values
                if largest is not None and total is not None:
                    total *= np.exp(largest - shift)
                    part += total
                largest, total = highest, part
            assert largest is not None and total is not None, "every window holds a key"
            sums = total[..., -1:]
            write(problem, arrays.out, batch, own, total[..., :-1] / sums)
            if arrays.lse is not None:
                write(problem, arrays.lse[..., None], batch, own, largest + np.log(sums))

        for _ in map_tiles(attend, product(range(problem.batch), plan.tiles())):
            pass

    def backward(
        self,
        problem: Problem,
        scale: float,
        execution: Execution,
        arrays: BackwardArrays[np.ndarray],
    ) -> None:
        dbias = arrays.dbias
        plan = fused_plan(problem)
        inverse = plan.transposed()
        scratch = Scratch()

        def query_side(batch: int, index: tuple[slice, ...]) -> tuple[np.ndarray, ...]:
            gradients = read(problem, arrays.dout, batch, index, scratch, "gradients")
            outputs = read(problem, arrays.out, batch, index, scratch, "outputs")
            delta = np.einsum("hrd,hrd->hr", gradients, outputs)[..., None]
            if arrays.dlse is not None:
                delta -= read(problem, arrays.dlse[..., None], batch, index, scratch, "dlse")
            queries = read(problem, arrays.q, batch, index, scratch, "queries")
            queries *= scale
            norm = read(problem, arrays.lse[..., None], batch, index, scratch, "lse")
            return queries, gradients, delta, norm

        def toward_queries(item: tuple[int, Tile]) -> np.ndarray | None:
            batch, tile = item
            own = tile_index(problem, tile)
            queries, gradients, delta, norm = query_side(batch, own)
            total = np.zeros_like(queries)
            partial = None if dbias is None else np.zeros(dbias.shape).reshape(problem.heads, -1)
            for box in plan.box_tiles(tile):
                theirs = box_index(problem, tile, box)
                keys = read(problem, arrays.k, batch, theirs, scratch, "keys")
                values = read(problem, arrays.v, batch, theirs, scratch, "values")
                weights = _scores(problem, plan, tile, box, queries, keys, arrays.bias, scratch)
                weights -= norm
                np.exp(weights, out=weights)
                dscores = _weight_gradients(gradients, values, scratch)
                dscores -= delta
                dscores *= weights
                total += dscores @ keys
                if partial is not None:
                    _add_by_position(problem, plan, tile, box, dscores, partial)
            write(problem, arrays.dq, batch, own, total * scale)
            return partial

        def toward_keys(item: tuple[int, Tile]) -> None:
            batch, tile = item
            own = tile_index(problem, tile)
            keys = read(problem, arrays.k, batch, own, scratch, "keys")
            values = read(problem, arrays.v, batch, own, scratch, "values")
            total_keys, total_values = np.zeros_like(keys), np.zeros_like(values)
            for box in inverse.box_tiles(tile):
                theirs = box_index(problem, tile, box)
                queries, gradients, delta, norm = query_side(batch, theirs)
                weights = _scores(problem, inverse, tile, box, queries, keys, arrays.bias, scratch)
                weights -= norm
                np.exp(weights, out=weights)
                total_values += weights.mT @ gradients
                dscores = _weight_gradients(gradients, values, scratch)
                dscores -= delta
                dscores *= weights
                total_keys += dscores.mT @ queries  # queries carry the scale
            write(problem, arrays.dk, batch, own, total_keys)
            write(problem, arrays.dv, batch, own, total_values)

        partials = map_tiles(toward_queries, product(range(problem.batch), plan.tiles()))
        summed = np.zeros(problem.bias_shape).reshape(problem.heads, -1)
        for partial in partials:
            if partial is not None:
                summed += partial
        if dbias is not None:
            dbias[...] = summed.reshape(dbias.shape)
        for _ in map_tiles(toward_keys, product(range(problem.batch), inverse.tiles())):
            pass


def _weight_gradients(gradients: np.ndarray, values: np.ndarray, scratch: Scratch) -> np.ndarray:
    shape = (*gradients.shape[:-1], values.shape[-2])
    return np.matmul(
        gradients, values.mT, out=scratch.array("weight gradients", shape, gradients.dtype.name)
    )


def _scores(
    problem: Problem,
    plan: TilePlan,
    tile: Tile,
    box: BoxTile,
    queries: np.ndarray,
    keys: np.ndarray,
    bias: np.ndarray | None,
    scratch: Scratch,
) -> np.ndarray:
    """Masked scores ``[kv_heads, head_group * query tokens, key tokens]``; queries are scaled."""
    shape = (*queries.shape[:-1], keys.shape[-2])
    scores = scratch.array("scores", shape, problem.accumulator)
    np.matmul(queries, keys.mT, out=scores)
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
