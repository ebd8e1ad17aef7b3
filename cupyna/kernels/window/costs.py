"""Problem + device -> shape and tiles of the small-window kernels, by a cost model of their own.

A block is a grid of warp tiles of 16 queries; its key box lies in shared memory as a whole.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from cupyna.geometry import Axis
from cupyna.problem import DeviceSpec, Problem
from cupyna.tiles import TilePlan

from ..fused.params import axis_tiles
from .shapes import (
    STEP_SLOTS,
    WARP_ROWS,
    WINDOW_FORWARD_SHAPES,
    WINDOW_GRADIENT_SHAPES,
    WindowShape,
)

__all__ = [
    "WindowChoice",
    "window_backward_us",
    "window_forward_choice",
    "window_gradient_choices",
]

_CLOCKS_PER_US = 1700.0
_LAUNCH_US = 8.0


@dataclass(frozen=True, slots=True)
class _Costs:
    """What a kernel takes: clocks of one multiprocessor, and bytes moved.

    Parameters
    ----------
    multiply : float
        Per multiplication of a pair's channel, with all that goes with it.
    copy : float
        Per 16 bytes copied into shared memory; a block waits for as long.
    setup : float
        Per work, for its tables.
    work, tile : float
        What a block waits at least: for a work, and a warp's tile.
    pair : dict of int to float
        The same for a pair's product in the tile, by channels of the kernel.
    passes : float
        Over the arrays of forward.
    overlaps : tuple of float
        How what keeps a multiprocessor busy and what a block waits for go on beside each other,
        where it has one block and where it has more: the exponent of the norm that is their time.
    """

    multiply: float
    copy: float
    setup: float
    work: float
    tile: float
    pair: dict[int, float]
    passes: float
    overlaps: tuple[float, float] = (2.0, 2.0)


# Fitted to 2074 tilings of 138 problems measured on an H200, forward and both passes of backward,
# with root-mean-square errors of 6 %.
_COSTS = {
    None: _Costs(
        1.56e-3, 0.326, 498.0, 3960.0, 1890.0, {32: 0.398, 64: 0.447, 128: 0.85}, 1.36, (2.05, 2.5)
    ),
    "query": _Costs(
        1.29e-3, 0.378, 380.0, 3120.0, 2010.0, {32: 0.219, 64: 0.311, 128: 0.694}, 1.79
    ),
    "key": _Costs(1.31e-3, 0.655, 791.0, 3900.0, 2300.0, {32: 0.271, 64: 0.250, 128: 0.804}, 2.54),
}
# Over the outputs and their gradients: the pass that finds statistics, with what the passes take
# more one after the other than each in a row of its own.
_STATISTICS_PASSES = 2.85

_SMEM_RESERVED_BYTES = 1024  # of each block, by the system
_MOST_WARP_TILES = 32
_MOST_SLOTS = 448  # a packed coordinate has nine bits, and one number means none
_MOST_WORKS = 2**31 - 1
_MOST_BLOCKS = 32  # of a multiprocessor


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
    heads : int
        Key heads of one block, each with a box of its own.
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
    heads: int = 1
    time_us: float = math.inf

    @property
    def row_tile(self) -> tuple[int, ...]:
        """Queries of one block."""
        return _product(self.warp_tile, self.warp_tiles)

    @property
    def box_tokens(self) -> int:
        """Tokens of shared memory from the first key of one head's box to its last."""
        spans = ((e - 1) * p for e, p in zip(self.column_tile, self.pitch, strict=True))
        return sum(spans) + 1

    @property
    def blocks_of_slots(self) -> int:
        """How often a warp takes as many keys as it holds scores of."""
        return -(-math.prod(self.slot_box) // self.shape.slots)

    @property
    def steps_of_slots(self) -> int:
        """Steps of backward through the keys of a warp tile's box."""
        return -(-math.prod(self.slot_box) // STEP_SLOTS)

    @property
    def slots_taken(self) -> int:
        """Slots that a warp computes with: whole blocks, or in backward a few steps."""
        steps = self.shape.slots // STEP_SLOTS
        whole, left = divmod(self.steps_of_slots, steps)
        if self.shape.gradient is None or (self.shape.is_unrolled and left > steps // 2):
            return self.blocks_of_slots * self.shape.slots
        return (whole * steps + left) * STEP_SLOTS

    def items(self, problem: Problem) -> int:
        """Warp tiles of one block, for all of its heads."""
        return math.prod(self.warp_tiles) * problem.head_group * self.heads

    def smem_bytes(self, problem: Problem) -> int:
        """Shared memory of one block of the launch."""
        leading = (1,) * (3 - problem.rank)
        return self.shape.smem_bytes_of(
            self.box_tokens * self.heads,
            self.warps,
            (*leading, *self.slot_box),
            self.blocks_of_slots,
            math.prod(self.column_tile[:-1]) * self.heads,
            (*leading, *self.row_tile),
            self.items(problem),
        )

    def works(self, problem: Problem) -> int:
        """Tiles of all key heads and batch entries, one after the other for each block."""
        tiles = math.prod(
            axis_tiles(axis.length, axis.dilation, extent)
            for axis, extent in zip(problem.axes, self.row_tile, strict=True)
        )
        return tiles * problem.kv_heads // self.heads * problem.batch

    def resident(self, problem: Problem, device: DeviceSpec) -> int:
        """Blocks that one multiprocessor holds at a time."""
        smem_bytes = device.smem_bytes + _SMEM_RESERVED_BYTES
        by_smem = smem_bytes // (self.smem_bytes(problem) + _SMEM_RESERVED_BYTES)
        by_warps = self.shape.blocks * self.shape.warps // self.warps
        return max(1, min(by_smem, by_warps, _MOST_BLOCKS))

    def products(self, problem: Problem) -> TilePlan:
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
    read_us = queries * problem.value_dim * 2 * problem.item_bytes / device.bytes_per_us
    small_us = _LAUNCH_US + _STATISTICS_PASSES * read_us
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
                for heads in _heads(problem, tuple(most), warp_tiles):
                    tiling = WindowChoice(
                        shape, warp_tile, warp_tiles, slot_box, box, pitch, 1, heads
                    )
                    for warps in _warps(tiling.items(problem), shape):
                        choice = replace(tiling, warps=warps)
                        if (
                            choice.smem_bytes(problem) <= shape.smem_bytes
                            and choice.works(problem) <= _MOST_WORKS
                        ):
                            yield _timed(problem, device, choice)


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


def _heads(problem: Problem, most: tuple[int, ...], warp_tiles: tuple[int, ...]) -> Iterator[int]:
    """Key heads that a block may take: several where a tile is a whole dilation group."""
    yield 1
    items = math.prod(warp_tiles) * problem.head_group
    if warp_tiles != most or math.prod(problem.spatial) * problem.kv_heads > _MOST_WORKS:
        return
    for heads in range(2, min(problem.kv_heads, _MOST_WARP_TILES // items) + 1):
        if problem.kv_heads % heads == 0:
            yield heads


def _timed(problem: Problem, device: DeviceSpec, choice: WindowChoice) -> WindowChoice:
    shape = choice.shape
    # Warp tiles past the end of a line are skipped, but their warp waits for the others.
    rounds = -(-choice.items(problem) // choice.warps) * choice.warps
    products = float(choice.slots_taken * WARP_ROWS)
    if shape.passes == 2:
        products *= _passes(problem.axes, choice.warp_tile, choice.slot_box)
    products *= shape.products
    costs = _COSTS[shape.gradient]
    chunks = math.prod(choice.column_tile) * choice.heads * shape.head_dim * 4 / 16
    copied = chunks * costs.copy
    busy = rounds * products * shape.head_dim * costs.multiply + copied + costs.setup
    of_tile = costs.tile + products * costs.pair[shape.head_dim]
    alone = costs.work + copied + rounds / choice.warps * of_tile
    # Every block takes a whole number of tiles, and what one waits for, others do not.
    works = choice.works(problem)
    resident = choice.resident(problem, device)
    turns = -(-works // (resident * device.processors))
    beside = resident if turns > 1 else max(1.0, works / device.processors)
    norm = costs.overlaps[resident > 1]
    clocks = turns * ((beside * busy) ** norm + alone**norm) ** (1 / norm)
    bytes_us = costs.passes * problem.least_bytes / device.bytes_per_us
    time_us = _LAUNCH_US + math.hypot(clocks / _CLOCKS_PER_US, bytes_us)
    return replace(choice, time_us=time_us)


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
