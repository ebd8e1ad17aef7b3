"""How one product of the gemm method is cut: its kind, its tiles, and the slabs of their boxes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

from cupyna.problem import Problem
from cupyna.tiles import Side, TilePlan

from .shapes import ROWS, WARP_ROWS, WARPS, channels_of, chunk_of, row_bytes, stage_bytes

__all__ = [
    "COMPACT", "GRADIENTS", "ROW_KINDS", "SIDES", "Cut", "GemmPlan", "Kind", "boxes_of",
    "parts_of", "side_of", "smem_bytes",
]  # fmt: skip

SIDES: tuple[Side, ...] = ("query", "key")

# The products, as the kernels are. On rows of slots: query x box with and without the gradient,
# weights x box, and weights^T x inverse box. On fragments: weights of forward, both sides'
# gradients, and fragments x box; those that share fragments share their tiles. Last, rows of either
# side's gradients from one kernel, whose fragments never leave it.
Kind = Literal[
    "scores", "score_gradients", "outputs", "inverse",
    "weights", "gradients", "values",
    "forward", "query_gradients", "key_gradients", "query_rows", "key_rows",
]  # fmt: skip


# A kernel of rows does beside its gradients what the product with fragments does: once, or twice.
ROW_KINDS: dict[Kind, int] = {"query_rows": 1, "key_rows": 2}
GRADIENTS: tuple[Kind, ...] = ("gradients", *ROW_KINDS)

# Kernels that read or write rows of slots.
COMPACT: tuple[Kind, ...] = ("scores", "score_gradients", "outputs", "inverse")

# Kernels that meet on the same tiles, and whether they have the values' channels.
_PARTS: dict[Kind, tuple[tuple[Kind, bool], ...]] = {
    "forward": (("weights", False), ("values", True)),
    "query_gradients": (("gradients", False), ("values", False)),
    "key_gradients": (("gradients", False), ("values", True), ("values", False)),
}

# Bytes of a row's place in a slab.
_OFFSET = 8


@dataclass(frozen=True, slots=True)
class Cut:
    """How the box of a tile is cut into slabs.

    Parameters
    ----------
    split : int
        The axis that slabs are cut along; a slab has one position along axes before it.
    slab : int
        Positions of a slab along that axis.
    slab_rows : int
        Most tokens of a slab.
    slabs : int
        Most slabs of a box.
    chunks : int
        Most chunks of columns that one warp takes.
    groups, part_groups : int
        Most groups of 16 columns that one warp takes, and of one slab.
    """

    split: int
    slab: int
    slab_rows: int
    slabs: int
    chunks: int
    groups: int
    part_groups: int


@dataclass(frozen=True)
class GemmPlan:
    """How one product is cut.

    Parameters
    ----------
    axes : tuple
        The grid.
    side : {"query", "key"}
        Whose tokens the tiles cut.
    leaves_rows : bool
        Whether it is a kernel whose fragments stay in registers.
    warp_tile, warps : tuple of int
        Tokens of a warp along each axis, and warps of a block.
    cut : Cut
        The slabs of a box.
    stages : int
        Slabs that shared memory holds.
    smem_bytes : int
        Shared memory of a block.
    time_us : float
        Expected time.
    """

    axes: tuple[object, ...]
    side: Side
    leaves_rows: bool
    warp_tile: tuple[int, ...]
    warps: tuple[int, ...]
    cut: Cut
    stages: int
    smem_bytes: int
    time_us: float

    def fragment_bytes(self, problem: Problem) -> int:
        """Memory of the fragments that one kernel leaves for another."""
        if self.leaves_rows:
            return 0
        return self._warps(problem) * self.cut.groups * 16 * WARP_ROWS * problem.item_bytes

    def maxima(self, problem: Problem) -> int:
        """Numbers that stand beside the fragments of forward: maxima by chunk, and sums."""
        return self._warps(problem) * (self.cut.chunks + 1) * WARP_ROWS

    def computed_products(self, problem: Problem) -> int:
        """Pairs of a query and a key that the tiles evaluate."""
        counts = TilePlan(problem.axes, self.warp_tile, problem.spatial, self.side).counts
        return problem.batch * problem.heads * counts.box_tokens * WARP_ROWS

    def box(self, problem: Problem) -> tuple[int, ...]:
        """The largest box of a tile."""
        return TilePlan(problem.axes, self.tile, problem.spatial, self.side).largest_box

    def spread(self, problem: Problem) -> float:
        """Tokens of the largest box beside the mean: keys at a border are seen from far."""
        plan, _ = boxes_of(problem, self.side, self.tile)
        return math.prod(plan.largest_box) * plan.counts.tiles / plan.counts.box_tokens

    def _warps(self, problem: Problem) -> int:
        tiles = TilePlan(problem.axes, self.tile, problem.spatial, self.side).counts.tiles
        return problem.batch * problem.heads * tiles * WARPS

    @cached_property
    def tile(self) -> tuple[int, ...]:
        """Tokens of a block along each axis."""
        return tuple(a * b for a, b in zip(self.warp_tile, self.warps, strict=True))


def parts_of(problem: Problem, kind: Kind, channels: int) -> list[tuple[Kind, int]]:
    """The kernels of a kind, each with its channels."""
    if kind not in _PARTS:
        return [(kind, channels)]
    dims = (problem.head_dim, problem.value_dim)
    return [(part, dims[of_values]) for part, of_values in _PARTS[kind]]


def side_of(kind: Kind) -> Side:
    """Whose tokens the tiles of a kind cut."""
    return "key" if kind in ("inverse", "key_gradients", "key_rows") else "query"


@lru_cache(maxsize=4096)
def boxes_of(
    problem: Problem, side: Side, tile: tuple[int, ...]
) -> tuple[TilePlan, tuple[int, ...]]:
    """The boxes of tiles, and the largest extents that columns are laid out for."""
    plan = TilePlan(problem.axes, tile, problem.spatial, side)
    box = plan.largest_box
    if side == "query":
        # Windows that shrink keep their slots.
        box = tuple(max(*pair) for pair in zip(box, problem.kernel_size, strict=True))
    return plan, box


def smem_bytes(problem: Problem, kind: Kind, cut: Cut, stages: int) -> int:
    """Shared memory that a launch of a product asks for."""
    slab_rows = cut.slab_rows
    size = problem.item_bytes
    if kind in _PARTS:
        parts = {part for part, _ in parts_of(problem, kind, 0)}
        return max(smem_bytes(problem, part, cut, stages) for part in parts)
    if kind in ("outputs", "inverse", "values"):
        # Either product of backward, and forward's: the longer rows decide.
        channels = max(problem.head_dim, problem.value_dim)
        width = channels_of(problem.dtype, channels)
        # Products run over all channels of a block of threads, or over half of them.
        row = row_bytes(width if channels > width // 2 else width // 2, size)
        if kind != "values":
            return stages * slab_rows * row + (2 * stage_bytes(size) if kind == "outputs" else 0)
        blocks = cut.part_groups * 16 * WARP_ROWS * size
        chunks = -(-cut.part_groups * 16 // chunk_of(size))
        maxima = chunks * WARP_ROWS * max(size, 4)
        totals = WARP_ROWS * max(size, 4)
        stage = slab_rows * row + WARPS * (blocks + maxima + totals)
        return stages * stage + _OFFSET * slab_rows
    if kind == "score_gradients" or kind in GRADIENTS:
        both = row_bytes(problem.head_dim, size) + row_bytes(problem.value_dim, size)
        if kind == "score_gradients":
            return (ROWS + stages * slab_rows) * both + 2 * stage_bytes(size)
        # Statistics of the queries of a slab, two numbers each.
        statistics = -(-slab_rows // 2) * 16
        return stages * ((ROWS + slab_rows) * both + statistics) + _OFFSET * (
            3 * slab_rows + 2 * ROWS
        )
    if kind == "weights":
        row = row_bytes(problem.head_dim, size)
        return stages * (ROWS + slab_rows) * row + _OFFSET * (slab_rows + ROWS)
    # Scores of queries and keys, or gradients of weights from values.
    row = row_bytes(max(problem.head_dim, problem.value_dim), size)
    return (ROWS + stages * slab_rows) * row + stage_bytes(size)
