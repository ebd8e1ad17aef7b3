"""Host side of the fused method on Hopper: boxes of arrays by TMA, products by WGMMA."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..arrays import DeviceArray
from ..execution import Choice, Execution
from ..operands import BackwardArrays, ForwardArrays
from ..problem import DeviceSpec, Method, Operation, Problem
from .hopper_backward import MOST_CHANNELS, backward_choice, launch_backward
from .portable import channel_limits

if TYPE_CHECKING:
    from ..kernels.hopper.choice import ForwardChoice

__all__ = ["CudaHopper", "box_limits", "launch_forward"]

_CAPABILITY = (9, 0)
_DTYPES = ("float16", "bfloat16")

# Dilated volumes of more than 64 channels took 0.87 to 1.26 of what the model of forward says.
_WIDE_VOLUME = 1.2
_MOST_CHANNELS = 256


class CudaHopper:
    """The fused method for compute capability 9.0; the portable family does all else."""

    name = "cuda-hopper"
    method: Method = "fused"
    is_lean = True
    is_recordable = True

    def refusals(
        self, problem: Problem, operation: Operation, device: DeviceSpec
    ) -> tuple[str, ...]:
        from ..kernels.hopper.tensor_map import MOST_DILATION, BoxOrder, box_order
        from ..kernels.hopper.tilings import fits_boxes

        if operation not in ("forward", "backward"):
            return ("stores no weights: 'naive' does",)
        most = _MOST_CHANNELS if operation == "forward" else MOST_CHANNELS
        reasons = [*box_limits(problem, device), *channel_limits(problem, most)]
        if max(problem.dilation) <= MOST_DILATION and not fits_boxes(problem.dilation):
            reasons.append(
                f"finds no box of 64 queries that a dilation of {problem.dilation} leaves "
                "within 256 tokens along each axis"
            )
        # A box then has channels of the next head past those of its own, which no product takes.
        compiled = _compiled_channels(operation)
        fits = problem.head_dim == problem.value_dim and problem.head_dim in compiled
        if box_order(problem) == BoxOrder.HEADS_FOLDED and not fits:
            reasons.append(
                f"needs a head_dim and value_dim of both {_listed(compiled)} where there are "
                f"three axes and a batch, got {problem.head_dim} and {problem.value_dim}"
            )
        return tuple(reasons)

    def choice(self, problem: Problem, operation: Operation, device: DeviceSpec) -> Choice:
        if operation == "backward":
            return backward_choice(problem, device)
        chosen = _chosen(problem, device)
        is_wide_volume = problem.rank == 3 and problem.head_dim > 64 and max(problem.dilation) > 1
        planes = problem.batch * problem.heads
        return Choice(
            kernel=chosen.shape.variant(problem.dtype).symbol,
            q_tile=chosen.row_tile,
            kv_tile=chosen.column_tile,
            useful_products=chosen.plan(problem).counts.useful_products * planes,
            computed_products=chosen.computed_products(problem) * planes,
            time_us=chosen.time_us * (_WIDE_VOLUME if is_wide_volume else 1.0),
        )

    def forward(
        self,
        problem: Problem,
        scale: float,
        execution: Execution,
        arrays: ForwardArrays[DeviceArray],
    ) -> None:
        launch_forward(problem, scale, execution, _chosen(problem, execution.device), arrays)

    def backward(
        self,
        problem: Problem,
        scale: float,
        execution: Execution,
        arrays: BackwardArrays[DeviceArray],
    ) -> None:
        from ..kernels.hopper.gradient_heuristics import hopper_gradient_passes

        passes = hopper_gradient_passes(problem, execution.device)
        launch_backward(problem, scale, execution, passes, arrays)


def box_limits(problem: Problem, device: DeviceSpec) -> tuple[str, ...]:
    """Why no kernel that takes boxes of arrays by TMA can run a problem."""
    from ..kernels.hopper.tensor_map import MOST_DILATION

    reasons = []
    if device.compute_capability != _CAPABILITY:
        major, minor = device.compute_capability
        reasons.append(f"needs compute capability 9.0, {device.name} has {major}.{minor}")
    if problem.dtype not in _DTYPES:
        reasons.append(f"computes in {' and '.join(_DTYPES)}, not in {problem.dtype}")
    if problem.has_bias:
        reasons.append("adds no bias")
    if not problem.has_vector_rows:
        reasons.append("needs rows of channels that are contiguous and aligned to 16 bytes")
    if not problem.has_forward_strides:
        reasons.append("needs arrays that are not broadcast or reversed along any axis")
    if max(problem.dilation) > MOST_DILATION:
        reasons.append(f"needs a dilation of at most {MOST_DILATION}, got {max(problem.dilation)}")
    return tuple(reasons)


def launch_forward(
    problem: Problem,
    scale: float,
    execution: Execution,
    chosen: ForwardChoice,
    arrays: ForwardArrays[DeviceArray],
) -> None:
    """Queue forward with given tiles."""
    from ..kernels.hopper.params import pack_hopper
    from ..kernels.hopper.schedule import schedule
    from ..kernels.launch import launch
    from ..kernels.loader import load

    variant = chosen.shape.variant(problem.dtype)
    grid = schedule(problem, chosen, execution.device)
    params = pack_hopper(problem, scale, chosen, arrays, grid)
    launch(
        load(variant, execution.device.index),
        (grid.blocks, 1, 1),
        (variant.threads,),
        variant.smem_bytes,
        execution.stream,
        params,
    )


def _chosen(problem: Problem, device: DeviceSpec) -> ForwardChoice:
    from ..kernels.hopper.heuristics import hopper_choice

    return hopper_choice(problem, device)


def _compiled_channels(operation: Operation) -> tuple[int, ...]:
    """Channels that kernels multiply, in order."""
    from ..kernels.hopper.gradient_shapes import HOPPER_GRADIENT_SHAPES
    from ..kernels.hopper.shapes import HOPPER_SHAPES

    shapes = HOPPER_GRADIENT_SHAPES if operation == "backward" else HOPPER_SHAPES
    return tuple(sorted({shape.head_dim for shape in shapes}))


def _listed(numbers: tuple[int, ...]) -> str:
    *others, last = map(str, numbers)
    return f"{', '.join(others)} or {last}"
