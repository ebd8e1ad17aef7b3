"""Tiles of fewer consumers for the last turn of the fused forward's blocks on Hopper."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cupyna.problem import DeviceSpec, Problem
from cupyna.tiles import TilePlan

from ..fused.params import axis_tiles
from .choice import ForwardChoice
from .costs import key_tile_us, tile_us
from .tilings import block_tile

__all__ = ["ShortTiles", "short_tiles"]

FloatArray = np.ndarray[Any, np.dtype[np.float64]]

# Turns after which it no longer matters that the last one is not full.
_MOST_TURNS = 16


@dataclass(frozen=True, slots=True)
class ShortTiles:
    """Tiles of one consumer fewer that end each head, handed out after the whole ones of all.

    Parameters
    ----------
    begin : int
        Their first position along the axis that consumers divide: the end of the whole tiles.
    extent, count : int
        Rows of each along that axis, and how many there are along it.
    """

    begin: int
    extent: int
    count: int


def short_tiles(
    problem: Problem, choice: ForwardChoice, device: DeviceSpec, times_us: FloatArray
) -> tuple[ShortTiles, float] | None:
    """The short tiles that let the busiest block end first, and the time that it takes.

    Parameters
    ----------
    times_us : numpy.ndarray
        Expected time of each tile of one head, were all of them whole ones.

    Returns
    -------
    tuple of ShortTiles and float, or None
        None where tiles differ by causality or lie in dilation groups along the axis that
        consumers divide, or where there are too many turns for it to matter.
    """
    axis, processors = choice.split_axis, device.processors
    planes = problem.batch * problem.heads
    is_served = problem.dilation[axis] == 1 and not any(problem.is_causal)
    if not is_served or not 1 < planes * times_us.size / processors <= _MOST_TURNS:
        return None
    times_us = times_us.reshape(
        tuple(map(axis_tiles, problem.spatial, problem.dilation, choice.row_tile))
    )
    along = times_us.shape[axis]
    whole_extent = choice.row_tile[axis]
    shape = replace(choice.shape, consumers=choice.shape.consumers - 1)
    tile = block_tile(choice.consumer_tile, axis, shape.consumers)
    plan = TilePlan.of(problem, tile, choice.column_tile)
    short_us = tile_us() + key_tile_us(shape) * float(plan.box_tiles_of_each.mean())
    # For every number of whole tiles along the axis: the short ones that the rest takes, how many
    # of both each block is handed, and what the busiest one takes.
    whole = np.arange(along)
    rest = problem.spatial[axis] - whole * whole_extent
    short = -(-rest // tile[axis])
    side_by_side = planes * times_us.size // along
    of_blocks = _dealt(side_by_side * whole, processors)
    of_blocks_short = _dealt(side_by_side * (whole + short), processors) - of_blocks
    busiest_us = (of_blocks * times_us.mean() + of_blocks_short * short_us).max(axis=1)
    best = int(busiest_us.argmin())
    # Tiles at borders meet fewer keys.
    own_us = np.tile(times_us.take(np.arange(best), axis).ravel(), planes)
    exact_us = of_blocks_short[best] * short_us
    np.add.at(exact_us, np.arange(own_us.size) % processors, own_us)
    found = ShortTiles(best * whole_extent, tile[axis], int(short[best]))
    return found, float(exact_us.max())


def _dealt(items: np.ndarray[Any, np.dtype[Any]], blocks: int) -> FloatArray:
    """How many of so many items each block takes, in turns; ``[counts, blocks]``."""
    after_own: FloatArray = items[:, None] - np.arange(blocks, dtype=np.float64)
    return np.maximum(np.ceil(after_own / blocks), 0.0)
