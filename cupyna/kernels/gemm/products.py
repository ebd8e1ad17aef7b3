"""The launches of the gemm kernels: what each product is told, and where its weights wait."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

from cupyna.arrays.device_array import DeviceArray, has_vector_rows
from cupyna.execution import Execution
from cupyna.operands import BackwardArrays
from cupyna.problem import Problem
from cupyna.tiles import Side

from .. import launch, loader
from ..fused.params import axis_tiles
from ..params import (
    ABSENT,
    ArrayFields,
    axis_fields,
    bias_fields,
    row_fields,
    statistic_fields,
)
from ..variant import Variant
from .heuristics import gemm_plan
from .params import VECTORS, pack_gemm
from .plan import GemmPlan, Kind, smem_bytes
from .schedule import gradient_plan
from .shapes import channels_of, gemm_variant, is_tight, keeps_fragments, row_channels_of, row_slots
from .tile_costs import blocks_on_device

__all__ = ["GemmProducts"]

_WARP = 32

# What a block finds out about its tile serves for several planes: microseconds, and at most as long
# as some planes. On an H200 it was 8 in float32.
_SETUP_US = 10.0
_MOST_PLANES_OF_SETUP = 3.0
_MOST_PLANES_OF_BLOCK = 32
_MOST_GRID_ROWS = 65535

_NO_TILES = ((0, 0, 1),) * 3


class GemmProducts:
    """The kernels of one problem on one stream."""

    def __init__(self, problem: Problem, execution: Execution) -> None:
        self._problem = problem
        self._execution = execution
        self._shared = {
            "axis": axis_fields(problem),
            "batch": problem.batch,
            "heads": problem.heads,
            "head_group": problem.head_group,
            "is_precise": int(not problem.allow_tf32),
        }

    @property
    def keeps_fragments(self) -> bool:
        """Whether backward works with fragments."""
        return keeps_fragments(self._problem)

    def plan(self, kind: Kind, channels: int) -> GemmPlan:
        return gemm_plan(self._problem, self._execution.device, kind, channels)

    def gradient_plan(self, side: Side) -> GemmPlan:
        """How the gradients of one side are computed."""
        return gradient_plan(self._problem, self._execution.device, side)

    def rows(self) -> DeviceArray:
        """Room for rows of slots: those of one head lie together, padded to 16 bytes."""
        problem = self._problem
        slots = row_slots(problem.window, problem.item_bytes)
        return self._by_head(problem.dtype, slots)

    def fragments(self, *plans: GemmPlan) -> DeviceArray:
        """Room for the fragments of all warps, of one plan after the other."""
        problem = self._problem
        most = max(plan.fragment_bytes(problem) for plan in plans)
        shape = (most // problem.item_bytes,)
        memory: DeviceArray = self._execution.empty(shape, problem.dtype)
        return memory

    def maxima(self, plan: GemmPlan) -> DeviceArray:
        """Room for the maxima of all rows by chunk, and for their sums."""
        problem = self._problem
        memory: DeviceArray = self._execution.empty((plan.maxima(problem),), problem.accumulator)
        return memory

    def weights(
        self,
        plan: GemmPlan,
        query: DeviceArray,
        key: DeviceArray,
        weights: DeviceArray,
        maxima: DeviceArray,
        scale: float,
        *,
        bias: DeviceArray | None,
        lse: DeviceArray | None,
    ) -> None:
        """Exponentials of scores as fragments, and what they were lowered by."""
        fields = {
            "query": row_fields(query), "key": row_fields(key), "weights": _base_of(weights),
            "bias": bias_fields(bias), "lse": statistic_fields(lse), "maxima": maxima.pointer,
            "scale": scale, "channels": query.shape[-1],
            "vectors": _vectors(query=query, key=key),
        }  # fmt: skip
        self._launch(gemm_variant("gemm_weights", self._problem.dtype), "weights", plan, fields)

    def values(
        self,
        plan: GemmPlan,
        weights: DeviceArray,
        rows: DeviceArray,
        out: DeviceArray,
        scale: float,
        *,
        maxima: DeviceArray | None = None,
    ) -> None:
        """Fragments times rows of the side that the tiles of `plan` do not cut."""
        dtype, channels = self._problem.dtype, rows.shape[-1]
        width = channels_of(dtype, channels)
        fields = {
            "query": row_fields(out), "key": row_fields(rows), "weights": _base_of(weights),
            "maxima": 0 if maxima is None else maxima.pointer, "scale": scale,
            "channels": channels, "is_transposed": int(plan.side == "key"),
            "vectors": _vectors(query=out, key=rows),
        }  # fmt: skip
        variant = gemm_variant("gemm_values", dtype, width)
        self._launch(variant, "values", plan, fields, -(-channels // width))

    def query_gradients(
        self,
        plan: GemmPlan,
        scale: float,
        arrays: BackwardArrays[DeviceArray],
        gradient: DeviceArray,
    ) -> DeviceArray:
        """Gradients of scores as fragments, or those of queries where the plan leaves rows.

        Returns the statistics of all queries.
        """
        # Two float32 numbers are as long as one float64 number.
        statistics = self._by_head("float64")
        q, v = arrays.q, arrays.v
        rows = {"query": q, "key": arrays.k, "dout": arrays.dout, "value": v, "output": arrays.out}
        fields = {name: row_fields(array) for name, array in rows.items()} | {
            "gradient": row_fields(gradient) if plan.leaves_rows else _base_of(gradient),
            "lse": statistic_fields(arrays.lse), "dlse": statistic_fields(arrays.dlse),
            "statistics": statistic_fields(statistics), "scale": scale,
            "channels": q.shape[-1], "value_channels": v.shape[-1],
            "vectors": _vectors(**rows, gradient=gradient),
        }  # fmt: skip
        self._launch_gradients(plan, fields)
        return statistics

    def key_gradients(
        self,
        plan: GemmPlan,
        scale: float,
        arrays: BackwardArrays[DeviceArray],
        statistics: DeviceArray,
        weights: DeviceArray,
        gradient: DeviceArray,
    ) -> None:
        """Transposed weights and gradients of scores as fragments, from tiles of keys.

        Where the plan leaves rows, gradients of values and of keys.
        """
        of_result = row_fields if plan.leaves_rows else _base_of
        q, v = arrays.q, arrays.v
        rows = {"query": arrays.k, "key": q, "dout": v, "value": arrays.dout}
        fields = {name: row_fields(array) for name, array in rows.items()} | {
            "weights": of_result(weights), "gradient": of_result(gradient),
            "statistics": statistic_fields(statistics), "scale": scale, "is_transposed": 1,
            "channels": q.shape[-1], "value_channels": v.shape[-1],
            "vectors": _vectors(**rows, weights=weights, gradient=gradient),
        }  # fmt: skip
        self._launch_gradients(plan, fields)

    def scores(
        self,
        query: DeviceArray,
        key: DeviceArray,
        weights: DeviceArray,
        scale: float,
        *,
        empty: float,
        bias: DeviceArray | None = None,
    ) -> None:
        """Scores for a caller, who sees slots without a key."""
        channels = query.shape[-1]
        fields = {
            "query": row_fields(query), "key": row_fields(key), "weights": row_fields(weights),
            "bias": bias_fields(bias), "scale": scale, "channels": channels,
            "vectors": _vectors(query=query, key=key, weights=weights),
        }  # fmt: skip
        if any(self._problem.is_causal):
            fields |= {"fills": 1, "empty": empty}
        plan = self.plan("scores", channels)
        self._launch(gemm_variant("gemm_scores", self._problem.dtype), "scores", plan, fields)

    def score_gradients(
        self,
        scale: float,
        arrays: BackwardArrays[DeviceArray],
        *,
        weights: DeviceArray,
        dscores: DeviceArray,
    ) -> None:
        problem = self._problem
        rows = {
            "query": arrays.q, "key": arrays.k, "dout": arrays.dout, "value": arrays.v,
            "output": arrays.out, "weights": weights, "gradient": dscores,
        }  # fmt: skip
        fields = {name: row_fields(array) for name, array in rows.items()} | {
            "lse": statistic_fields(arrays.lse), "dlse": statistic_fields(arrays.dlse),
            "bias": bias_fields(arrays.bias), "scale": scale,
            "channels": problem.head_dim, "value_channels": problem.value_dim,
            "vectors": _vectors(**rows),
        }  # fmt: skip
        plan = self.plan("score_gradients", problem.head_dim)
        variant = gemm_variant("gemm_score_gradients", problem.dtype)
        self._launch(variant, "score_gradients", plan, fields)

    def outputs(
        self,
        weights: DeviceArray,
        key: DeviceArray,
        query: DeviceArray,
        scale: float,
    ) -> None:
        self._multiply("outputs", weights, query, key, scale)

    def inverse(
        self, weights: DeviceArray, query: DeviceArray, key: DeviceArray, scale: float
    ) -> None:
        self._multiply("inverse", weights, query, key, scale)

    def bias_gradient(self, dscores: DeviceArray, dbias: DeviceArray) -> None:
        *outer, last = self._problem.bias_shape[1:]
        blocks = math.prod(outer) * -(-last // _WARP)
        fields = {"gradient": row_fields(dscores), "bias": bias_fields(dbias), "tile": _NO_TILES}
        grid = (blocks, min(self._problem.heads, _MOST_GRID_ROWS), 1)
        self._queue(gemm_variant("gemm_bias_gradient", self._problem.dtype), grid, 0, fields)

    def _multiply(
        self,
        kind: Kind,
        weights: DeviceArray,
        query: DeviceArray,
        key: DeviceArray,
        scale: float,
    ) -> None:
        """Sums of rows of keys to rows of queries, or the other way around."""
        dtype, channels = self._problem.dtype, key.shape[-1]
        width = channels_of(dtype, channels)
        fields = {
            "query": row_fields(query), "key": row_fields(key), "weights": row_fields(weights),
            "scale": scale, "channels": channels,
            "vectors": _vectors(query=query, key=key, weights=weights),
        }  # fmt: skip
        variant = gemm_variant(f"gemm_{kind}", dtype, width)
        self._launch(variant, kind, self.plan(kind, channels), fields, -(-channels // width))

    def _launch_gradients(self, plan: GemmPlan, fields: dict[str, Any]) -> None:
        """The kernel of either side that leaves rows, or fragments."""
        dtype, keys = self._problem.dtype, int(plan.side == "key")
        if not plan.leaves_rows:
            variant = gemm_variant("gemm_gradients", dtype, keys=keys)
            self._launch(variant, "gradients", plan, fields)
            return
        width = row_channels_of(dtype, fields["channels"], fields["value_channels"], keys)
        tf32 = None
        if is_tight(dtype, width, keys):
            tf32 = 1 if self._problem.allow_tf32 else 3
        variant = gemm_variant("gemm_row_gradients", dtype, width, keys, tf32)
        self._launch(variant, "key_rows" if keys else "query_rows", plan, fields)

    def _by_head(self, dtype: str, *channels: int) -> DeviceArray:
        """Room for numbers of all queries, those of one head together."""
        problem = self._problem
        shape = (problem.batch, problem.heads, *problem.spatial, *channels)
        memory: DeviceArray = self._execution.empty(shape, dtype)
        batch, head, *rest = memory.strides
        axes, channel = rest[: problem.rank], rest[problem.rank :]
        shape = (problem.batch, *problem.spatial, problem.heads, *channels)
        strides = (batch, *axes, head, *channel)
        return DeviceArray(memory.pointer, shape, strides, memory.dtype, memory.device)

    def _launch(
        self,
        variant: Variant,
        kind: Kind,
        plan: GemmPlan,
        fields: dict[str, Any],
        channel_blocks: int = 1,
    ) -> None:
        channels = fields["channels"]
        problem = self._problem
        tiles = tuple(map(axis_tiles, problem.spatial, problem.dilation, plan.tile))
        leading = 3 - problem.rank
        fields |= {
            "tile": (
                *((0, 0, 1),) * leading,
                *(
                    (own.bit_length() - 1, warps.bit_length() - 1, count)
                    for own, warps, count in zip(plan.warp_tile, plan.warps, tiles, strict=True)
                ),
            ),
            "split": leading + plan.cut.split,
            "slab": plan.cut.slab,
            "slab_rows": plan.cut.slab_rows,
            "stages": plan.stages,
            "chunks": plan.cut.chunks,
            "groups": plan.cut.groups,
            "part_groups": plan.cut.part_groups,
        }
        sums_of_keys = kind in ("inverse", "key_rows") or (kind == "values" and plan.side == "key")
        heads = problem.kv_heads if sums_of_keys else problem.heads
        blocks, planes = math.prod(tiles) * channel_blocks, heads * problem.batch
        smem = smem_bytes(problem, kind, plan.cut, plan.stages)
        slots = blocks_on_device(problem, self._execution.device, kind, channels, smem)
        # Two kernels share the time of a plan with fragments.
        plane_us = plan.time_us * slots / (blocks * planes) / (1 if plan.leaves_rows else 2)
        setup = min(_SETUP_US / plane_us, _MOST_PLANES_OF_SETUP)
        of_block = _planes_of_block(blocks, planes, slots, setup, plan.spread(problem))
        rows = min(-(-planes // of_block), _MOST_GRID_ROWS)
        self._queue(variant, (blocks, rows, 1), smem, fields)

    def _queue(
        self, variant: Variant, grid: tuple[int, ...], smem_bytes: int, fields: dict[str, Any]
    ) -> None:
        kernel = loader.load(variant, self._execution.device.index)
        params = pack_gemm(self._shared | fields)
        launch.launch(
            kernel, grid, (variant.threads, 1, 1), smem_bytes, self._execution.stream, params
        )


@lru_cache(maxsize=4096)
def _planes_of_block(tiles: int, planes: int, slots: int, setup: float, spread: float) -> int:
    """Planes that one block takes: those that end first, of blocks that take turns on `slots`.

    A block is set up in the time of `setup` planes; the longest takes `spread` times as long as
    others, and is the last one to end if it begins late.
    """

    def time(of_block: int) -> float:
        blocks = tiles * -(-planes // of_block)
        turns = max(-(-blocks // slots), blocks / slots + spread - 1)
        return turns * (setup + of_block)

    return min(range(1, min(planes, _MOST_PLANES_OF_BLOCK) + 1), key=time)


def _base_of(memory: DeviceArray) -> ArrayFields:
    """Fields of fragments, whose places the kernels know."""
    return (memory.pointer, *ABSENT[1:])


def _vectors(**arrays: DeviceArray) -> int:
    """Bits of the arrays whose rows can be moved in 16-byte vectors."""
    return sum(VECTORS[name] for name, array in arrays.items() if has_vector_rows(array))
