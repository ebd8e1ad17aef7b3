"""Problem + device -> variant and tile shapes of the fused kernels, by a cost model.

Pure functions: the same problem on the same figures always gives the same choice.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from cupyna.problem import DeviceSpec, Problem
from cupyna.tiles import TilePlan

from .shapes import BIAS_SHAPES, FORWARD_SHAPES, GRADIENT_SHAPES, FusedShape
from .tile_costs import LAUNCH_US, time_us, warp_tile

__all__ = [
    "FusedChoice",
    "Pass",
    "cheapest_tiling",
    "fused_choices",
    "fused_forward_choice",
    "fused_gradient_choices",
    "gradient_time_us",
    "is_served",
    "lone_gradient_choice",
    "moved_us",
]

_TWO_PASSES = [shape for shape in GRADIENT_SHAPES if not shape.sums_queries]

# Forward, and of backward the pass over queries, the one over keys, and the one for both.
Pass = Literal["forward", "query", "key", "both"]

_SHAPES: dict[Pass, Sequence[FusedShape]] = {
    "forward": FORWARD_SHAPES,
    "query": [shape for shape in _TWO_PASSES if shape.side == "query"],
    "key": [shape for shape in _TWO_PASSES if shape.side == "key"],
    "both": [shape for shape in GRADIENT_SHAPES if shape.sums_queries],
}

_COLUMN_EXTENTS = (1, 2, 3, 4, 6, 8, 10, 12, 16, 20, 24, 32, 64, 128)


@dataclass(frozen=True, slots=True)
class FusedChoice:
    """A compiled shape with the tiles it runs.

    Parameters
    ----------
    shape : FusedShape
        The variant.
    row_tile, column_tile : tuple of int
        Extents along each axis: of queries and keys, or the reverse where rows are keys.
    time_us : float
        Expected time.
    """

    shape: FusedShape
    row_tile: tuple[int, ...]
    column_tile: tuple[int, ...]
    time_us: float

    def plan(self, problem: Problem) -> TilePlan:
        """The walk of every block."""
        return TilePlan(problem.axes, self.row_tile, self.column_tile, self.shape.side)

    def products(self, problem: Problem) -> TilePlan:
        """The products of every warp, which skips what its own rows do not meet."""
        rows = warp_tile(self.row_tile, self.shape.warp_rows)
        return TilePlan(problem.axes, rows, self.column_tile, self.shape.side)


@lru_cache(maxsize=1024)
def fused_forward_choice(
    problem: Problem, device: DeviceSpec, has_additional: bool = False
) -> FusedChoice:
    """The cheapest variant and tiles of forward, perhaps with keys beside the windows.

    Raises
    ------
    ValueError
        If no compiled shape has enough channels.
    """
    shapes = [s for s in FORWARD_SHAPES if s.takes_additional or not has_additional]
    return _cheapest(problem, device, shapes)


@lru_cache(maxsize=1024)
def fused_gradient_choices(problem: Problem, device: DeviceSpec) -> tuple[FusedChoice, ...]:
    """The passes of backward: over queries and then over keys, or one over keys for both.

    Raises
    ------
    ValueError
        If no compiled shape has enough channels.
    """
    lone = lone_gradient_choice(problem, device)
    passes = tuple(
        _cheapest(problem, device, [s for s in _TWO_PASSES if s.side == side])
        for side in ("query", "key")
    )
    if lone is None or problem.deterministic:
        return passes
    lone_us = gradient_time_us(problem, device, (lone,))
    return (lone,) if lone_us < gradient_time_us(problem, device, passes) else passes


def gradient_time_us(
    problem: Problem, device: DeviceSpec, passes: tuple[FusedChoice, ...]
) -> float:
    """Expected time of the passes of backward, with all that goes with them."""
    time_us = sum(chosen.time_us for chosen in passes)
    if len(passes) > 1:
        return time_us
    return time_us + moved_us(problem, device) + LAUNCH_US


def moved_us(problem: Problem, device: DeviceSpec) -> float:
    """Time for the bytes of queries' sums, which are cleared before, and read and rounded after."""
    queries = problem.batch * problem.heads * math.prod(problem.spatial)
    moved_bytes = queries * (problem.head_dim * (4 + 4 + 2) + problem.value_dim * 4)
    return moved_bytes / device.bytes_per_us


