"""Host side of the fused backward on Hopper: one pass over keys, or two that add no sums."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..arrays import DeviceArray
from ..execution import Choice, Execution
from ..operands import BackwardArrays
from ..problem import DeviceSpec, Problem
from .portable import empty_statistics
from .rows import launch_rows

if TYPE_CHECKING:
    from ..kernels.hopper.choice import GradientChoice

__all__ = ["MOST_CHANNELS", "backward_choice", "launch_backward"]

MOST_CHANNELS = 128


def backward_choice(problem: Problem, device: DeviceSpec) -> Choice:
    """How backward would be run."""
    from ..kernels.hopper.gradient_heuristics import hopper_gradient_passes, passes_us

    passes = hopper_gradient_passes(problem, device)
    useful = sum(chosen.plan(problem).counts.useful_products for chosen in passes)
    computed = sum(chosen.computed_products(problem) for chosen in passes)
    planes = problem.batch * problem.heads
    numbers = 2 + (problem.head_dim if len(passes) == 1 else 0)
    return Choice(
        kernel=" + ".join(chosen.shape.variant(problem.dtype).symbol for chosen in passes),
        q_tile=passes[0].row_tile,
        kv_tile=passes[0].column_tile,
        useful_products=useful * planes,
        computed_products=computed * planes,
        workspace_bytes=4 * numbers * planes * math.prod(problem.spatial),
        time_us=passes_us(problem, device, passes),
    )


def launch_backward(
    problem: Problem,
    scale: float,
    execution: Execution,
    passes: tuple[GradientChoice, ...],
    arrays: BackwardArrays[DeviceArray],
) -> None:
    """Queue backward with given passes."""
    from ..kernels.fused.params import BackwardRoom, SumOrder, pack_gradient
    from ..kernels.hopper.gradient_params import pack_hopper_gradient
    from ..kernels.hopper.gradient_schedule import gradient_schedule

    room = BackwardRoom(empty_statistics(problem, execution))
    sums_queries = passes[-1].shape.sums_queries
    if sums_queries:
        queries = problem.batch * problem.heads * math.prod(problem.spatial)
        sums = execution.empty((queries, problem.head_dim), "float32").pointer
        room = replace(room, query_sums=sums, sum_order=SumOrder.TURNED)
    ones = (1,) * problem.rank
    of_rows = pack_gradient(problem, scale, ones, ones, arrays, room)
    launch_rows("fused_statistics", problem, execution, of_rows)
    for chosen in passes:
        grid = gradient_schedule(problem, chosen, execution.device)
        params = pack_hopper_gradient(
            problem, scale, chosen, arrays, room, grid.reversed_planes, grid.rotation
        )
        _launch(problem, chosen, grid.blocks, execution, params)
    if sums_queries:
        launch_rows("fused_query_gradients", problem, execution, of_rows)


def _launch(
    problem: Problem,
    chosen: GradientChoice,
    blocks: int,
    execution: Execution,
    params: np.ndarray[Any, Any],
) -> None:
    from ..kernels.launch import launch
    from ..kernels.loader import load

    variant = chosen.shape.variant(problem.dtype)
    launch(
        load(variant, execution.device.index),
        (blocks, 1, 1),
        (variant.threads,),
        variant.smem_bytes,
        execution.stream,
        params,
    )
