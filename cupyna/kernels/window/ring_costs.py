"""Problem + device -> shape and tiles of the small-window forward on Hopper, by a cost model."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from cupyna.problem import DeviceSpec, Problem
from cupyna.tiles import TilePlan

from ..fused.params import axis_tiles
from ..hopper.tensor_map import MOST_DILATION, BoxOrder, box_order, most_tokens
from .ring_shapes import WINDOW_RING_SHAPES, WindowRingShape
from .shapes import WARP_ROWS

__all__ = ["WindowRingChoice", "window_ring_choice", "window_ring_choices"]

# Clocks of one multiprocessor: per multiplication of a pair's channel, per pair, per warp tile, per
# byte copied into shared memory, per stage and more where it is awaited, and per block's tile; and
# of a launch, until its rings are full. Fitted to 112 tilings of 40 problems measured on an H200,
# with a root-mean-square error of 4 %.
_MULTIPLY = 0.845e-3
_PAIR = 0.0857
_WARP_TILE = 260.0
_BYTE = 0.0106
_STAGE = 114.0
_WAIT = 356.0
_TILE = 4820.0
_CLOCKS_PER_US = 1700.0
_LAUNCH_US = 5.5
_PASSES = 1.45

# Into how many parts blocks cut an axis.
_PARTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)

_LANES = 32
_ALIGNMENT = 128  # bytes, of a box in shared memory
_MOST_WORKS = 2**31 - 1


@dataclass(frozen=True, slots=True)
class WindowRingChoice:
    """A compiled shape with the tiles it runs; extents have one entry for each spatial axis.

    Parameters
    ----------
    shape : WindowRingShape
        The variant.
    warp_tile : tuple of int
        The 16 queries of one tile of a warp: powers of two.
    row_tile : tuple of int
        Queries of one block.
    lines : int
        Keys of a warp's box along the axes between the first and the last.
    most_lines : int
        Lines of the largest box of a warp.
    key_box : tuple of int
        Keys of a slice: of the block's box along all axes but the first.
    slices : int
        Slices of a stage of the ring.
    time_us : float
        Expected time.
    """

    shape: WindowRingShape
    warp_tile: tuple[int, ...]
    row_tile: tuple[int, ...]
    lines: int
    most_lines: int
    key_box: tuple[int, ...]
    slices: int
    time_us: float = math.inf

    @property
    def stages(self) -> int:
        """Stages of the ring."""
        return self.shape.stages(self.slices * math.prod(self.key_box))

    @property
    def line_entries(self) -> int:
        """Lines of the largest box, those that pad its last step included."""
        of_step = self.shape.slots // self.shape.line
        return -(-self.most_lines // of_step) * of_step

    def row_tiles(self, problem: Problem) -> tuple[int, ...]:
        """Tiles of blocks along each axis."""
        return tuple(
            axis_tiles(axis.length, axis.dilation, extent)
            for axis, extent in zip(problem.axes, self.row_tile, strict=True)
        )

    def works(self, problem: Problem) -> int:
        """Tiles of all key heads and batch entries, one after the other for each block."""
        return math.prod(self.row_tiles(problem)) * problem.kv_heads * problem.batch

    def products(self, problem: Problem) -> TilePlan:
        """The products of a warp's tiles."""
        return TilePlan(problem.axes, self.warp_tile, self.slot_box(problem), "query")

    def slot_box(self, problem: Problem) -> tuple[int, ...]:
        """Keys of a warp's box along each axis."""
        between = (self.lines,) * (problem.rank - 2)
        return (self.most_lines // self.lines, *between, self.shape.line)


@lru_cache(maxsize=1024)
def window_ring_choice(problem: Problem, device: DeviceSpec) -> WindowRingChoice | None:
    """The cheapest shape and tiles; None where no shape serves the problem."""
    choices = window_ring_choices(problem, device)
    return min(choices, key=lambda choice: choice.time_us, default=None)


def window_ring_choices(problem: Problem, device: DeviceSpec) -> Iterator[WindowRingChoice]:
    """Every shape with every choice of tiles that it can run."""
    if max(problem.dilation) > MOST_DILATION:
        return
    fitting = [shape for shape in WINDOW_RING_SHAPES if shape.serves(problem)]
    least = min((shape.head_dim for shape in fitting), default=0)
    for shape in fitting:
        if shape.head_dim == least and _describes_rows(problem, shape):
            for warp_tile in _warp_tiles(problem):
                yield from _choices(problem, device, shape, warp_tile)


def _describes_rows(problem: Problem, shape: WindowRingShape) -> bool:
    """Folded heads have no end: a box must hold all their channels, and no other's."""
    channels = {problem.head_dim, problem.value_dim}
    return box_order(problem) != BoxOrder.HEADS_FOLDED or channels == {shape.head_dim}


def _warp_tiles(problem: Problem) -> Iterator[tuple[int, ...]]:
    powers = [1 << i for i in range(WARP_ROWS.bit_length())]
    for tile in itertools.product(powers, repeat=problem.rank):
        # A lane finds the windows of each position.
        positions = sum(tile) + (problem.rank == 2)
        if math.prod(tile) == WARP_ROWS and positions <= _LANES:
            yield tile


def _choices(
    problem: Problem, device: DeviceSpec, shape: WindowRingShape, warp_tile: tuple[int, ...]
) -> Iterator[WindowRingChoice]:
    slices, *between, along = TilePlan(problem.axes, warp_tile, warp_tile, "query").largest_box
    lines = math.prod(between)
    if along > shape.line or slices * lines > shape.most_lines:
        return
    lengths = [axis.group_length(0) for axis in problem.axes]
    extents = [
        sorted({-(-length // (parts * tile)) * tile for parts in _PARTS})
        for length, tile in zip(lengths, warp_tile, strict=True)
    ]
    for row_tile in itertools.product(*extents):
        box = TilePlan(problem.axes, row_tile, row_tile, "query").largest_box
        key_box = (*map(max, zip(box[1:-1], between, strict=True)), max(box[-1], shape.line))
        for of_stage in (1, 2, 4):
            fits = zip((of_stage, *key_box), problem.dilation, strict=True)
            rows_bytes = of_stage * math.prod(key_box) * shape.head_dim * 2
            choice = WindowRingChoice(
                shape, warp_tile, row_tile, lines, slices * lines, key_box, of_stage
            )
            if (
                rows_bytes % _ALIGNMENT == 0
                and all(extent <= most_tokens(gap) for extent, gap in fits)
                and (choice.stages - 1) * of_stage >= slices
                and choice.works(problem) <= _MOST_WORKS
            ):
                yield _timed(problem, device, choice, slices)


def _timed(
    problem: Problem, device: DeviceSpec, choice: WindowRingChoice, slices: int
) -> WindowRingChoice:
    shape = choice.shape
    counts = [
        -(-extent // item) for extent, item in zip(choice.row_tile, choice.warp_tile, strict=True)
    ]
    of_step = math.prod(counts[1:]) * problem.head_group
    pairs = choice.line_entries * shape.line * WARP_ROWS
    of_item = pairs * (2 * shape.head_dim * _MULTIPLY + _PAIR) + _WARP_TILE
    box = TilePlan(problem.axes, choice.row_tile, choice.row_tile, "query").largest_box
    copied = box[0] * math.prod(choice.key_box) * shape.head_dim * 4
    # As many steps are under way as the ring has slices for.
    ahead = (choice.stages * choice.slices - slices) / choice.warp_tile[0]
    busy = min(shape.consumers, of_step * max(1.0, ahead), of_step * counts[0])
    clocks = counts[0] * of_step * of_item * (shape.consumers / busy) + copied * _BYTE + _TILE
    # What is free while warps read a box hides its copy only if it holds more than their next one.
    free = choice.stages - -(-slices // choice.slices)
    is_awaited = free * choice.slices <= choice.warp_tile[0]
    clocks += box[0] / choice.slices * (_STAGE + is_awaited * _WAIT)
    works = choice.works(problem)
    turns = -(-works // device.processors)
    clocks_us = clocks * turns / _CLOCKS_PER_US
    # Near each other, both are felt.
    bytes_us = _PASSES * problem.least_bytes / device.bytes_per_us
    time_us = _LAUNCH_US + math.hypot(clocks_us, bytes_us)
    return WindowRingChoice(
        shape, choice.warp_tile, choice.row_tile, choice.lines, choice.most_lines,
        choice.key_box, choice.slices, time_us,
    )  # fmt: skip
