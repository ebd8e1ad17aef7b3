"""Host side of the fused CUDA method: no weights in memory.

The portable family runs on tensor cores of every GPU since Ampere (mma.sync, cp.async): in float16,
bfloat16, and float32 as products of TF32 numbers. Forward is one kernel; backward is one for the
gradients of the queries and one for those of keys and values, or one for both that adds the
gradients of the queries to sums in memory. The gradient of a bias takes two more kernels.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ..arrays import DeviceArray
from ..execution import Choice, Execution
from ..problem import DeviceSpec, Method, Operation, Problem
from .rows import launch_rows

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..kernels.direct.costs import DirectChoice
    from ..kernels.fused.heuristics import FusedChoice
    from ..kernels.fused.tuning import Passes
    from ..kernels.window.costs import WindowChoice

__all__ = ["CudaFused"]

_DTYPES = ("float16", "bfloat16", "float32")
# What registers and shared memory hold.
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
        from ..kernels.fused.heuristics import is_served
        from ..kernels.variant import SERVED, architectures_on

        if operation not in ("forward", "backward"):
            return ("stores no weights: 'naive' does",)
        reasons = []
        if not architectures_on(device.compute_capability):
            major, minor = device.compute_capability
            reasons.append(f"needs compute capability {SERVED}, {device.name} has {major}.{minor}")
        if not problem.has_vector_rows:
            reasons.append("needs rows of channels that are contiguous and aligned to 16 bytes")
        if problem.dtype not in _DTYPES:
            reasons.append(f"computes in {', '.join(_DTYPES)}, not in {problem.dtype}")
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
        if not reasons and not is_served(problem, device, operation):
            reasons.append(
                f"needs more shared memory than the {device.smem_bytes} bytes of a block"
            )
        return tuple(reasons)

    def choice(self, problem: Problem, operation: Operation, device: DeviceSpec) -> Choice:
        from ..kernels.fused.bias import bias_gradient_choice
        from ..kernels.fused.tuning import model_passes

        passes: tuple[FusedChoice | WindowChoice | DirectChoice, ...] | None
        passes = _direct_passes(problem, operation, device)
        if passes is None:
            passes = _window_passes(problem, operation, device)
        if passes is None:
            passes = model_passes(problem, operation, device)
        workspace = _workspace_bytes(problem, operation, passes)
        of_bias = bias_gradient_choice(problem, device) if _has_dbias(problem, operation) else None
        notes: tuple[str, ...] = ()
        if of_bias is not None:
            workspace += 4 * math.prod(of_bias.partial_sums(problem))
            tiling = of_bias.tiling
            notes = (f"gradient of the bias {tiling.time_us:.0f} us, {of_bias.parts} parts",)
            passes = (*passes, tiling)
        counts = [chosen.plan(problem).counts for chosen in passes]
        planes = problem.batch * problem.heads
        computed = sum(count.computed_products for count in counts)
        dense = sum(count.dense_products for count in counts) / computed
        return Choice(
            kernel=" + ".join(chosen.shape.variant(problem).symbol for chosen in passes),
            q_tile=passes[0].row_tile,
            kv_tile=passes[0].column_tile,
            useful_products=sum(count.useful_products for count in counts) * planes,
            computed_products=computed * planes,
            workspace_bytes=workspace,
            time_us=sum(chosen.time_us for chosen in passes),
            notes=(f"{dense:.0%} without a mask", *notes),
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
        from ..kernels.direct.launches import launch_direct
        from ..kernels.direct.params import has_short_steps, pack_direct
        from ..kernels.window.launches import launch_window_forward

        device = execution.device
        direct = _direct_passes(problem, "forward", device)
        if direct is not None and has_short_steps(problem, k, v):
            params = pack_direct(problem, scale, direct[0], q, k, v, bias, out, lse)
            launch_direct(problem, direct[0], device, execution.stream, params)
            return
        window = _window_passes(problem, "forward", device)
        if window is None:
            self.forward_beside(problem, scale, execution, q, k, v, bias, None, None, out, lse)
        else:
            arrays = q, k, v, out, lse
            launch_window_forward(problem, scale, window[0], device, execution.stream, *arrays)

    def takes_beside(self, problem: Problem, device: DeviceSpec) -> bool:
        """Whether a shape that :meth:`forward_beside` can run holds the problem's channels."""
        from ..kernels.fused.heuristics import fused_forward_choice

        try:
            fused_forward_choice(problem, device, True)
        except ValueError:
            return False
        return True

    def forward_beside(
        self,
        problem: Problem,
        scale: float,
        execution: Execution,
        q: DeviceArray,
        k: DeviceArray,
        v: DeviceArray,
        bias: DeviceArray | None,
        more_k: DeviceArray | None,
        more_v: DeviceArray | None,
        out: DeviceArray,
        lse: DeviceArray | None,
    ) -> None:
        """Forward with keys and values that every query sees beside its window.

        They are ``[batch, tokens, kv_heads, channels]``, with rows as the problem's have them.
        """
        from ..kernels.fused.heuristics import fused_forward_choice
        from ..kernels.fused.launches import launch_fused
        from ..kernels.fused.params import pack_attention

        more = None if more_k is None or more_v is None else (more_k, more_v)

        def run(passes: Passes) -> None:
            for chosen in passes:
                tiles = chosen.row_tile, chosen.column_tile
                params = pack_attention(problem, scale, *tiles, q, k, v, bias, out, lse, more)
                launch_fused(problem, chosen, execution.device, execution.stream, params)

        if more is None:
            run(_passes(problem, "forward", execution, run))
        else:
            run((fused_forward_choice(problem, execution.device, True),))

    def slices_beside(self, problem: Problem, tokens: int, device: DeviceSpec) -> int | None:
        """Slices of queries whose sums :meth:`backward_beside` gives; None where no kernel can."""
        from ..kernels.fused.beside import beside_choice

        choice = beside_choice(problem, tokens, device)
        return None if choice is None else choice.count

    def backward_beside(
        self,
        problem: Problem,
        scale: float,
        execution: Execution,
        dout: DeviceArray,
        q: DeviceArray,
        more_k: DeviceArray,
        more_v: DeviceArray,
        out: DeviceArray,
        lse: DeviceArray,
        dlse: DeviceArray | None,
        window_dq: DeviceArray,
        dq: DeviceArray,
        key_sums: DeviceArray,
        value_sums: DeviceArray,
    ) -> None:
        """What keys and values beside the windows add to backward.

        `out` and `lse` are those of all keys. The gradients of queries are written whole, those of
        the keys and values as float32 sums, ``[slices, batch, tokens, kv_heads, channels]``.
        """
        from ..kernels.fused.beside import beside_choice
        from ..kernels.fused.launches import launch_fused
        from ..kernels.fused.params import Gradients, pack_beside_gradient

        tokens = more_k.shape[1]
        choice = beside_choice(problem, tokens, execution.device)
        assert choice is not None, "refused"
        queries = problem.batch * problem.heads * math.prod(problem.spatial)
        statistics = execution.empty((queries, 2), "float32").pointer
        gradients = Gradients(dout, dlse, dq, more_k, more_v, statistics)
        for chosen, key_tiles in ((choice.queries, 0), (choice.keys, choice.key_tiles)):
            params = pack_beside_gradient(
                choice.problem, scale, chosen.row_tile, chosen.column_tile, choice.slices,
                key_tiles, (q, more_k, more_v, out), lse, gradients, window_dq,
                (key_sums, value_sums),
            )  # fmt: skip
            blocks = choice.count * key_tiles if key_tiles else None
            launch_fused(choice.problem, chosen, execution.device, execution.stream, params, blocks)

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
        from ..kernels.direct.launches import launch_direct
        from ..kernels.direct.params import has_short_steps, pack_direct_gradient
        from ..kernels.fused.bias import bias_gradient_choice
        from ..kernels.fused.launches import launch_bias_gradient, launch_fused
        from ..kernels.fused.params import (
            Gradients,
            SumOrder,
            pack_bias_gradient,
            pack_gradient,
        )
        from ..kernels.window.launches import launch_window_gradient

        queries = problem.batch * problem.heads * math.prod(problem.spatial)
        statistics = execution.empty((queries, 2), "float32").pointer
        sums = 0
        direct = _direct_passes(problem, "backward", execution.device)
        if direct is not None and not has_short_steps(problem, q, k, v, dout):
            direct = None
        window = _window_passes(problem, "backward", execution.device)
        if direct is None and window is not None:
            gradients = Gradients(dout, dlse, dq, dk, dv, statistics)
            of_rows = pack_gradient(
                problem, scale, window[0].row_tile, window[0].column_tile,
                q, k, v, None, out, lse, gradients,
            )  # fmt: skip
            launch_rows("fused_statistics", problem, execution, of_rows)
            for chosen in window:
                launch_window_gradient(
                    problem, scale, chosen, execution.device, execution.stream,
                    q, k, v, out, lse, gradients,
                )  # fmt: skip
            return

        def run(passes: Passes) -> None:
            nonlocal sums
            is_lone = len(passes) == 1
            if is_lone and not sums:
                length = SumOrder.BY_THREAD.row_length(problem.head_dim)
                sums = execution.empty((queries, length), "float32").pointer
            gradients = Gradients(dout, dlse, dq, dk, dv, statistics, sums, SumOrder.BY_THREAD)
            params = [
                pack_gradient(
                    problem, scale, chosen.row_tile, chosen.column_tile,
                    q, k, v, bias, out, lse, gradients,
                )
                for chosen in passes
            ]  # fmt: skip
            if is_lone:
                launch_rows("fused_statistics", problem, execution, params[0])
            for chosen, of_pass in zip(passes, params, strict=True):
                launch_fused(problem, chosen, execution.device, execution.stream, of_pass)
            if is_lone:
                launch_rows("fused_query_gradients", problem, execution, params[0])

        if direct is None:
            run(_passes(problem, "backward", execution, run))
        else:
            gradients = Gradients(dout, dlse, dq, dk, dv, statistics)
            for choice in direct:
                of_choice = pack_direct_gradient(
                    problem, scale, choice, q, k, v, bias, out, lse, gradients
                )
                launch_direct(problem, choice, execution.device, execution.stream, of_choice)
        if bias is None or dbias is None:
            return
        of_bias = bias_gradient_choice(problem, execution.device)
        assert of_bias is not None, "refused"
        partial_sums = execution.empty(of_bias.partial_sums(problem), "float32").pointer
        gradients = Gradients(dout, dlse, dq, dk, dv, statistics)
        packed = pack_bias_gradient(
            problem, scale, of_bias, q, k, v, bias, out, lse, gradients, dbias, partial_sums
        )
        launch_bias_gradient(problem, of_bias, execution.device, execution.stream, packed)

    def is_tuned(self, problem: Problem, operation: Operation, device: DeviceSpec) -> bool:
        """Whether nothing is left to measure for a call with ``tune=True``."""
        from ..kernels.fused.tuning import recalled_passes

        # The kernels for few keys and for small windows keep the tiles of their models.
        if _direct_passes(problem, operation, device) is not None:
            return True
        if _window_passes(problem, operation, device) is not None:
            return True
        return recalled_passes(problem, operation, device) is not None


