"""How many blocks share the tiles of the fused forward on Hopper."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from cupyna.problem import DeviceSpec, Problem

from .heuristics import HopperChoice, key_tile_us, tile_us

__all__ = ["grid_blocks"]

# What a tile takes longer in a block of its own: measured over 43 tiles to a multiprocessor.
_BLOCK_US = 12.0

# Items after which the busiest block is known well enough.
_MOST_ITEMS = 1 << 20


@lru_cache(maxsize=1024)
def grid_blocks(problem: Problem, choice: HopperChoice, device: DeviceSpec) -> int:
    """Blocks of the launch: one for each multiprocessor, or one for each tile.

    A persistent block takes every n-th tile and sets up once. Where windows are cut off by
    causality, tiles differ, and the busiest block may keep all others waiting: then the hardware
    hands tiles out one by one, and each pays for a block of its own.
    """
    box_tiles = choice.plan(problem).box_tiles_of_each
    planes = problem.batch * problem.heads
    items, processors = planes * box_tiles.size, device.processors
    if items <= processors or not any(problem.is_causal):
        return min(items, processors)
    tile_times = tile_us() + box_tiles * key_tile_us(choice.shape)
    some = np.tile(tile_times, max(1, min(planes, _MOST_ITEMS // box_tiles.size)))
    of_blocks = np.bincount(np.arange(some.size) % processors, weights=some)
    waiting = float(of_blocks.max() - of_blocks.mean()) * items / some.size
    return processors if waiting <= _BLOCK_US * items / processors else items
