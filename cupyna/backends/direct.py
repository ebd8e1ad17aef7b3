"""Host side of the fused CUDA method for few keys: on CUDA cores, without tiles."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..arrays import DeviceArray
from ..execution import Choice, Execution
from ..operands import BackwardArrays, ForwardArrays
from ..problem import DeviceSpec, Method, Operation, Problem
from .portable import empty_statistics, launch_bias, limits, told

if TYPE_CHECKING:
    from ..kernels.direct.costs import DirectChoice

__all__ = ["CudaDirect"]

_DTYPES = ("float16", "bfloat16", "float32")
_MOST_CHANNELS = 128


class CudaDirect:
    """A few lanes take neighboring queries through their keys, one after the other."""

    name = "cuda-direct"
    method: Method = "fused"
    is_lean = True
    is_recordable = True

    def refusals(
        self, problem: Problem, operation: Operation, device: DeviceSpec
    ) -> tuple[str, ...]:
        from ..kernels.direct.costs import direct_passes
        from ..kernels.fused.bias import bias_gradient_choice

        reasons = limits(problem, operation, device, _DTYPES, _MOST_CHANNELS)
        if not problem.has_short_steps:
            reasons += ("needs neighbors of a dilation group less than 2 GiB apart",)
        if reasons:
            return reasons
        if direct_passes(problem, operation, device) is None:
            return ("needs more blocks than a launch has",)
        needs_bias = operation == "backward" and problem.has_bias
        if needs_bias and bias_gradient_choice(problem, device) is None:
            return (
                f"the gradient of the bias needs more shared memory than the {device.smem_bytes} "
                "bytes of a block",
            )
        return ()

    def choice(self, problem: Problem, operation: Operation, device: DeviceSpec) -> Choice:
        passes = _passes(problem, operation, device)
        time_us = sum(chosen.time_us for chosen in passes)
        return told(problem, operation, device, passes, time_us)

    def forward(
        self,
        problem: Problem,
        scale: float,
        execution: Execution,
        arrays: ForwardArrays[DeviceArray],
    ) -> None:
        from ..kernels.direct.launches import launch_direct
        from ..kernels.direct.params import pack_direct

        (chosen,) = _passes(problem, "forward", execution.device)
        params = pack_direct(problem, scale, chosen, arrays)
        launch_direct(problem, chosen, execution.device, execution.stream, params)

    def backward(
        self,
        problem: Problem,
        scale: float,
        execution: Execution,
        arrays: BackwardArrays[DeviceArray],
    ) -> None:
        from ..kernels.direct.launches import launch_direct
        from ..kernels.direct.params import pack_direct_gradient
        from ..kernels.fused.params import BackwardRoom

        room = BackwardRoom(empty_statistics(problem, execution))
        for chosen in _passes(problem, "backward", execution.device):
            params = pack_direct_gradient(problem, scale, chosen, arrays, room)
            launch_direct(problem, chosen, execution.device, execution.stream, params)
        if arrays.dbias is not None:
            launch_bias(problem, scale, execution, arrays, room)


def _passes(problem: Problem, operation: Operation, device: DeviceSpec) -> tuple[DirectChoice, ...]:
    from ..kernels.direct.costs import direct_passes

    passes = direct_passes(problem, operation, device)
    assert passes is not None, "refused"
    return passes
