"""Problem + device -> shape and tiles of the fused forward on Hopper, by a cost model.

Pure functions, like those of the portable family.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache

from cupyna.problem import DeviceSpec, Problem

from .choice import ForwardChoice, HopperChoice
from .costs import set_up_us, time_us, waves, with_bytes_us
from .schedule import schedule
from .shapes import HOPPER_SHAPES
from .tilings import column_tiles, consumer_tiles

__all__ = ["hopper_choice", "hopper_choices"]

# Choices whose balance among multiprocessors is worked out.
_RANKED = 6


@lru_cache(maxsize=1024)
def hopper_choice(problem: Problem, device: DeviceSpec) -> ForwardChoice:
    """The cheapest shape and tiles.

    Raises
    ------
    ValueError
        If no compiled shape has enough channels.
    """
    choices = hopper_choices(problem, device)
    best = heapq.nsmallest(_RANKED, choices, key=lambda choice: choice.time_us)
    balanced = (_balanced(problem, device, choice) for choice in best)
    return min(balanced, key=lambda choice: choice.time_us)


def _balanced(problem: Problem, device: DeviceSpec, choice: ForwardChoice) -> ForwardChoice:
    """The choice with the time of its busiest block, whose tiles may be longer than others."""
    grid = schedule(problem, choice, device)
    items = problem.batch * problem.heads * choice.plan(problem).counts.tiles
    busy_us = (choice.time_us - set_up_us()) / waves(items, device) * grid.imbalance
    return replace(choice, time_us=with_bytes_us(problem, device, busy_us))


def hopper_choices(problem: Problem, device: DeviceSpec) -> Iterator[ForwardChoice]:
    """Every shape with every tile that the kernels can run."""
    channels = max(problem.head_dim, problem.value_dim)
    fitting = [shape for shape in HOPPER_SHAPES if shape.head_dim >= channels]
    if not fitting:
        raise ValueError(f"no fused kernel has {channels} channels")
    least = min(shape.head_dim for shape in fitting)
    for shape in fitting:
        if shape.head_dim != least:
            continue
        for consumer_tile, split_axis in consumer_tiles(problem, shape.consumers):
            unpriced = HopperChoice(shape, consumer_tile, (), split_axis, 0.0)
            for key_tile in column_tiles(problem, shape.keys, unpriced.row_tile, "query"):
                expected_us = time_us(
                    problem, device, shape, unpriced.row_tile, consumer_tile, key_tile
                )
                yield HopperChoice(shape, consumer_tile, key_tile, split_axis, expected_us)
