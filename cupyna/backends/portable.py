"""What the fused backends share: limits, how they are told, and a bias's gradient."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ..arrays import DeviceArray
from ..execution import Choice, Execution
from ..operands import BackwardArrays
from ..problem import DeviceSpec, Operation, Problem

if TYPE_CHECKING:
    from ..kernels.direct.costs import DirectChoice
    from ..kernels.fused.heuristics import FusedChoice
    from ..kernels.fused.params import BackwardRoom
    from ..kernels.window.costs import WindowChoice

__all__ = ["channel_limits", "empty_statistics", "launch_bias", "limits", "told"]

_MOST_BATCHES = 65535


def limits(
    problem: Problem,
    operation: Operation,
    device: DeviceSpec,
    dtypes: tuple[str, ...],
    most_channels: int,
) -> tuple[str, ...]:
    """Why no kernel of a family can run an operation, whatever its shapes."""
    from ..kernels.variant import SERVED, architectures_on

    if operation not in ("forward", "backward"):
        return ("stores no weights: 'naive' does",)
    reasons = []
    if not architectures_on(device.compute_capability):
        major, minor = device.compute_capability
        reasons.append(f"needs compute capability {SERVED}, {device.name} has {major}.{minor}")
    if not problem.has_vector_rows:
        reasons.append("needs rows of channels that are contiguous and aligned to 16 bytes")
    if problem.dtype not in dtypes:
        reasons.append(f"computes in {', '.join(dtypes)}, not in {problem.dtype}")
    reasons += channel_limits(problem, most_channels)
    if problem.batch > _MOST_BATCHES or problem.heads > _MOST_BATCHES:
        reasons.append(
            f"launches at most {_MOST_BATCHES} batch entries and heads, "
            f"got {problem.batch} and {problem.heads}"
        )
    return tuple(reasons)


def channel_limits(problem: Problem, most: int) -> list[str]:
    """Why kernels of so many channels cannot hold a problem's."""
    return [
        f"needs a {name} that is a multiple of 8 up to {most}, got {channels}"
        for name, channels in (("head_dim", problem.head_dim), ("value_dim", problem.value_dim))
        if channels % 8 or channels > most
    ]


def told(
    problem: Problem,
    operation: Operation,
    device: DeviceSpec,
    passes: tuple[FusedChoice | WindowChoice | DirectChoice, ...],
    time_us: float,
    sums: int = 0,
) -> Choice:
    """How an operation is run by some passes, and by those for the gradient of a bias.

    Parameters
    ----------
    problem : Problem
    operation : {"forward", "backward"}
    device : DeviceSpec
    passes : tuple
        Shapes with the tiles they run.
    time_us : float
        What they are expected to take.
    sums : int, optional
        Numbers of workspace for each query, beside the two of backward.
    """
    from ..kernels.fused.bias import bias_gradient_choice

    notes: tuple[str, ...] = ()
    workspace = 0
    if operation == "backward":
        workspace = 4 * (2 + sums) * problem.batch * problem.heads * math.prod(problem.spatial)
        of_bias = bias_gradient_choice(problem, device) if problem.has_bias else None
        if of_bias is not None:
            workspace += 4 * math.prod(of_bias.partial_sums(problem))
            tiling = of_bias.tiling
            time_us += tiling.time_us
            notes = (f"gradient of the bias {tiling.time_us:.0f} us, {of_bias.parts} parts",)
            passes = (*passes, tiling)
    counts = [chosen.products(problem).counts for chosen in passes]
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
        time_us=time_us,
        notes=(f"{dense:.0%} without a mask", *notes),
    )


def empty_statistics(problem: Problem, execution: Execution) -> int:
    """Room for two numbers of each query that the passes of backward share."""
    queries = problem.batch * problem.heads * math.prod(problem.spatial)
    pointer: int = execution.empty((queries, 2), "float32").pointer
    return pointer


def launch_bias(
    problem: Problem,
    scale: float,
    execution: Execution,
    arrays: BackwardArrays[DeviceArray],
    room: BackwardRoom,
) -> None:
    """Queue the gradient of a bias; statistics are there before it."""
    from ..kernels.fused.bias import bias_gradient_choice
    from ..kernels.fused.launches import launch_bias_gradient
    from ..kernels.fused.params import pack_bias_gradient

    of_bias = bias_gradient_choice(problem, execution.device)
    assert of_bias is not None, "refused"
    partial_sums = execution.empty(of_bias.partial_sums(problem), "float32").pointer
    packed = pack_bias_gradient(problem, scale, of_bias, arrays, room, partial_sums)
    launch_bias_gradient(problem, of_bias, execution.device, execution.stream, packed)
