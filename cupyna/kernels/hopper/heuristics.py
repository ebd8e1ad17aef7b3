"""Problem + device -> shape and tiles of the fused forward on Hopper, by a cost model.

Pure functions, like those of the portable family.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from cupyna.problem import DeviceSpec, Problem
from cupyna.tiles import TilePlan

from ..fused.heuristics import warp_tile
from .shapes import HOPPER_SHAPES, WARP_ROWS, HopperShape
from .tilings import block_tile, column_tiles, consumer_tiles

__all__ = ["HopperChoice", "hopper_choice", "hopper_choices", "key_tile_us", "tile_us"]

# Clocks of one multiprocessor: per multiplication of a pair's channel, per pair of softmax and of
# mask, per key tile and per tile of a block. Fitted to 52 tilings of 12 problems measured on an
# H200, with a root-mean-square error of 6 %.
_MULTIPLY = 0.40e-3
_SOFTMAX = 0.032
_MASK = 0.049
_KEY_TILE = 760.0
_TILE = 6300.0
_CLOCKS_PER_US = 1700.0

# Of a launch: a block sets up barriers and tables before its first tile.
_SET_UP_US = 10.0

# Share of the work that a consumer leaves out which its block saves: the others still need it.
_SKIPPED = 0.5


@dataclass(frozen=True, slots=True)
class HopperChoice:
    """A compiled shape with the tiles it runs.

    Parameters
    ----------
    shape : HopperShape
        The variant.
    consumer_tile, key_tile : tuple of int
        Extents along each axis: of the queries of one consumer, and of keys.
    split_axis : int
        The axis along which the tiles of consumers are neighbors.
    time_us : float
        Expected time.
    """

    shape: HopperShape
    consumer_tile: tuple[int, ...]
    key_tile: tuple[int, ...]
    split_axis: int
    time_us: float

    @property
    def row_tile(self) -> tuple[int, ...]:
        """Queries of one block."""
        return block_tile(self.consumer_tile, self.split_axis, self.shape.consumers)

    def plan(self, problem: Problem) -> TilePlan:
        """The walk of every block."""
        return TilePlan.of(problem, self.row_tile, self.key_tile)


@lru_cache(maxsize=1024)
def hopper_choice(problem: Problem, device: DeviceSpec) -> HopperChoice:
    """The cheapest shape and tiles.

    Raises
    ------
    ValueError
        If no compiled shape has enough channels.
    """
    return min(hopper_choices(problem, device), key=lambda choice: choice.time_us)


def hopper_choices(problem: Problem, device: DeviceSpec) -> Iterator[HopperChoice]:
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
                time_us = _time_us(
                    problem, device, shape, unpriced.row_tile, consumer_tile, key_tile
                )
                yield HopperChoice(shape, consumer_tile, key_tile, split_axis, time_us)


def key_tile_us(shape: HopperShape) -> float:
    """Expected time of one key tile that is not masked."""
    pair = 2 * shape.head_dim * _MULTIPLY + _SOFTMAX
    return (shape.rows * shape.keys * pair + _KEY_TILE) / _CLOCKS_PER_US


def tile_us() -> float:
    """Expected time of a tile of queries beside its key tiles."""
    return _TILE / _CLOCKS_PER_US


def _time_us(
    problem: Problem,
    device: DeviceSpec,
    shape: HopperShape,
    row_tile: tuple[int, ...],
    consumer_tile: tuple[int, ...],
    key_tile: tuple[int, ...],
) -> float:
    block = TilePlan.of(problem, row_tile, key_tile).counts
    consumer = TilePlan.of(problem, consumer_tile, key_tile).counts
    warp = TilePlan.of(problem, warp_tile(consumer_tile, WARP_ROWS), key_tile).counts
    padding = shape.keys / math.prod(key_tile)
    products = padding * (
        (1 - _SKIPPED) * block.computed_products + _SKIPPED * consumer.computed_products
    )
    dense = warp.dense_products if padding == 1 else 0
    clocks = (
        products * (2 * shape.head_dim * _MULTIPLY + _SOFTMAX)
        + max(0.0, padding * consumer.computed_products - dense) * _MASK
        + block.box_tiles * _KEY_TILE
        + block.tiles * _TILE
    )
    planes = problem.batch * problem.heads
    items = planes * block.tiles
    # Every multiprocessor takes a whole number of tiles.
    waves = -(-items // device.processors) * device.processors / items
    return _SET_UP_US + clocks * planes * waves / device.processors / _CLOCKS_PER_US
