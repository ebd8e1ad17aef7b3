"""Which block takes which tiles of the fused forward on Hopper, and in what order."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from cupyna.problem import DeviceSpec, Problem
from cupyna.tiles import TilePlan

from .choice import ForwardChoice
from .costs import key_tile_us, tile_us
from .short_tiles import ShortTiles, short_tiles

__all__ = ["Schedule", "balanced", "schedule"]

FloatArray = np.ndarray[Any, np.dtype[np.float64]]

# What a tile takes longer in a block of its own.
_BLOCK_US = 6.0

# Tiles after which the busiest block is known well enough.
_MOST_TILES = 1 << 16

# Orders that are tried, beside each head's tiles in the order of the one before.
_ROTATIONS = (0, 1, 2, 3, 5, 7, 11)

# Consumers that leave out more of each other's key tiles wait for turns that are not used.
_MOST_SKIPPED = 0.25
_LEAST_CHANNELS = 64
_LEAST_KEY_TILES = 3


# Share of the time that short tiles must save.
_LEAST_SAVED = 0.02


@dataclass(frozen=True, slots=True)
class Schedule:
    """The grid of a launch, and the order of the work in it.

    Parameters
    ----------
    blocks : int
        Each takes every n-th tile.
    reversed_planes : int
        Whether tiles of a head come last first: bit 0 for even heads of the batch, 1 for odd ones.
    rotation : int
        By how many tiles each head begins later than the one before.
    takes_turns : bool
        Whether consumers of a block queue their products one after the other.
    imbalance : float
        Expected time of the busiest multiprocessor beside the mean of all.
    shorts : ShortTiles or None
        Tiles with fewer rows for the last turn.
    """

    blocks: int
    reversed_planes: int = 0
    rotation: int = 0
    takes_turns: bool = False
    imbalance: float = 1.0
    shorts: ShortTiles | None = None


@lru_cache(maxsize=1024)
def schedule(problem: Problem, choice: ForwardChoice, device: DeviceSpec) -> Schedule:
    """One block for each multiprocessor, or one for each tile.

    A persistent block takes every n-th tile and sets up once. Tiles at a border meet fewer keys
    than others, and where windows are cut off by causality all differ: the busiest block may keep
    all others waiting. Heads may begin at different tiles, and every other causal one may run
    backwards, which balances them. Where it does not, the hardware hands causal tiles out one by
    one, the longest first, and each pays for a block of its own. Where few turns of tiles leave
    many blocks without one in the last turn, tiles of one consumer fewer make it a shorter turn
    for all.
    """
    times_us = tile_us() + choice.plan(problem).box_tiles_of_each * key_tile_us(choice.shape)
    planes = problem.batch * problem.heads
    found = balanced(times_us.ravel(), planes, device.processors, any(problem.is_causal))
    found = replace(found, takes_turns=_takes_turns(problem, choice))
    cut = short_tiles(problem, choice, device, times_us)
    if cut is None:
        return found
    shorts, busiest_us = cut
    imbalance = busiest_us * device.processors / (planes * float(times_us.sum()))
    if imbalance > (1 - _LEAST_SAVED) * found.imbalance:
        return found
    return replace(found, rotation=0, imbalance=imbalance, shorts=shorts)


def balanced(times_us: FloatArray, planes: int, processors: int, is_causal: bool) -> Schedule:
    """The grid for planes whose tiles take `times_us` each."""
    items = planes * times_us.size
    if items <= processors or (times_us == times_us[0]).all():
        blocks = min(items, processors)
        return Schedule(blocks, imbalance=-(-items // processors) * processors / items)
    mean_us = float(times_us.mean()) * items / processors
    some = max(1, min(planes, _MOST_TILES // times_us.size))
    wait_us, reversed_planes, rotation = min(
        (_wait_us(times_us, some, processors, reversed_planes, rotation), reversed_planes, rotation)
        for reversed_planes in ((0, 2) if is_causal else (0,))
        for rotation in _ROTATIONS
        if rotation < times_us.size
    )
    wait_us *= planes / some
    apart_us = _BLOCK_US * items / processors + float(times_us.mean()) / 2
    if is_causal and wait_us > apart_us:
        return Schedule(items, reversed_planes=3, imbalance=1 + apart_us / mean_us)
    return Schedule(processors, reversed_planes, rotation, imbalance=1 + wait_us / mean_us)


def _wait_us(
    times_us: FloatArray, planes: int, processors: int, reversed_planes: int, rotation: int
) -> float:
    """How much longer the busiest block takes than all do on average."""
    first = rotation * np.arange(planes)[:, None]
    index = (np.arange(times_us.size) + first) % times_us.size
    if reversed_planes & 2:
        index[1::2] = (times_us.size - 1 - np.arange(times_us.size) + first[1::2]) % times_us.size
    of_blocks = np.bincount(
        np.arange(index.size) % processors, weights=times_us[index.ravel()], minlength=processors
    )
    return float(of_blocks.max() - of_blocks.mean())


def _takes_turns(problem: Problem, choice: ForwardChoice) -> bool:
    """Whether one consumer's softmax should run beside the products of another.

    Left alone, consumers drift into waiting for the tensor cores together. Turns pay where they
    need the same key tiles, several of them, and products are most of the work.
    """
    if problem.rank > 1 and choice.shape.head_dim < _LEAST_CHANNELS:
        return False
    block = choice.plan(problem).counts
    needed = TilePlan.of(problem, choice.consumer_tile, choice.column_tile).counts.computed_products
    return (
        block.box_tiles >= _LEAST_KEY_TILES * block.tiles
        and needed >= (1 - _MOST_SKIPPED) * block.computed_products
    )
