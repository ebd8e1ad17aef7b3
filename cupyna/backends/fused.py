"""Host side of the fused CUDA method: no weights in memory.

The general kernels run on tensor cores of every GPU since Ampere (mma.sync, cp.async): in float16,
bfloat16, and float32 as products of TF32 numbers. Forward is one kernel; backward is one for the
gradients of the queries and one for those of keys and values, or one for both that adds the
gradients of the queries to sums in memory. The gradient of a bias takes two more kernels.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ..arrays import DeviceArray
from ..execution import Choice, Execution
from ..operands import BackwardArrays, BackwardBesideArrays, ForwardArrays, ForwardBesideArrays
from ..problem import DeviceSpec, Method, Operation, Problem
from .portable import empty_statistics, launch_bias, limits, told
from .rows import launch_rows

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..kernels.fused.heuristics import FusedChoice
    from ..kernels.fused.tuning import Passes

__all__ = ["CudaFused"]

_DTYPES = ("float16", "bfloat16", "float32")
# What registers and shared memory hold.
_MOST_CHANNELS = 256


class CudaFused:
    """Tiles of queries through the key boxes of their windows, with an online softmax."""

    name = "cuda-fused"
    method: Method = "fused"
    is_lean = True
    is_recordable = True

    def refusals(
        self, problem: Problem, operation: Operation, device: DeviceSpec
    ) -> tuple[str, ...]:
        from ..kernels.fused.heuristics import is_served

        reasons = limits(problem, operation, device, _DTYPES, _MOST_CHANNELS)
        if not reasons and not is_served(problem, device, operation):
            return (f"needs more shared memory than the {device.smem_bytes} bytes of a block",)
        return reasons

    def choice(self, problem: Problem, operation: Operation, device: DeviceSpec) -> Choice:
        from ..kernels.fused.costs import expected_us
        from ..kernels.fused.tuning import model_passes

        passes = model_passes(problem, operation, device)
        time_us = expected_us(problem, operation, device, passes)
        is_lone = operation == "backward" and len(passes) == 1
        sums = _sums(problem) if is_lone else 0
        return told(problem, operation, device, passes, time_us, sums)

    def forward(
        self,
        problem: Problem,
        scale: float,
        execution: Execution,
        arrays: ForwardArrays[DeviceArray],
    ) -> None:
        def run(passes: Passes) -> None:
            for chosen in passes:
                _launch_forward(problem, scale, execution, chosen, arrays)

        run(_passes(problem, "forward", execution, run))

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
        arrays: ForwardBesideArrays[DeviceArray],
    ) -> None:
        from ..kernels.fused.heuristics import fused_forward_choice

        chosen = fused_forward_choice(problem, execution.device, True)
        _launch_forward(problem, scale, execution, chosen, arrays)

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
        arrays: BackwardBesideArrays[DeviceArray],
    ) -> None:
        from ..kernels.fused.beside import beside_choice
        from ..kernels.fused.launches import launch_fused
        from ..kernels.fused.params import BackwardRoom, pack_beside_gradient

        choice = beside_choice(problem, arrays.more_k.shape[1], execution.device)
        assert choice is not None, "refused"
        room = BackwardRoom(empty_statistics(problem, execution))
        for chosen, key_tiles in ((choice.queries, 0), (choice.keys, choice.key_tiles)):
            params = pack_beside_gradient(
                choice.problem, scale, chosen.row_tile, chosen.column_tile, choice.slices,
                key_tiles, arrays, room,
            )  # fmt: skip
            blocks = choice.count * key_tiles if key_tiles else None
            launch_fused(choice.problem, chosen, execution.device, execution.stream, params, blocks)

    def backward(
        self,
        problem: Problem,
        scale: float,
        execution: Execution,
        arrays: BackwardArrays[DeviceArray],
    ) -> None:
        from ..kernels.fused.launches import launch_fused
        from ..kernels.fused.params import BackwardRoom, SumOrder, pack_gradient

        queries = problem.batch * problem.heads * math.prod(problem.spatial)
        statistics = empty_statistics(problem, execution)
        sums = 0

        def run(passes: Passes) -> None:
            nonlocal sums
            is_lone = len(passes) == 1
            if is_lone and not sums:
                sums = execution.empty((queries, _sums(problem)), "float32").pointer
            room = BackwardRoom(statistics, sums, SumOrder.BY_THREAD)
            params = [
                pack_gradient(problem, scale, chosen.row_tile, chosen.column_tile, arrays, room)
                for chosen in passes
            ]
            if is_lone:
                launch_rows("fused_statistics", problem, execution, params[0])
            for chosen, of_pass in zip(passes, params, strict=True):
                launch_fused(problem, chosen, execution.device, execution.stream, of_pass)
            if is_lone:
                launch_rows("fused_query_gradients", problem, execution, params[0])

        run(_passes(problem, "backward", execution, run))
        if arrays.dbias is not None:
            launch_bias(problem, scale, execution, arrays, BackwardRoom(statistics))

    def is_tuned(self, problem: Problem, operation: Operation, device: DeviceSpec) -> bool:
        """Whether nothing is left to measure for a call with ``tune=True``."""
        from ..kernels.fused.tuning import recalled_passes

        return recalled_passes(problem, operation, device) is not None


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


def _launch_forward(
    problem: Problem,
    scale: float,
    execution: Execution,
    chosen: FusedChoice,
    arrays: ForwardArrays[DeviceArray],
) -> None:
    from ..kernels.fused.launches import launch_fused
    from ..kernels.fused.params import pack_attention

    params = pack_attention(problem, scale, chosen.row_tile, chosen.column_tile, arrays)
    launch_fused(problem, chosen, execution.device, execution.stream, params)


def _sums(problem: Problem) -> int:
    """Numbers of a query's sums, where one pass gives all gradients."""
    from ..kernels.fused.params import SumOrder

    return SumOrder.BY_THREAD.row_length(problem.head_dim)
