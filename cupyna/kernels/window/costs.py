"""Problem + device -> shape and tiles of the small-window kernels, by a cost model of their own.

A block is a grid of warp tiles of 16 queries; its key box lies in shared memory as a whole.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from cupyna.problem import DeviceSpec, Problem
from cupyna.tiles import TilePlan

from ..fused.heuristics import fused_forward_choice
from ..fused.params import axis_tiles
from .shapes import WARP_ROWS, WINDOW_FORWARD_SHAPES, WindowShape

__all__ = ["WindowChoice", "faster_window_choice", "window_forward_choice"]

# Clocks of one multiprocessor: per multiplication of a pair's channel with all that goes with it,
# per warp tile, per 16 bytes copied into shared memory, and per block's tile; and of a launch.
# Fitted to 126 tilings of 16 problems measured on an H200, with a root-mean-square error of 14 %.
_MULTIPLY = 1.63e-3
_WARP_TILE = 219.0
_COPY = 0.94
_TILE = 1130.0
_CLOCKS_PER_US = 1700.0
_LAUNCH_US = 3.8
# Fewer warps than these on a multiprocessor leave it waiting.
_ENOUGH_WARPS = 10
_WAITING = 0.23
_SMEM_RESERVED_BYTES = 1024  # of each block, by the system
_MOST_WARP_TILES = 32
_MOST_SLOTS = 448  # a packed coordinate has nine bits, and one number means none
_MOST_WORKS = 2**31 - 1


@dataclass(frozen=True, slots=True)
class WindowChoice:
    """A compiled shape with the tiles it runs; extents have one entry for each spatial axis.

    Parameters
    ----------
    shape : WindowShape
        The variant.
    warp_tile : tuple of int
        Queries of one warp tile: powers of two.
    warp_tiles : tuple of int
        Warp tiles of one block.
    slot_box : tuple of int
        Keys of a warp tile's box.
    column_tile : tuple of int
        Keys of a block's box.
    pitch : tuple of int
        Tokens of shared memory from one key to the next.
    warps : int
        Warps of one block.
    time_us : float
        Expected time.
    """

    shape: WindowShape
    warp_tile: tuple[int, ...]
    warp_tiles: tuple[int, ...]
    slot_box: tuple[int, ...]
    column_tile: tuple[int, ...]
    pitch: tuple[int, ...]
    warps: int
    time_us: float = math.inf

    @property
    def row_tile(self) -> tuple[int, ...]:
        """Queries of one block."""
        return _product(self.warp_tile, self.warp_tiles)

    @property
    def box_tokens(self) -> int:
        """Tokens of shared memory from the first key of a block's box to its last."""
        spans = ((e - 1) * p for e, p in zip(self.column_tile, self.pitch, strict=True))
        return sum(spans) + 1

    @property
    def blocks_of_slots(self) -> int:
        """How often a warp takes as many keys as it holds scores of."""
        return -(-math.prod(self.slot_box) // self.shape.slots)

    def smem_bytes(self, problem: Problem) -> int:
        """Shared memory of one block of the launch."""
        leading = (1,) * (3 - problem.rank)
        return self.shape.smem_bytes_of(
            self.box_tokens,
            self.warps,
            (*leading, *self.slot_box),
            self.blocks_of_slots,
            math.prod(self.column_tile[:-1]),
            (*leading, *self.row_tile),
            math.prod(self.warp_tiles) * problem.head_group,
        )

    def works(self, problem: Problem) -> int:
        """Tiles of all key heads and batch entries, one after the other for each block."""
        tiles = math.prod(
            axis_tiles(axis.length, axis.dilation, extent)
            for axis, extent in zip(problem.axes, self.row_tile, strict=True)
        )
        return tiles * problem.kv_heads * problem.batch

    def resident(self, problem: Problem, device: DeviceSpec) -> int:
        """Blocks that one multiprocessor holds at a time."""
        smem_bytes = device.smem_bytes + _SMEM_RESERVED_BYTES
        by_smem = smem_bytes // (self.smem_bytes(problem) + _SMEM_RESERVED_BYTES)
        return max(1, min(by_smem, self.shape.blocks * self.shape.warps // self.warps))

    def plan(self, problem: Problem) -> TilePlan:
        """The products of every warp tile."""
        return TilePlan.of(problem, self.warp_tile, self.slot_box)


@lru_cache(maxsize=1024)
def window_forward_choice(problem: Problem, device: DeviceSpec) -> WindowChoice | None:
    """The cheapest shape and tiles of forward; None where no shape serves the problem."""
    fitting = [
        shape
        for shape in WINDOW_FORWARD_SHAPES
        if shape.serves(problem) and shape.smem_bytes <= device.smem_bytes
    ]
    if not fitting or problem.window > _MOST_SLOTS:
        return None
    shape = min(fitting, key=lambda one: one.head_dim)
    choices = window_choices(problem, device, shape)
    return min(choices, key=lambda choice: choice.time_us, default=None)


def faster_window_choice(problem: Problem, device: DeviceSpec) -> WindowChoice | None:
    """The cheapest where the models hold it faster than the general kernel, else None."""
    window = window_forward_choice(problem, device)
    if window is None or window.time_us >= fused_forward_choice(problem, device).time_us:
        return None
    return window


def window_choices(
    problem: Problem, device: DeviceSpec, shape: WindowShape
) -> Iterator[WindowChoice]:
    """Every choice of tiles that fits the shared memory."""
    powers = [1 << i for i in range(WARP_ROWS.bit_length())]
    for warp_tile in itertools.product(powers, repeat=problem.rank):
        if math.prod(warp_tile) != WARP_ROWS:
            continue
        slot_box = _largest_box(problem, warp_tile)
        if math.prod(slot_box) > _MOST_SLOTS:
            continue
        most = [
            -(-axis.group_length(0) // extent)
            for axis, extent in zip(problem.axes, warp_tile, strict=True)
        ]
        for warp_tiles in _grids(most, _MOST_WARP_TILES):
            row_tile = _product(warp_tile, warp_tiles)
            box = _largest_box(problem, row_tile)
            pitch = _pitch(box, slot_box)
            items = math.prod(warp_tiles) * problem.head_group
            for warps in _warps(items, shape):
                choice = WindowChoice(shape, warp_tile, warp_tiles, slot_box, box, pitch, warps)
                if (
                    choice.smem_bytes(problem) <= shape.smem_bytes
                    and choice.works(problem) <= _MOST_WORKS
                ):
                    yield _timed(problem, device, choice, items)


def _timed(problem: Problem, device: DeviceSpec, choice: WindowChoice, items: int) -> WindowChoice:
    shape = choice.shape
    # Warp tiles past the end of a line are skipped, but their warp waits for the others.
    rounds = -(-items // choice.warps) * choice.warps
    products = choice.blocks_of_slots * shape.slots * WARP_ROWS
    of_tile = products * 2 * shape.head_dim * _MULTIPLY + _WARP_TILE
    chunks = math.prod(choice.column_tile) * shape.head_dim * 4 / 16
    resident = choice.resident(problem, device)
    waiting = max(1.0, _ENOUGH_WARPS / (resident * choice.warps)) ** _WAITING
    clocks = (rounds * of_tile + chunks * _COPY + _TILE) * waiting
    # Every block takes a whole number of tiles, and one alone has the multiprocessor to itself.
    works = choice.works(problem)
    blocks = resident * device.processors
    turns = -(-works // blocks) * resident if works > blocks else works / device.processors
    time_us = _LAUNCH_US + clocks * max(1.0, turns) / _CLOCKS_PER_US
    return WindowChoice(
        shape, choice.warp_tile, choice.warp_tiles, choice.slot_box, choice.column_tile,
        choice.pitch, choice.warps, time_us,
    )  # fmt: skip


def _product(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(x * y for x, y in zip(a, b, strict=True))


def _largest_box(problem: Problem, tile: tuple[int, ...]) -> tuple[int, ...]:
    return TilePlan(problem.axes, tile, tile).largest_box


def _grids(most: list[int], limit: int) -> Iterator[tuple[int, ...]]:
    if not most:
        yield ()
        return
    for count in range(1, min(most[0], limit) + 1):
        for rest in _grids(most[1:], limit // count):
            yield (count, *rest)


def _warps(items: int, shape: WindowShape) -> list[int]:
    """Counts of warps that share the warp tiles of a block evenly."""
    least = -(-items // shape.warps)
    counts = {-(-items // rounds) for rounds in range(least, 2 * least + 1)}
    return [warps for warps in counts if warps * 2 >= min(items, shape.warps)]


def _pitch(box: tuple[int, ...], slot_box: tuple[int, ...]) -> tuple[int, ...]:
    """Pitches by which neighboring slots lie in neighboring rows, modulo eight."""
    pitch = [1]
    slots = 1
    for extent, along in zip(box[:0:-1], slot_box[:0:-1], strict=True):
        slots *= along
        least = extent * pitch[-1]
        pitch.append(least + (slots - least) % 8)
    return tuple(reversed(pitch))
