"""Which block takes which tiles of the fused backward on Hopper, and in what order."""

from __future__ import annotations

from functools import lru_cache

from cupyna.problem import DeviceSpec, Problem

from .choice import GradientChoice
from .gradient_heuristics import column_tile_us, row_tile_us
from .schedule import Schedule, balanced

__all__ = ["gradient_schedule"]


@lru_cache(maxsize=1024)
def gradient_schedule(problem: Problem, choice: GradientChoice, device: DeviceSpec) -> Schedule:
    """Persistent blocks, as forward has them, for one pass.

    Tiles differ by their steps: the column tiles that their rows meet, for keys under each of the
    heads that read them.
    """
    is_over_keys = choice.shape.side == "key"
    steps = choice.plan(problem).box_tiles_of_each.ravel()
    if is_over_keys:
        steps = steps * problem.head_group
    heads = problem.kv_heads if is_over_keys else problem.heads
    times_us = row_tile_us() + steps * column_tile_us(choice.shape)
    planes = problem.batch * heads
    return balanced(times_us, planes, device.processors, any(problem.is_causal))
