"""What tiles of the fused forward on Hopper cost, by a model in clocks of one multiprocessor."""

from __future__ import annotations

import math

from cupyna.problem import DeviceSpec, Problem
from cupyna.tiles import TilePlan

from ..fused.tile_costs import warp_tile
from .shapes import WARP_ROWS, HopperShape

__all__ = ["key_tile_us", "set_up_us", "tile_us", "time_us", "waves", "with_bytes_us"]

# Clocks of one multiprocessor: per multiplication of a pair's channel, per pair of softmax and of
# mask, per key tile and per tile of a block. Fitted to 106 tilings of 26 problems measured on an
# H200, with a root-mean-square error of 6 %.
_MULTIPLY = 0.379e-3
_SOFTMAX = 0.0282
_MASK = 0.0298
_KEY_TILE = 835.0
_TILE = 5490.0
# A mask of more keys has two words.
_LONG_MASK = 0.0507
_KEYS_OF_WORD = 128
# Of a masked key tile among many that are not: nobody has its instructions at hand. Dense attention
# of 4096 tokens with 128 channels takes 239 us by 32 tiles of 128 keys, 250 by 24 of 176, of which
# the last is cut; that of 8192 takes 930 and 914.
_RARE = 0.1
_RARE_MASK = 8000.0
# A pair's exponential alone, where channels are few.
_LEAST_PAIR = 0.071

# Fitted to 424 launches of the sweep and of random problems, with a root-mean-square error of 9 %:
# clocks of long launches, a block's barriers and tables before its first tile, and passes over
# inputs and outputs, felt beside the clocks.
_CLOCKS_PER_US = 1700.0
_SET_UP_US = 5.35
_PASSES = 1.05

# Share of the work that a consumer leaves out which its block saves: the others still need it.
_SKIPPED = 0.5


def key_tile_us(shape: HopperShape) -> float:
    """Expected time of one key tile that is not masked."""
    return (shape.rows * shape.keys * _pair(shape) + _KEY_TILE) / _CLOCKS_PER_US


def tile_us() -> float:
    """Expected time of a tile of queries beside its key tiles."""
    return _TILE / _CLOCKS_PER_US


def set_up_us() -> float:
    """Expected time before a launch's first tile."""
    return _SET_UP_US


def with_bytes_us(problem: Problem, device: DeviceSpec, busy_us: float) -> float:
    """Expected time of a launch whose busiest block is at work for so long."""
    return _SET_UP_US + math.hypot(busy_us, _PASSES * problem.least_bytes / device.bytes_per_us)


def waves(items: int, device: DeviceSpec) -> float:
    """What whole tiles for every multiprocessor add: the busiest one's share beside the mean."""
    return -(-items // device.processors) * device.processors / items


def time_us(
    problem: Problem,
    device: DeviceSpec,
    shape: HopperShape,
    row_tile: tuple[int, ...],
    consumer_tile: tuple[int, ...],
    key_tile: tuple[int, ...],
) -> float:
    """Expected time of a launch whose tiles are alike."""
    block = TilePlan.of(problem, row_tile, key_tile).counts
    consumer = TilePlan.of(problem, consumer_tile, key_tile).counts
    warp = TilePlan.of(problem, warp_tile(consumer_tile, WARP_ROWS), key_tile).counts
    padding = shape.keys / math.prod(key_tile)
    products = padding * (
        (1 - _SKIPPED) * block.computed_products + _SKIPPED * consumer.computed_products
    )
    dense = warp.dense_products if padding == 1 else 0
    masked = max(0.0, padding * consumer.computed_products - dense)
    is_rare = masked < _RARE * products
    clocks = (
        products * _pair(shape)
        + masked * _mask(shape)
        + is_rare * masked / (shape.rows * shape.keys) * _RARE_MASK
        + block.box_tiles * _KEY_TILE
        + block.tiles * _TILE
    )
    planes = problem.batch * problem.heads
    of_all = clocks * planes * waves(planes * block.tiles, device)
    return _SET_UP_US + of_all / device.processors / _CLOCKS_PER_US


def _mask(shape: HopperShape) -> float:
    return _MASK if shape.keys <= _KEYS_OF_WORD else _LONG_MASK


def _pair(shape: HopperShape) -> float:
    return max(2 * shape.head_dim * _MULTIPLY + _SOFTMAX, _LEAST_PAIR)
