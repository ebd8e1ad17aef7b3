"""The compiled shapes of the direct kernels: how a group of lanes divides its work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cupyna.problem import Problem

from ..variant import Variant

__all__ = ["DIRECT_FORWARD_SHAPES", "DIRECT_GRADIENT_SHAPES", "THREADS", "DirectShape"]

THREADS = 128
_LANE_CHANNELS = 8


@dataclass(frozen=True, slots=True)
class DirectShape:
    """One way to divide the work.

    Parameters
    ----------
    item_bytes : int
        Of an element.
    lanes : int
        Threads that share a row, eight channels each: a power of two.
    rows : int
        Neighboring rows that they take together.
    columns : int
        Columns that they take at a time.
    blocks : int
        Blocks that one multiprocessor holds; bounds the registers.
    gradient : {"query", "key"}, optional
        Whose gradients it gives; by default it is forward.
    """

    item_bytes: int
    lanes: int
    rows: int
    columns: int
    blocks: int
    gradient: Literal["query", "key"] | None = None

    @property
    def side(self) -> Literal["query", "key"]:
        """What rows are."""
        return self.gradient or "query"

    @property
    def products(self) -> int:
        """Products of each pair of tokens."""
        return {None: 2, "query": 3, "key": 4}[self.gradient]

    @property
    def groups(self) -> int:
        """Runs of rows that a block takes at a time."""
        return THREADS // self.lanes

    def serves(self, problem: Problem) -> bool:
        """Whether it has the elements and the channels of a problem."""
        channels = max(problem.head_dim, problem.value_dim)
        return problem.item_bytes == self.item_bytes and channels <= self.lanes * _LANE_CHANNELS

    def variant(self, problem: Problem) -> Variant:
        """The manifest's row for a problem."""
        return self.row(problem.dtype)

    def row(self, dtype: str) -> Variant:
        """The manifest's row of a dtype."""
        side = () if self.gradient is None else (("SIDE", int(self.gradient == "key")),)
        sizes = (("LANES", self.lanes), ("ROWS", self.rows), ("COLUMNS", self.columns))
        return Variant(
            "direct_forward" if self.gradient is None else "direct_gradient",
            dtype,
            0,
            threads=THREADS,
            defines=(*side, *sizes, ("BLOCKS", self.blocks)),
        )


_LANES = (4, 8, 16)

_SIDES: tuple[tuple[Literal["query", "key"], int], ...] = (("query", 4), ("key", 3))

# More rows are fewer reads and shuffles for each pair, and more pairs that nobody wants.
DIRECT_FORWARD_SHAPES = tuple(
    DirectShape(item_bytes, lanes, rows=4, columns=2, blocks=blocks)
    for item_bytes, blocks in ((2, 4), (4, 3))
    for lanes in _LANES
)

DIRECT_GRADIENT_SHAPES = (
    *(
        DirectShape(item_bytes, lanes, rows=2, columns=2, blocks=blocks, gradient=side)
        for side, blocks in _SIDES
        for item_bytes in (2, 4)
        for lanes in _LANES
    ),
    # Four keys to a run take a tenth less where windows have many keys along the last axis, and
    # where groups are short.
    *(DirectShape(4, lanes, rows=4, columns=2, blocks=2, gradient="key") for lanes in (8, 16)),
)
