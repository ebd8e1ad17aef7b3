"""Which block takes which tiles of the fused forward on Hopper, and in what order."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from cupyna.problem import DeviceSpec, Problem

from .heuristics import HopperChoice, key_tile_us, tile_us

__all__ = ["Schedule", "schedule"]

# What a tile takes longer in a block of its own.
_BLOCK_US = 6.0

# Tiles after which the busiest block is known well enough.
_MOST_TILES = 1 << 20


@dataclass(frozen=True, slots=True)
class Schedule:
    """The grid of a launch.

    Parameters
    ----------
    blocks : int
        Each takes every n-th tile.
    reversed_planes : int
        Whether tiles of a head come last first: bit 0 for even heads of the batch, 1 for odd ones.
    """

    blocks: int
    reversed_planes: int = 0


@lru_cache(maxsize=1024)
def schedule(problem: Problem, choice: HopperChoice, device: DeviceSpec) -> Schedule:
    """One block for each multiprocessor, or one for each tile.

    A persistent block takes every n-th tile and sets up once. Where windows are cut off by
    causality, tiles differ, and the busiest block may keep all others waiting: taking every other
    head backwards may balance them. If it does not, the hardware hands tiles out one by one, the
    longest first, and each pays for a block of its own.
    """
    box_tiles = choice.plan(problem).box_tiles_of_each
    planes = problem.batch * problem.heads
    items, processors = planes * box_tiles.size, device.processors
    if items <= processors or not any(problem.is_causal):
        return Schedule(min(items, processors))
    ahead = tile_us() + box_tiles * key_tile_us(choice.shape)
    some = max(1, min(planes, _MOST_TILES // ahead.size))
    waits = []
    for odd in (ahead, ahead[::-1]):
        times = np.concatenate([odd if plane % 2 else ahead for plane in range(some)])
        of_blocks = np.bincount(np.arange(times.size) % processors, weights=times)
        waits.append(float(of_blocks.max() - of_blocks.mean()) * planes / some)
    apart = _BLOCK_US * items / processors + float(ahead.mean()) / 2
    if min(waits) > apart:
        return Schedule(items, reversed_planes=3)
    return Schedule(processors, reversed_planes=0 if waits[0] <= waits[1] else 2)
