"""Host side of the gemm CUDA method: tiles on tensor cores, weights stored.

The kernels are the paper's three products: query tile x key box, weights x key box, and weights^T x
query box. Forward and backward keep their weights as fragments of tensor core products between two
kernels; single products read and write a caller's compact rows, and so does the backward pass that
has a bias or float64.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ..arrays.device_array import DeviceArray
from ..execution import Choice, Execution
from ..problem import DeviceSpec, Method, Operation, Problem

if TYPE_CHECKING:
    from ..kernels.gemm.heuristics import GemmPlan, Kind
    from ..kernels.gemm.products import GemmProducts

__all__ = ["CudaGemm"]

_MOST_BLOCKS = 2**31 - 1

# Positions are 32-bit numbers with room for sums.
_MOST_TOKENS = 2**30 - 1

# The products of each operation; the last entry is whether they have the values' channels.
_PRODUCTS: dict[Operation, tuple[tuple[Kind, bool], ...]] = {
    "forward": (("forward", False),),
    "backward": (("query_gradients", False), ("key_gradients", False)),
    "qk": (("scores", False),),
    "av": (("outputs", True),),
    "qk_backward": (("outputs", False), ("inverse", False)),
    "av_backward": (("scores", True), ("inverse", True)),
}  # fmt: skip
_COMPACT_BACKWARD: tuple[tuple[Kind, bool], ...] = (
    ("score_gradients", False), ("inverse", True), ("outputs", False), ("inverse", False),
)  # fmt: skip


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
        return Choice(
            kernel=f"cupyna_gemm_*_{problem.dtype}",
            q_tile=first.tile,
            kv_tile=TilePlan(problem.axes, first.tile, problem.spatial, first.side).largest_box,
            useful_products=planes * problem.tokens * problem.window,
            computed_products=planes * counts.box_tokens * math.prod(first.warp_tile),
            workspace_bytes=_workspace_bytes(problem, operation, plans),
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
        run = _products(problem, execution)
        # Both kernels walk the same chunks: one leaves the fragments that the other takes.
        plan = run.plan("forward", problem.head_dim)
        weights, maxima = run.fragments(plan), run.maxima(plan)
        run.weights(plan, q, k, weights, maxima, scale, bias=bias, lse=lse)
        run.values(plan, weights, v, out, 1.0, maxima=maxima)

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
        run = _products(problem, execution)
        if _keeps_fragments(problem):
            of_queries = run.plan("query_gradients", problem.head_dim)
            of_keys = run.plan("key_gradients", problem.head_dim)
            # Fragments of queries have been used when those of keys come.
            dscores = run.fragments(of_queries, of_keys)
            statistics = run.query_gradients(
                of_queries, scale, dout, q, k, v, out, lse, dlse, dscores
            )
            run.values(of_queries, dscores, k, dq, scale)
            weights = run.fragments(of_keys)
            run.key_gradients(of_keys, scale, dout, q, k, v, statistics, weights, dscores)
            run.values(of_keys, weights, dout, dv, 1.0)
            run.values(of_keys, dscores, q, dk, scale)
            return
        rows, drows = run.rows(), run.rows()
        run.score_gradients(scale, dout, q, k, v, bias, out, lse, dlse, weights=rows, dscores=drows)
        run.inverse(rows, dout, dv, 1.0)
        run.outputs(drows, k, dq, scale)
        run.inverse(drows, q, dk, scale)
        if dbias is not None:
            run.bias_gradient(drows, dbias)

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
        _products(problem, execution).scores(q, k, scores, scale, empty=-math.inf, bias=bias)

    def av(
        self,
        problem: Problem,
        execution: Execution,
        weights: DeviceArray,
        v: DeviceArray,
        out: DeviceArray,
    ) -> None:
        _products(problem, execution).outputs(weights, v, out, 1.0)

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
        run = _products(problem, execution)
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
        run = _products(problem, execution)
        run.scores(dout, v, dweights, 1.0, empty=0.0)
        run.inverse(weights, dout, dv, 1.0)


def _products(problem: Problem, execution: Execution) -> GemmProducts:
    from ..kernels.gemm.products import GemmProducts

    return GemmProducts(problem, execution)


def _keeps_fragments(problem: Problem) -> bool:
    """Whether backward works with fragments: the gradient of a bias wants rows of slots."""
    return not problem.has_bias and problem.dtype != "float64"


def _workspace_bytes(problem: Problem, operation: Operation, plans: list[GemmPlan]) -> int:
    from ..kernels.gemm.shapes import row_slots

    rows = problem.batch * problem.heads * problem.tokens
    number = 8 if problem.dtype == "float64" else 4
    if operation == "forward":
        return plans[0].fragment_bytes(problem) + plans[0].maxima(problem) * number
    if operation != "backward":
        return 0
    if not _keeps_fragments(problem):
        return 2 * rows * row_slots(problem.window, problem.item_bytes) * problem.item_bytes
    of_queries, of_keys = (plan.fragment_bytes(problem) for plan in plans)
    return max(of_queries, of_keys) + of_keys + 2 * rows * number


def _plans(
    problem: Problem, operation: Operation, device: DeviceSpec
) -> list[tuple[GemmPlan, int]]:
    """The plan of each product of an operation, with its channels."""
    from ..kernels.gemm.heuristics import gemm_plan

    found = []
    products = _PRODUCTS[operation]
    if operation == "backward" and not _keeps_fragments(problem):
        products = _COMPACT_BACKWARD
    for kind, of_values in products:
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
