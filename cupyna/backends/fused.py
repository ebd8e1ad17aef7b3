"""Host side of the fused CUDA method: one kernel, no weights in memory.

The portable family runs on tensor cores of every GPU since Ampere (mma.sync, cp.async). It computes
forward in float16 and bfloat16.
"""

from __future__ import annotations

import math

from ..arrays import DeviceArray
from ..execution import Choice, Execution
from ..problem import DeviceSpec, Method, Operation, Problem
from ..tiles import TilePlan

__all__ = ["CudaFused"]

_DTYPES = ("float16", "bfloat16")
_MOST_CHANNELS = 256
_MOST_BATCHES = 65535


class CudaFused:
    """Tiles of queries through the key boxes of their windows, with an online softmax."""

    name = "cuda-fused"
    method: Method = "fused"
    is_recordable = True

    def refusals(
        self, problem: Problem, operation: Operation, device: DeviceSpec
    ) -> tuple[str, ...]:
        from ..kernels.variant import SERVED, architectures_on

        reasons = []
        if operation == "backward":
            reasons.append("has no backward kernels in this version")
        elif operation != "forward":
            reasons.append("stores no weights: 'naive' does")
        if not architectures_on(device.compute_capability):
            major, minor = device.compute_capability
            reasons.append(f"needs compute capability {SERVED}, {device.name} has {major}.{minor}")
        if not problem.has_vector_rows:
            reasons.append("needs rows of channels that are contiguous and aligned to 16 bytes")
        if problem.dtype not in _DTYPES:
            reasons.append(f"computes in {' and '.join(_DTYPES)}, not in {problem.dtype}")
        for name, channels in (("head_dim", problem.head_dim), ("value_dim", problem.value_dim)):
            if channels % 8 or channels > _MOST_CHANNELS:
                reasons.append(
                    f"needs a {name} that is a multiple of 8 up to {_MOST_CHANNELS}, got {channels}"
                )
        if problem.batch > _MOST_BATCHES or problem.heads > _MOST_BATCHES:
            reasons.append(
                f"launches at most {_MOST_BATCHES} batch entries and heads, "
                f"got {problem.batch} and {problem.heads}"
            )
        return tuple(reasons)

    def choice(self, problem: Problem, operation: Operation, device: DeviceSpec) -> Choice:
        from ..kernels.heuristics import fused_forward_choice

        chosen = fused_forward_choice(problem, device)
        plan = TilePlan.of(problem, chosen.q_tile, chosen.kv_tile)
        planes = problem.batch * problem.heads
        return Choice(
            kernel=chosen.shape.variant(problem.dtype).symbol,
            q_tile=chosen.q_tile,
            kv_tile=chosen.kv_tile,
            useful_products=plan.counts.useful_products * planes,
            computed_products=plan.counts.computed_products * planes,
            time_us=chosen.time_us,
            notes=(f"{plan.counts.dense_share:.0%} without a mask",),
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
        from ..kernels.attention_params import axis_tiles, pack_attention
        from ..kernels.heuristics import fused_forward_choice
        from ..kernels.launch import launch
        from ..kernels.loader import load

        chosen = fused_forward_choice(problem, execution.device)
        variant = chosen.shape.variant(problem.dtype)
        params = pack_attention(
            problem, scale, chosen.q_tile, chosen.kv_tile, q, k, v, bias, out, lse
        )
        tiles = math.prod(
            axis_tiles(length, dilation, extent)
            for length, dilation, extent in zip(
                problem.spatial, problem.dilation, chosen.q_tile, strict=True
            )
        )
        launch(
            load(variant, execution.device.index),
            (tiles, problem.heads, problem.batch),
            (variant.threads,),
            variant.smem_bytes,
            execution.stream,
            params,
        )

    def backward(self, *arrays: object) -> None:
        raise AssertionError("refused: no backward kernels")
