"""Problem + device -> shape and tiles of the small-window kernels, by a cost model of their own.

A block is a grid of warp tiles of 16 queries; its key box lies in shared memory as a whole.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from cupyna.geometry import Axis
from cupyna.problem import DeviceSpec, Problem
from cupyna.tiles import TilePlan

from ..fused.params import axis_tiles
from .shapes import WARP_ROWS, WINDOW_FORWARD_SHAPES, WINDOW_GRADIENT_SHAPES, WindowShape

__all__ = [
    "WindowChoice",
    "window_backward_us",
    "window_forward_choice",
    "window_gradient_choices",
]

# Clocks of one multiprocessor: per multiplication of a pair's channel with all that goes with it,
# per warp tile, per 16 bytes copied into shared memory, and per block's tile; and of a launch.
# Fitted to 306 tilings of 18 problems measured on an H200, forward and both passes of backward,
# with a root-mean-square error of 16 %.
_MULTIPLY = 1.64e-3
_WARP_TILE = 113.0
_COPY = 0.49
_TILE = 1000.0
_CLOCKS_PER_US = 1700.0
_LAUNCH_US = 8.7
# Fewer warps than these on a multiprocessor leave it waiting.
_ENOUGH_WARPS = 16
_WAITING = 0.4

# Forward of boxes of few keys took up to 1.25 of that with 64 channels. With 128, where few were
# measured, all are held to take longer by so much.
_WIDE_CHANNELS = 128
_WIDE = 1.15

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
        return TilePlan(problem.axes, self.warp_tile, self.slot_box, self.shape.side)


@lru_cache(maxsize=1024)
def window_forward_choice(problem: Problem, device: DeviceSpec) -> WindowChoice | None:
    """The cheapest shape and tiles of forward; None where no shape serves the problem."""
    return _cheapest(problem, device, WINDOW_FORWARD_SHAPES)


@lru_cache(maxsize=1024)
def window_gradient_choices(
    problem: Problem, device: DeviceSpec
) -> tuple[WindowChoice, WindowChoice] | None:
    """Those of backward, over queries and over keys; None where no shape serves the problem."""
    query, key = (
        _cheapest(problem, device, [s for s in WINDOW_GRADIENT_SHAPES if s.side == side])
        for side in ("query", "key")
    )
    return None if query is None or key is None else (query, key)


def _cheapest(
    problem: Problem, device: DeviceSpec, shapes: Sequence[WindowShape]
) -> WindowChoice | None:
    fitting = [s for s in shapes if s.serves(problem) and s.smem_bytes <= device.smem_bytes]
    if not fitting or problem.window > _MOST_SLOTS:
        return None
    shape = min(fitting, key=lambda one: one.head_dim)
    choices = window_choices(problem, device, shape)
    return min(choices, key=lambda choice: choice.time_us, default=None)


def window_backward_us(
    problem: Problem, device: DeviceSpec, passes: tuple[WindowChoice, ...]
) -> float:
    """The passes, and another kernel that reads the outputs and their gradients before."""
    queries = problem.batch * problem.heads * math.prod(problem.spatial)
    small_us = _LAUNCH_US + queries * problem.value_dim * 4 / device.bytes_per_us
    return small_us + sum(chosen.time_us for chosen in passes)


def window_choices(
    problem: Problem, device: DeviceSpec, shape: WindowShape
) -> Iterator[WindowChoice]:
    """Every choice of tiles that fits the shared memory."""
    powers = [1 << i for i in range(WARP_ROWS.bit_length())]
    for warp_tile in itertools.product(powers, repeat=problem.rank):
        if math.prod(warp_tile) != WARP_ROWS:
            continue
        most = [
            -(-axis.group_length(0) // extent)
            for axis, extent in zip(problem.axes, warp_tile, strict=True)
        ]
        for slot_box in _slot_boxes(problem, warp_tile, shape):
            for warp_tiles in _grids(most, _MOST_WARP_TILES):
                row_tile = _product(warp_tile, warp_tiles)
                box = _largest_box(problem.axes, row_tile, shape.side)
                pitch = _pitch(box, slot_box)
                items = math.prod(warp_tiles) * problem.head_group
                for warps in _warps(items, shape):
                    choice = WindowChoice(shape, warp_tile, warp_tiles, slot_box, box, pitch, warps)
                    if (
                        choice.smem_bytes(problem) <= shape.smem_bytes
                        and choice.works(problem) <= _MOST_WORKS
                    ):
                        yield _timed(problem, device, choice, items)


def _slot_boxes(
    problem: Problem, warp_tile: tuple[int, ...], shape: WindowShape
) -> list[tuple[int, ...]]:
    """Boxes that hold the columns of every warp tile, perhaps in two passes along an axis."""
    largest = _largest_box(problem.axes, warp_tile, shape.side)
    boxes = {largest}
    if shape.passes == 2:
        usual = _largest_box(problem.axes, warp_tile, "query")
        boxes.add(tuple(max(-(-a // 2), min(a, b)) for a, b in zip(largest, usual, strict=True)))
    return [box for box in sorted(boxes) if math.prod(box) <= _MOST_SLOTS]


def _timed(problem: Problem, device: DeviceSpec, choice: WindowChoice, items: int) -> WindowChoice:
    shape = choice.shape
    # Warp tiles past the end of a line are skipped, but their warp waits for the others.
    rounds = -(-items // choice.warps) * choice.warps
    products = float(choice.blocks_of_slots * shape.slots * WARP_ROWS)
    if shape.passes == 2:
        products *= _passes(problem.axes, choice.warp_tile, choice.slot_box)
    of_tile = products * shape.products * shape.head_dim * _MULTIPLY + _WARP_TILE
    chunks = math.prod(choice.column_tile) * shape.head_dim * 4 / 16
    resident = choice.resident(problem, device)
    waiting = max(1.0, _ENOUGH_WARPS / (resident * choice.warps)) ** _WAITING
    clocks = (rounds * of_tile + chunks * _COPY + _TILE) * waiting
    # Every block takes a whole number of tiles, and one alone has the multiprocessor to itself.
    works = choice.works(problem)
    blocks = resident * device.processors
    turns = -(-works // blocks) * resident if works > blocks else works / device.processors
    time_us = _LAUNCH_US + clocks * max(1.0, turns) / _CLOCKS_PER_US
    if shape.head_dim == _WIDE_CHANNELS:
        time_us *= _WIDE
    return WindowChoice(
        shape, choice.warp_tile, choice.warp_tiles, choice.slot_box, choice.column_tile,
        choice.pitch, choice.warps, time_us,
    )  # fmt: skip


@lru_cache(maxsize=256)
def _passes(axes: tuple[Axis, ...], keys: tuple[int, ...], slot_box: tuple[int, ...]) -> float:
    """How often a tile of keys goes through its slots, on average."""
    counts = TilePlan(axes, keys, slot_box, "key").counts
    return counts.box_tiles / counts.tiles


def _product(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(x * y for x, y in zip(a, b, strict=True))


@lru_cache(maxsize=4096)
def _largest_box(
    axes: tuple[Axis, ...], tile: tuple[int, ...], side: Literal["query", "key"]
) -> tuple[int, ...]:
    return TilePlan(axes, tile, tile, side).largest_box


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
