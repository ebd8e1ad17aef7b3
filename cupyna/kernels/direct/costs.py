"""Problem + device -> shape and tiles of the direct kernels, by a cost model of their own.

A group of lanes takes a run of neighboring rows along the last axis, for one head; a block takes a
tile of runs for some heads, and goes through planes: tiles of heads of all batch entries.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from cupyna.geometry import Axis
from cupyna.problem import DeviceSpec, Operation, Problem
from cupyna.tiles import TilePlan

from .shapes import DIRECT_FORWARD_SHAPES, DIRECT_GRADIENT_SHAPES, DirectShape

__all__ = ["DirectChoice", "direct_passes", "direct_us", "pass_us"]

_WARP = 32
_MOST_GRID_ROWS = 65535
_MOST_TILES = 2**31 - 1

# Enough blocks for every multiprocessor to have its last one at about the same time, and how often
# what a block finds out about its rows serves at most.
_WAVES = 4
_MOST_PLANES_OF_BLOCK = 8

_CLOCKS_PER_US = 1700.0
_LAUNCH_US = 2.0
_ISSUES = 4  # instructions of a multiprocessor in a clock


@dataclass(frozen=True, slots=True)
class _Costs:
    """Instructions of a warp for a step of columns and for a run, and what else takes time.

    Parameters
    ----------
    step, run : float
        With all waiting, as if every instruction were issued at once.
    passes : float
        Over the arrays of forward.
    """

    step: float
    run: float
    passes: float


# By what a kernel gives, bytes of an element and rows of a run. Fitted to 69 problems of three head
# sizes measured on an H200, with root-mean-square errors of 5 to 7 %.
_COSTS = {
    (None, 2, 4): _Costs(305.0, 1790.0, 1.06),
    (None, 4, 4): _Costs(376.0, 2580.0, 1.06),
    ("query", 2, 2): _Costs(279.0, 1400.0, 1.68),
    ("query", 4, 2): _Costs(294.0, 1840.0, 1.68),
    ("key", 2, 2): _Costs(403.0, 1450.0, 1.56),
    ("key", 4, 2): _Costs(422.0, 1780.0, 1.56),
    ("key", 4, 4): _Costs(703.0, 3680.0, 1.56),
}

# What of that windows of so many axes take in float32, forward and backward, by the median of the
# sweep: without dilation neighbors find each other's columns in the first-level cache.
_NEAR_FLOAT32 = {1: (0.96, 0.915), 2: (0.95, 0.95), 3: (1.0, 1.0)}
_DILATED_FLOAT32 = {1: (1.0, 1.0), 2: (1.06, 1.06), 3: (1.06, 1.06)}


@dataclass(frozen=True, slots=True)
class AxisRuns:
    """Runs along one axis, group after group; the groups that are one token longer come first.

    Parameters
    ----------
    of_longer, of_shorter : int
        Runs of a group that is one token longer than others, and of one that is not.
    longer, groups : int
        Groups that are one token longer, and all groups.
    """

    of_longer: int
    of_shorter: int
    longer: int
    groups: int

    @classmethod
    def along(cls, axis: Axis, rows: int) -> AxisRuns:
        """Runs of `rows` rows."""
        least, longer = divmod(axis.length, axis.dilation)
        return cls(-(-(least + 1) // rows), -(-least // rows), longer, axis.dilation)

    @property
    def count(self) -> int:
        """Runs of all groups."""
        return self.longer * self.of_longer + (self.groups - self.longer) * self.of_shorter

    @property
    def fields(self) -> tuple[int, ...]:
        """As the kernels are told."""
        return (
            self.of_longer, self.of_shorter, self.longer, self.longer * self.of_longer, self.count
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class DirectChoice:
    """A compiled shape with the tiles it runs.

    Parameters
    ----------
    shape : DirectShape
        The variant.
    run_tile : tuple of int
        Runs of a block along each axis: powers of two.
    heads : int
        Heads of a block's tile: a power of two that divides those of the rows.
    time_us : float
        Expected time.
    """

    shape: DirectShape
    run_tile: tuple[int, ...]
    heads: int
    time_us: float = math.inf

    @property
    def row_tile(self) -> tuple[int, ...]:
        """Rows of one block."""
        return (*self.run_tile[:-1], self.run_tile[-1] * self.shape.rows)

    @property
    def column_tile(self) -> tuple[int, ...]:
        """Columns that a group of lanes takes at a time."""
        return (1,) * (len(self.run_tile) - 1) + (self.shape.columns,)

    def runs(self, problem: Problem) -> tuple[AxisRuns, ...]:
        """Runs along each axis."""
        return _runs(problem, self.shape)

    def tiles(self, problem: Problem) -> tuple[int, ...]:
        """Tiles along each axis, over all dilation groups."""
        return tuple(
            -(-runs.count // extent)
            for runs, extent in zip(self.runs(problem), self.run_tile, strict=True)
        )

    def planes(self, problem: Problem) -> int:
        """Tiles of heads of all batch entries."""
        return problem.batch * row_heads(problem, self.shape) // self.heads

    def sharers(self, problem: Problem) -> int:
        """Neighboring runs that ask for their columns ahead, for some each; 0 where none does.

        One line of columns with gaps between them is cold when a run begins: elsewhere columns are
        near, from runs before or lines before, and to ask costs more than it saves.
        """
        *others, last = problem.axes
        if last.dilation == 1 or any(axis.kernel_size > 1 for axis in others):
            return 0
        shared = min(last.kernel_size, last.length // last.dilation) // self.shape.rows
        return min(1 << max(shared.bit_length() - 1, 0), self.run_tile[-1])

    def grid(self, problem: Problem, device: DeviceSpec) -> tuple[int, int, int]:
        """Blocks of the launch."""
        tiles, planes = math.prod(self.tiles(problem)), self.planes(problem)
        spare = tiles * planes // (_WAVES * self.shape.blocks * device.processors)
        planes_of_block = min(max(spare, 1), _MOST_PLANES_OF_BLOCK)
        return tiles, min(-(-planes // planes_of_block), _MOST_GRID_ROWS), 1

    def products(self, problem: Problem) -> TilePlan:
        """The products of every run."""
        run = (1,) * (problem.rank - 1) + (self.shape.rows,)
        return TilePlan(problem.axes, run, self.column_tile, self.shape.side)


def _runs(problem: Problem, shape: DirectShape) -> tuple[AxisRuns, ...]:
    rows = (1,) * (problem.rank - 1) + (shape.rows,)
    return tuple(AxisRuns.along(*of) for of in zip(problem.axes, rows, strict=True))


def row_heads(problem: Problem, shape: DirectShape) -> int:
    """Heads of the rows."""
    return problem.heads if shape.side == "query" else problem.kv_heads


@lru_cache(maxsize=2048)
def direct_passes(
    problem: Problem, operation: Operation, device: DeviceSpec
) -> tuple[DirectChoice, ...] | None:
    """The kernels of forward or backward; None where no shape serves the problem."""
    if operation == "forward":
        passes = [_choice(problem, device, DIRECT_FORWARD_SHAPES)]
    else:
        passes = [
            _choice(problem, device, [s for s in DIRECT_GRADIENT_SHAPES if s.side == side])
            for side in ("query", "key")
        ]
    found = tuple(chosen for chosen in passes if chosen is not None)
    return found if len(found) == len(passes) else None


def direct_us(passes: tuple[DirectChoice, ...] | None) -> float:
    """What some passes are expected to take."""
    return math.inf if passes is None else sum(chosen.time_us for chosen in passes)


def _choice(
    problem: Problem, device: DeviceSpec, shapes: Sequence[DirectShape]
) -> DirectChoice | None:
    fitting = [shape for shape in shapes if shape.serves(problem)]
    if not fitting:
        return None
    least = min(shape.lanes for shape in fitting)
    choices = [tiled(problem, shape) for shape in fitting if shape.lanes == least]
    timed = [
        replace(choice, time_us=pass_us(problem, device, choice))
        for choice in choices
        if math.prod(choice.tiles(problem)) <= _MOST_TILES
    ]
    return min(timed, key=lambda choice: choice.time_us, default=None)


def tiled(problem: Problem, shape: DirectShape) -> DirectChoice:
    """A shape with the tile of runs that reads the fewest columns."""
    # A warp takes heads that lie together: whole lines of memory.
    heads = row_heads(problem, shape)
    heads = min(heads & -heads, _WARP // shape.lanes)
    groups = shape.groups // heads
    powers = [1 << i for i in range(groups.bit_length())]
    tiles = (t for t in itertools.product(powers, repeat=problem.rank) if math.prod(t) == groups)
    choices = (DirectChoice(shape, tile, heads) for tile in tiles)
    return min(choices, key=lambda choice: _columns_read(problem, choice))


def _columns_read(problem: Problem, choice: DirectChoice) -> float:
    """Columns of all tiles, those of a tile once, and more for runs that nobody has."""
    along = zip(
        problem.axes, choice.row_tile, choice.run_tile, choice.runs(problem),
        choice.tiles(problem), strict=True,
    )  # fmt: skip
    return math.prod(
        tiles
        * min(axis.group_length(0), rows + axis.kernel_size - 1)
        * (tiles * extent / runs.count)
        for axis, rows, extent, runs, tiles in along
    )


def pass_us(problem: Problem, device: DeviceSpec, choice: DirectChoice) -> float:
    """Expected time of one kernel: whatever takes longer of instructions and memory."""
    shape = choice.shape
    costs = _COSTS[shape.gradient, shape.item_bytes, shape.rows]
    counts = choice.products(problem).counts
    steps, all_runs = (
        problem.batch * problem.heads * count * shape.lanes / _WARP
        for count in (counts.box_tiles, counts.tiles)
    )
    clocks = (steps * costs.step + all_runs * costs.run) / _ISSUES
    blocks = math.prod(choice.tiles(problem)) * choice.planes(problem)
    waves = max(1.0, device.processors / blocks)
    issue_us = clocks * waves / device.processors / _CLOCKS_PER_US
    bytes_us = costs.passes * problem.least_bytes / device.bytes_per_us
    # Near each other, both are felt.
    return _LAUNCH_US + _share(problem, choice) * math.sqrt(math.hypot(issue_us**2, bytes_us**2))


def _share(problem: Problem, choice: DirectChoice) -> float:
    if problem.item_bytes != 4:
        return 1.0
    shares = _DILATED_FLOAT32 if max(problem.dilation) > 1 else _NEAR_FLOAT32
    return shares[problem.rank][choice.shape.gradient is not None]
