"""Host side of the gemm CUDA method: tiles on tensor cores, weights stored.

The kernels are the paper's three products: query tile x key box, weights x key box, and weights^T x
query box. Forward stores exponentials of scores with the running maxima that they were lowered by;
backward stores weights and gradients of scores from one kernel. Rows of weights are compact, in the
inputs' type, and padded to 16 bytes.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ..arrays.device_array import DeviceArray, has_vector_rows
from ..execution import Choice, Execution
from ..problem import DeviceSpec, Method, Operation, Problem

if TYPE_CHECKING:
    from ..kernels.gemm.heuristics import GemmPlan, Kind
    from ..kernels.variant import Variant

__all__ = ["CudaGemm"]

_WARP = 32
_VECTOR_BYTES = 16
_MOST_BLOCKS = 2**31 - 1

# Enough blocks for every multiprocessor to have its last one at about the same time.
_WAVES = 2
_BLOCKS_OF_PROCESSOR = 4
_MOST_PLANES_OF_BLOCK = 8
_MOST_GRID_ROWS = 65535

# Positions are 32-bit numbers with room for sums.
_MOST_TOKENS = 2**30 - 1

# The products of each operation; the last entry is whether they have the values' channels.
_PRODUCTS: dict[Operation, tuple[tuple[Kind, bool], ...]] = {
    "forward": (("forward", False),),
    "backward": (
        ("score_gradients", False), ("inverse", True), ("outputs", False), ("inverse", False),
    ),
    "qk": (("scores", False),),
    "av": (("outputs", True),),
    "qk_backward": (("outputs", False), ("inverse", False)),
    "av_backward": (("scores", True), ("inverse", True)),
}  # fmt: skip


class CudaGemm:
    """Backend of gemm CUDA kernels."""

    name = "cuda-gemm"
    method: Method = "gemm"
    is_recordable = True

    def refusals(
        self, problem: Problem, operation: Operation, device: DeviceSpec
    ) -> tuple[str, ...]:
        from ..kernels.variant import SERVED, architectures_on

        if not architectures_on(device.compute_capability):
            major, minor = device.compute_capability
            return (f"needs compute capability {SERVED}, {device.name} has {major}.{minor}",)
        reasons = []
        if problem.tokens > _MOST_TOKENS:
            reasons.append(f"{problem.tokens} tokens are more than {_MOST_TOKENS}")
        try:
            plans = _plans(problem, operation, device)
        except ValueError as error:
            return (*reasons, str(error))
        blocks = max(_blocks(problem, plan, channels) for plan, channels in plans)
        if blocks > _MOST_BLOCKS:
            reasons.append(f"needs {blocks} blocks of threads, more than {_MOST_BLOCKS}")
        return tuple(reasons)

    def choice(self, problem: Problem, operation: Operation, device: DeviceSpec) -> Choice:
        from ..tiles import TilePlan

        plans = [plan for plan, _ in _plans(problem, operation, device)]
        first = plans[0]
        counts = TilePlan(problem.axes, first.warp_tile, problem.spatial, first.side).counts
        planes = problem.batch * problem.heads
        stored = {"forward": 1, "backward": 2}.get(operation, 0)
        rows = planes * problem.tokens
        maxima = rows * (first.chunks + 1) * (8 if problem.dtype == "float64" else 4)
        weights = rows * _row_slots(problem) * problem.item_bytes
        return Choice(
            kernel=f"cupyna_gemm_*_{problem.dtype}",
            q_tile=first.tile,
            kv_tile=TilePlan(problem.axes, first.tile, problem.spatial, first.side).largest_box,
            useful_products=planes * problem.tokens * problem.window,
            computed_products=planes * counts.box_tokens * math.prod(first.warp_tile),
            workspace_bytes=stored * weights + (maxima if operation == "forward" else 0),
            time_us=sum(plan.time_us for plan in plans),
        )

    def forward(
        self,
        problem: Problem,
        scale: float,
        execution: Execution,
        q: DeviceArray,
        k: DeviceArray,
        v: DeviceArray,
        bias: DeviceArray | None,
        out: DeviceArray,
        lse: DeviceArray | None,
    ) -> None:
        run = _Launcher(problem, execution)
        weights = run.workspace()
        # Both kernels walk the same chunks: one leaves the maxima that the other rescales by.
        plan = run.plan("forward", problem.head_dim)
        maxima = run.statistics(plan.chunks + 1)
        run.scores(q, k, weights, scale, bias=bias, lse=lse, maxima=maxima, plan=plan)
        run.outputs(weights, v, out, 1.0, maxima=maxima, plan=plan)

    def backward(
        self,
        problem: Problem,
        scale: float,
        execution: Execution,
        dout: DeviceArray,
        q: DeviceArray,
        k: DeviceArray,
        v: DeviceArray,
        bias: DeviceArray | None,
        out: DeviceArray,
        lse: DeviceArray,
        dlse: DeviceArray | None,
        dq: DeviceArray,
        dk: DeviceArray,
        dv: DeviceArray,
        dbias: DeviceArray | None,
    ) -> None:
        run = _Launcher(problem, execution)
        weights, dscores = run.workspace(), run.workspace()
        run.score_gradients(
            scale, dout, q, k, v, bias, out, lse, dlse, weights=weights, dscores=dscores
        )
        run.inverse(weights, dout, dv, 1.0)
        run.outputs(dscores, k, dq, scale)
        run.inverse(dscores, q, dk, scale)
        if dbias is not None:
            run.bias_gradient(dscores, dbias)

    def qk(
        self,
        problem: Problem,
        scale: float,
        execution: Execution,
        q: DeviceArray,
        k: DeviceArray,
        bias: DeviceArray | None,
        scores: DeviceArray,
    ) -> None:
        _Launcher(problem, execution).scores(q, k, scores, scale, empty=-math.inf, bias=bias)

    def av(
        self,
        problem: Problem,
        execution: Execution,
        weights: DeviceArray,
        v: DeviceArray,
        out: DeviceArray,
    ) -> None:
        _Launcher(problem, execution).outputs(weights, v, out, 1.0)

    def qk_backward(
        self,
        problem: Problem,
        scale: float,
        execution: Execution,
        dscores: DeviceArray,
        q: DeviceArray,
        k: DeviceArray,
        dq: DeviceArray,
        dk: DeviceArray,
        dbias: DeviceArray | None,
    ) -> None:
        run = _Launcher(problem, execution)
        run.outputs(dscores, k, dq, scale)
        run.inverse(dscores, q, dk, scale)
        if dbias is not None:
            run.bias_gradient(dscores, dbias)

    def av_backward(
        self,
        problem: Problem,
        execution: Execution,
        dout: DeviceArray,
        weights: DeviceArray,
        v: DeviceArray,
        dweights: DeviceArray,
        dv: DeviceArray,
    ) -> None:
        run = _Launcher(problem, execution)
        run.scores(dout, v, dweights, 1.0, empty=0.0)
        run.inverse(weights, dout, dv, 1.0)


class _Launcher:
    """The kernels of one problem on one stream."""

    def __init__(self, problem: Problem, execution: Execution) -> None:
        from ..kernels.params import axis_fields

        self._problem = problem
        self._execution = execution
        self._shared = {
            "axis": axis_fields(problem),
            "batch": problem.batch,
            "heads": problem.heads,
            "head_group": problem.head_group,
            "is_precise": int(not problem.allow_tf32),
        }

    def plan(self, kind: Kind, channels: int) -> GemmPlan:
        from ..kernels.gemm.heuristics import gemm_plan

        return gemm_plan(self._problem, self._execution.device, kind, channels)

    def workspace(self) -> DeviceArray:
        """Room for all weights: rows of one head lie together, padded to 16 bytes."""
        problem = self._problem
        slots = _row_slots(problem)
        shape = (problem.batch, problem.heads, *problem.spatial, slots)
        memory: DeviceArray = self._execution.empty(shape, problem.dtype)
        batch, head, *axes, channel = memory.strides
        shape = (problem.batch, *problem.spatial, problem.heads, slots)
        strides = (batch, *axes, head, channel)
        return DeviceArray(memory.pointer, shape, strides, memory.dtype, memory.device)

    def statistics(self, count: int) -> DeviceArray:
        """Room for some numbers of each row."""
        problem = self._problem
        shape = (problem.batch, *problem.spatial, problem.heads, count)
        memory: DeviceArray = self._execution.empty(shape, problem.accumulator)
        return memory

    def scores(
        self,
        query: DeviceArray,
        key: DeviceArray,
        weights: DeviceArray,
        scale: float,
        *,
        empty: float | None = None,
        bias: DeviceArray | None = None,
        lse: DeviceArray | None = None,
        maxima: DeviceArray | None = None,
        plan: GemmPlan | None = None,
    ) -> None:
        """Scores for a caller, who sees slots without a key; or exponentials for ourselves."""
        from ..kernels.params import bias_fields, row_fields, statistic_fields

        channels = query.shape[-1]
        fields = {
            "query": row_fields(query), "key": row_fields(key), "weights": row_fields(weights),
            "bias": bias_fields(bias), "lse": statistic_fields(lse), "maxima": row_fields(maxima),
            "scale": scale, "channels": channels,
            "vectors": _vectors(query=query, key=key, weights=weights),
        }  # fmt: skip
        if empty is not None and any(self._problem.is_causal):
            fields |= {"fills": 1, "empty": empty}
        plan = self.plan("scores", channels) if plan is None else plan
        self._launch(_variant("gemm_scores", self._problem.dtype), "scores", plan, fields)

    def score_gradients(
        self,
        scale: float,
        dout: DeviceArray,
        q: DeviceArray,
        k: DeviceArray,
        v: DeviceArray,
        bias: DeviceArray | None,
        out: DeviceArray,
        lse: DeviceArray,
        dlse: DeviceArray | None,
        *,
        weights: DeviceArray,
        dscores: DeviceArray,
    ) -> None:
        from ..kernels.params import bias_fields, row_fields, statistic_fields

        problem = self._problem
        fields = {
            "query": row_fields(q), "key": row_fields(k), "dout": row_fields(dout),
            "value": row_fields(v), "output": row_fields(out), "weights": row_fields(weights),
            "gradient": row_fields(dscores), "lse": statistic_fields(lse),
            "dlse": statistic_fields(dlse), "bias": bias_fields(bias), "scale": scale,
            "channels": problem.head_dim, "value_channels": problem.value_dim,
            "vectors": _vectors(
                query=q, key=k, dout=dout, value=v, output=out, weights=weights, gradient=dscores
            ),
        }  # fmt: skip
        plan = self.plan("score_gradients", problem.head_dim)
        variant = _variant("gemm_score_gradients", problem.dtype)
        self._launch(variant, "score_gradients", plan, fields)

    def outputs(
        self,
        weights: DeviceArray,
        key: DeviceArray,
        query: DeviceArray,
        scale: float,
        *,
        maxima: DeviceArray | None = None,
        plan: GemmPlan | None = None,
    ) -> None:
        from ..kernels.params import row_fields

        fields = {"maxima": row_fields(maxima)}
        plan = self.plan("outputs", key.shape[-1]) if plan is None else plan
        self._multiply("outputs", plan, weights, query, key, scale, fields)

    def inverse(
        self, weights: DeviceArray, query: DeviceArray, key: DeviceArray, scale: float
    ) -> None:
        plan = self.plan("inverse", key.shape[-1])
        self._multiply("inverse", plan, weights, query, key, scale, {})

    def bias_gradient(self, dscores: DeviceArray, dbias: DeviceArray) -> None:
        from ..kernels.params import bias_fields, row_fields

        *outer, last = self._problem.bias_shape[1:]
        blocks = math.prod(outer) * -(-last // _WARP)
        fields = {"gradient": row_fields(dscores), "bias": bias_fields(dbias), "tile": _NO_TILES}
        grid = (blocks, min(self._problem.heads, _MOST_GRID_ROWS), 1)
        self._queue(_variant("gemm_bias_gradient", self._problem.dtype), grid, 0, fields)

    def _multiply(
        self,
        kind: Kind,
        plan: GemmPlan,
        weights: DeviceArray,
        query: DeviceArray,
        key: DeviceArray,
        scale: float,
        fields: dict[str, Any],
    ) -> None:
        """Sums of rows of keys to rows of queries, or the other way around."""
        from ..kernels.gemm.shapes import channels_of
        from ..kernels.params import row_fields

        dtype, channels = self._problem.dtype, key.shape[-1]
        width = channels_of(dtype, channels)
        fields |= {
            "query": row_fields(query), "key": row_fields(key), "weights": row_fields(weights),
            "scale": scale, "channels": channels,
            "vectors": _vectors(query=query, key=key, weights=weights),
        }  # fmt: skip
        variant = _variant(f"gemm_{kind}", dtype, width)
        self._launch(variant, kind, plan, fields, -(-channels // width))

    def _launch(
        self,
        variant: Variant,
        kind: Kind,
        plan: GemmPlan,
        fields: dict[str, Any],
        channel_blocks: int = 1,
    ) -> None:
        from ..kernels.fused.params import axis_tiles

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
            "split": leading + plan.split,
            "slab": plan.slab,
            "slab_rows": plan.slab_rows,
            "stages": plan.stages,
            "chunks": plan.chunks,
        }
        heads = problem.kv_heads if kind == "inverse" else problem.heads
        blocks, planes = math.prod(tiles) * channel_blocks, heads * problem.batch
        # What a block finds out about its tile serves for several heads.
        spare = (
            blocks * planes // (_WAVES * _BLOCKS_OF_PROCESSOR * self._execution.device.processors)
        )
        planes_of_block = min(max(spare, 1), _MOST_PLANES_OF_BLOCK)
        rows = min(-(-planes // planes_of_block), _MOST_GRID_ROWS)
        self._queue(variant, (blocks, rows, 1), plan.smem_bytes, fields)

    def _queue(
        self, variant: Variant, grid: tuple[int, ...], smem_bytes: int, fields: dict[str, Any]
    ) -> None:
        from ..kernels.gemm.params import pack_gemm
        from ..kernels.launch import launch
        from ..kernels.loader import load

        kernel = load(variant, self._execution.device.index)
        params = pack_gemm(self._shared | fields)
        launch(kernel, grid, (variant.threads, 1, 1), smem_bytes, self._execution.stream, params)


_NO_TILES = ((0, 0, 1),) * 3


def _plans(
    problem: Problem, operation: Operation, device: DeviceSpec
) -> list[tuple[GemmPlan, int]]:
    """The plan of each product of an operation, with its channels."""
    from ..kernels.gemm.heuristics import gemm_plan

    found = []
    for kind, of_values in _PRODUCTS[operation]:
        channels = problem.value_dim if of_values else problem.head_dim
        found.append((gemm_plan(problem, device, kind, channels), channels))
    return found


def _blocks(problem: Problem, plan: GemmPlan, channels: int) -> int:
    from ..kernels.fused.params import axis_tiles
    from ..kernels.gemm.shapes import channels_of

    tiles = math.prod(map(axis_tiles, problem.spatial, problem.dilation, plan.tile))
    width = channels_of(problem.dtype, max(problem.head_dim, problem.value_dim))
    longest = max(channels, problem.value_dim)
    return tiles * -(-longest // width)


def _row_slots(problem: Problem) -> int:
    """Slots of a stored row: whole 16-byte vectors."""
    vector = _VECTOR_BYTES // problem.item_bytes
    return -(-problem.window // vector) * vector


def _vectors(**arrays: DeviceArray) -> int:
    """Bits of the arrays whose rows can be moved in 16-byte vectors."""
    from ..kernels.gemm.params import VECTORS

    return sum(VECTORS[name] for name, array in arrays.items() if has_vector_rows(array))


def _variant(family: str, dtype: str, channels: int = 0) -> Variant:
    from ..kernels.gemm.shapes import gemm_variant

    return gemm_variant(family, dtype, channels)
