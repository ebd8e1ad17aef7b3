"""Host side of the fused CUDA method for small windows: tiles of 16 queries, a box for each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..arrays import DeviceArray
from ..execution import Choice, Execution
from ..operands import BackwardArrays, ForwardArrays
from ..problem import DeviceSpec, Method, Operation, Problem
from .portable import empty_statistics, limits, told
from .rows import launch_rows

if TYPE_CHECKING:
    from ..kernels.window.costs import WindowChoice

__all__ = ["CudaWindow"]

_DTYPES = ("float16", "bfloat16")
_MOST_CHANNELS = 128


class CudaWindow:
    """Warps take 16 queries each through a key box that their block has in shared memory."""

    name = "cuda-window"
    method: Method = "fused"
    is_lean = True
    is_recordable = True

    def refusals(
        self, problem: Problem, operation: Operation, device: DeviceSpec
    ) -> tuple[str, ...]:
        reasons = limits(problem, operation, device, _DTYPES, _MOST_CHANNELS)
        if problem.has_bias:
            reasons += ("adds no bias",)
        if operation == "backward" and problem.heads != problem.kv_heads:
            reasons += ("has no gradients of keys that query heads share",)
        if not reasons and not _passes(problem, operation, device):
            reasons = (
                "finds no tiles: needs windows of at most 448 keys, and shared memory for the "
                "box of a block",
            )
        return reasons

    def choice(self, problem: Problem, operation: Operation, device: DeviceSpec) -> Choice:
        from ..kernels.window.costs import window_backward_us

        passes = _passes(problem, operation, device)
        if operation == "forward":
            time_us = passes[0].time_us
        else:
            time_us = window_backward_us(problem, device, passes)
        return told(problem, operation, device, passes, time_us)

    def forward(
        self,
        problem: Problem,
        scale: float,
        execution: Execution,
        arrays: ForwardArrays[DeviceArray],
    ) -> None:
        from ..kernels.window.launches import launch_window_forward

        (chosen,) = _passes(problem, "forward", execution.device)
        launch_window_forward(problem, scale, chosen, execution.device, execution.stream, arrays)

    def backward(
        self,
        problem: Problem,
        scale: float,
        execution: Execution,
        arrays: BackwardArrays[DeviceArray],
    ) -> None:
        from ..kernels.fused.params import BackwardRoom, pack_gradient
        from ..kernels.window.launches import launch_window_gradient

        room = BackwardRoom(empty_statistics(problem, execution))
        ones = (1,) * problem.rank
        of_rows = pack_gradient(problem, scale, ones, ones, arrays, room)
        launch_rows("fused_statistics", problem, execution, of_rows)
        for chosen in _passes(problem, "backward", execution.device):
            launch_window_gradient(
                problem, scale, chosen, execution.device, execution.stream, arrays, room
            )


def _passes(problem: Problem, operation: Operation, device: DeviceSpec) -> tuple[WindowChoice, ...]:
    """The kernels of an operation; none where no shape serves the problem."""
    from ..kernels.window.costs import window_forward_choice, window_gradient_choices

    if operation == "backward":
        return window_gradient_choices(problem, device) or ()
    chosen = window_forward_choice(problem, device)
    return () if chosen is None else (chosen,)