def _direct_passes(
    problem: Problem, operation: Operation, device: DeviceSpec
) -> tuple[DirectChoice, ...] | None:
    """The kernels on CUDA cores, where the models hold them faster than those on tensor cores."""
    from ..kernels.portable import faster_direct_passes

    return faster_direct_passes(problem, operation, device)


def _window_passes(
    problem: Problem, operation: Operation, device: DeviceSpec
) -> tuple[WindowChoice, ...] | None:
    """The kernels for small windows, where the models hold them faster than the general ones."""
    from ..kernels.portable import faster_window_passes

    return faster_window_passes(problem, operation, device)


def _passes(
    problem: Problem, operation: Operation, execution: Execution, run: Callable[[Passes], None]
) -> Passes:
    """The kernels of an operation, by the cost model or as measured on the call's own arrays."""
    from ..kernels.fused.tuning import model_passes, tuned_passes
    from ..kernels.launch import kept_launches

    if not execution.tune:
        return model_passes(problem, operation, execution.device)

    def launches(passes: Passes) -> Callable[[], None]:
        return kept_launches(lambda: run(passes), execution.stream)

    return tuned_passes(problem, operation, execution.device, execution.stream, launches)


def _workspace_bytes(problem: Problem, operation: Operation, passes: tuple[object, ...]) -> int:
    """Two numbers for each query in backward, and its sums where one pass gives all gradients."""
    if operation == "forward":
        return 0
    from ..kernels.fused.params import SumOrder

    sums = SumOrder.BY_THREAD.row_length(problem.head_dim) if len(passes) == 1 else 0
    numbers = 2 + sums
    return 4 * numbers * problem.batch * problem.heads * math.prod(problem.spatial)


def _has_dbias(problem: Problem, operation: Operation) -> bool:
    return operation == "backward" and problem.has_bias
