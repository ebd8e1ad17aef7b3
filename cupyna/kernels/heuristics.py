"""Problem + device -> variant and tile shapes of the fused kernels, by a cost model.

Pure functions: the same problem on the same figures always gives the same choice.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from cupyna.problem import DeviceSpec, Problem
from cupyna.tiles import TilePlan

from .fused_shapes import FORWARD_SHAPES, FusedShape

__all__ = ["FusedChoice", "fused_forward_choice"]

# Clocks of one multiprocessor: per product and channel, per product of softmax and of mask, per 16
# bytes copied into shared memory, per key tile and per query tile for all the rest. Fitted to 69
# tilings of 11 problems measured on an H200, with a root-mean-square error of 16 %.
_MULTIPLY = 2.0e-3
_SOFTMAX = 0.058
_MASK = 0.217
_COPY = 0.245
_KEY_TILE = 323.0
_TILE = 1880.0
_CLOCKS_PER_US = 1700.0

_KEY_EXTENTS = (1, 2, 3, 4, 6, 8, 10, 12, 16, 20, 24, 32, 64)


@dataclass(frozen=True, slots=True)
class FusedChoice:
    """A compiled shape with the tiles it runs.

    Parameters
    ----------
    shape : FusedShape
        The variant.
    q_tile, kv_tile : tuple of int
        Extents along each axis.
    time_us : float
        Expected time.
    """

    shape: FusedShape
    q_tile: tuple[int, ...]
    kv_tile: tuple[int, ...]
    time_us: float


@lru_cache(maxsize=1024)
def fused_forward_choice(problem: Problem, device: DeviceSpec) -> FusedChoice:
    """The cheapest variant and tiles for a problem.

    Raises
    ------
    ValueError
        If no compiled shape has enough channels.
    """
    channels = max(problem.head_dim, problem.value_dim)
    fitting = [
        shape
        for shape in FORWARD_SHAPES
        if shape.head_dim >= channels and shape.smem_bytes <= device.smem_bytes
    ]
    if not fitting:
        raise ValueError(f"no fused kernel has {channels} channels")
    least = min(shape.head_dim for shape in fitting)
    choices = (
        FusedChoice(shape, q_tile, kv_tile, _time_us(problem, device, shape, q_tile, kv_tile))
        for shape in fitting
        if shape.head_dim == least
        for q_tile in _query_tiles(problem, shape.rows)
        for kv_tile in _key_tiles(problem, q_tile, shape.keys)
    )
    return min(choices, key=lambda choice: choice.time_us)


def warp_tile(q_tile: tuple[int, ...], rows: int) -> tuple[int, ...]:
    """The box of a query tile's first `rows` rows, the last axis fastest."""
    extents = []
    for extent in reversed(q_tile):
        extents.append(min(extent, rows))
        rows //= extents[-1]
    return tuple(reversed(extents))


def _time_us(
    problem: Problem,
    device: DeviceSpec,
    shape: FusedShape,
    q_tile: tuple[int, ...],
    kv_tile: tuple[int, ...],
) -> float:
    block = TilePlan(problem.axes, q_tile, kv_tile).counts
    # Warps skip and mask by their own rows.
    warp = TilePlan(problem.axes, warp_tile(q_tile, shape.warp_rows), kv_tile).counts
    padding = shape.keys / math.prod(kv_tile)
    products = warp.computed_products * padding
    is_whole = padding == 1 and not problem.has_bias
    masked = products - (warp.dense_products if is_whole else 0)
    chunks = block.box_tiles * shape.keys * shape.head_dim / 8 * 2
    clocks = (
        products * (shape.head_dim * _MULTIPLY + _SOFTMAX)
        + masked * _MASK
        + chunks * _COPY
        + block.box_tiles * _KEY_TILE
        + block.tiles * _TILE
    )
    planes = problem.batch * problem.heads
    waves = max(1.0, device.processors / max(1, planes * block.tiles))
    return clocks * planes * waves / device.processors / _CLOCKS_PER_US


def _query_tiles(problem: Problem, rows: int) -> list[tuple[int, ...]]:
    """Powers of two whose product is `rows`, none twice as long as its axis if that can be."""
    powers = [1 << i for i in range(rows.bit_length())]
    tiles = [t for t in itertools.product(powers, repeat=problem.rank) if math.prod(t) == rows]
    lengths = [axis.group_length(0) for axis in problem.axes]
    fitting = [
        tile
        for tile in tiles
        if all(extent < 2 * length for extent, length in zip(tile, lengths, strict=True))
    ]
    return fitting or tiles


def _key_tiles(problem: Problem, q_tile: tuple[int, ...], keys: int) -> Iterator[tuple[int, ...]]:
    """Extents whose product fills at least three quarters of `keys`, if the box allows it."""
    box = TilePlan(problem.axes, q_tile, q_tile).largest_box
    along = [
        sorted({e for e in (*_KEY_EXTENTS, extent) if e <= min(extent, keys)}) for extent in box
    ]
    tiles = [t for t in itertools.product(*along) if math.prod(t) <= keys]
    most = max(math.prod(tile) for tile in tiles)
    return (tile for tile in tiles if math.prod(tile) * 4 >= most * 3)
