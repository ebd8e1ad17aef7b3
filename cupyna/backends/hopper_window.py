"""Host side of the small-window forward on Hopper: keys through a ring of slices by TMA."""

from __future__ import annotations

from ..arrays import DeviceArray
from ..execution import Choice, Execution
from ..operands import ForwardArrays
from ..problem import DeviceSpec, Operation, Problem
from .hopper import CudaHopper, box_limits

__all__ = ["CudaHopperWindow"]


class CudaHopperWindow(CudaHopper):
    """The fused forward for small windows on compute capability 9.0; others do all else."""

    name = "cuda-hopper-window"

    def refusals(
        self, problem: Problem, operation: Operation, device: DeviceSpec
    ) -> tuple[str, ...]:
        from ..kernels.window.ring_costs import window_ring_choice

        if operation != "forward":
            return ("has a forward only",)
        reasons = box_limits(problem, device)
        if not reasons and window_ring_choice(problem, device) is None:
            return (
                "finds no tiles: needs two or three axes, windows of at most 16 keys along the "
                "last one, channels that are multiples of 8 up to 64, and a box that fits",
            )
        return reasons

    def choice(self, problem: Problem, operation: Operation, device: DeviceSpec) -> Choice:
        from ..kernels.window.ring_costs import window_ring_choice

        chosen = window_ring_choice(problem, device)
        assert chosen is not None, "refused"
        counts = chosen.products(problem).counts
        planes = problem.batch * problem.heads
        return Choice(
            kernel=chosen.shape.variant(problem.dtype).symbol,
            q_tile=chosen.warp_tile,
            kv_tile=chosen.slot_box(problem),
            useful_products=counts.useful_products * planes,
            computed_products=counts.computed_products * planes,
            time_us=chosen.time_us,
        )

    def forward(
        self,
        problem: Problem,
        scale: float,
        execution: Execution,
        arrays: ForwardArrays[DeviceArray],
    ) -> None:
        from ..kernels.window.launches import launch_window_ring
        from ..kernels.window.ring_costs import window_ring_choice

        chosen = window_ring_choice(problem, execution.device)
        assert chosen is not None, "refused"
        launch_window_ring(problem, scale, chosen, execution.device, execution.stream, arrays)