def fused_choices(problem: Problem, device: DeviceSpec, side: Pass) -> list[FusedChoice]:
    """Every tiling of a pass that the device holds, the cheapest first; none where it has none."""
    shapes = _fitting(problem, device, _SHAPES[side])
    return sorted(_tilings(problem, device, shapes), key=lambda choice: choice.time_us)


def lone_gradient_choice(problem: Problem, device: DeviceSpec) -> FusedChoice | None:
    """The cheapest pass over keys that gives all gradients; None where no shape serves."""
    return cheapest_tiling(problem, device, _SHAPES["both"])


def _fitting(
    problem: Problem, device: DeviceSpec, shapes: Sequence[FusedShape]
) -> list[FusedShape]:
    """Shapes of the fewest channels that hold a problem's, on a device that holds the shape."""
    fitting = [s for s in shapes if s.serves(problem) and s.smem_bytes <= device.smem_bytes]
    least = min((shape.head_dim for shape in fitting), default=0)
    fitting = [shape for shape in fitting if shape.head_dim == least]
    if problem.item_bytes != 4:
        return fitting
    # Small blocks are fast where a multiprocessor holds as many as they are compiled for.
    return [s for s in fitting if s.blocks * s.smem_bytes <= device.smem_bytes] or fitting


def is_served(problem: Problem, device: DeviceSpec, direction: str) -> bool:
    """Whether the device holds a shape for each pass of a direction."""
    passes = [_SHAPES["forward"]] if direction == "forward" else [_SHAPES["query"], _SHAPES["key"]]
    if direction == "backward" and problem.has_bias:
        passes.append(BIAS_SHAPES)
    return all(_fitting(problem, device, shapes) for shapes in passes)


def cheapest_tiling(
    problem: Problem, device: DeviceSpec, shapes: Sequence[FusedShape]
) -> FusedChoice | None:
    """The cheapest tiles of some shapes; None where none serves."""
    fitting = _fitting(problem, device, shapes)
    if not fitting:
        return None
    return min(_tilings(problem, device, fitting), key=lambda choice: choice.time_us)


def _cheapest(problem: Problem, device: DeviceSpec, shapes: Sequence[FusedShape]) -> FusedChoice:
    choice = cheapest_tiling(problem, device, shapes)
    if choice is None:
        channels = max(problem.head_dim, problem.value_dim)
        raise ValueError(f"no fused kernel has {channels} channels")
    return choice


def _tilings(
    problem: Problem, device: DeviceSpec, shapes: Sequence[FusedShape]
) -> Iterator[FusedChoice]:
    return (
        FusedChoice(shape, rows, columns, time_us(problem, device, shape, rows, columns))
        for shape in shapes
        for rows in _row_tiles(problem, shape.rows)
        for columns in _column_tiles(problem, rows, shape)
    )


def _row_tiles(problem: Problem, rows: int) -> list[tuple[int, ...]]:
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


def _column_tiles(
    problem: Problem, row_tile: tuple[int, ...], shape: FusedShape
) -> Iterator[tuple[int, ...]]:
    """Extents whose product fills at least three quarters of the columns, if the box allows it."""
    box = TilePlan(problem.axes, row_tile, row_tile, shape.side).largest_box
    along = [
        sorted({e for e in (*_COLUMN_EXTENTS, extent) if e <= min(extent, shape.columns)})
        for extent in box
    ]
    tiles = [t for t in itertools.product(*along) if math.prod(t) <= shape.columns]
    most = max(math.prod(tile) for tile in tiles)
    return (tile for tile in tiles if math.prod(tile) * 4 >= most * 3)
