"""Problem + device -> tiles and slabs of the gemm kernels, by a cost model.

Pure functions: the same problem on the same figures always gives the same choice.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

from cupyna.problem import DeviceSpec, Problem
from cupyna.tiles import TilePlan

from ..variant import STATIC_SMEM_BYTES
from .costs import CLOCKS_PER_US, COSTS, FLOAT64_SCALE, ROW_STORE, TF32_SCALE
from .shapes import (
    MOST_SLAB_ROWS,
    ROWS,
    SMEM_BYTES,
    WARP_ROWS,
    WARPS,
    channels_of,
    chunk_of,
    resident_blocks,
    row_bytes,
    stage_bytes,
)

__all__ = [
    "COMPACT", "SIDES", "Cut", "GemmPlan", "Kind", "Side", "blocks_on_device", "gemm_plan",
    "smem_bytes",
]  # fmt: skip

Side = Literal["query", "key"]
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
_ROWS: dict[Kind, int] = {"query_rows": 1, "key_rows": 2}
_GRADIENTS: tuple[Kind, ...] = ("gradients", *_ROWS)

# Kernels that read or write rows of slots.
COMPACT: tuple[Kind, ...] = ("scores", "score_gradients", "outputs", "inverse")

# Bytes of a row's place in a slab.
_OFFSET = 8

# Slabs that are worth a choice, in rows.
_SLAB_ROWS = (16, 32, 48, 64, 96, 128, 192, 256, 384, MOST_SLAB_ROWS)


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
        plan, _ = _boxes(problem, self.side, self.tile)
        return math.prod(plan.largest_box) * plan.counts.tiles / plan.counts.box_tokens

    def _warps(self, problem: Problem) -> int:
        tiles = TilePlan(problem.axes, self.tile, problem.spatial, self.side).counts.tiles
        return problem.batch * problem.heads * tiles * WARPS

    @cached_property
    def tile(self) -> tuple[int, ...]:
        """Tokens of a block along each axis."""
        return tuple(a * b for a, b in zip(self.warp_tile, self.warps, strict=True))


@lru_cache(maxsize=4096)
def gemm_plan(problem: Problem, device: DeviceSpec, kind: Kind, channels: int) -> GemmPlan:
    """The cheapest tiles and slabs of a product whose rows have `channels` channels.

    Raises
    ------
    ValueError
        If no tile fits the shared memory of a block.
    """
    plans = list(_plans(problem, device, kind, channels))
    if not plans:
        raise ValueError(
            f"rows of {channels} channels in {problem.dtype} are too long: a block needs "
            f"{_least_smem_bytes(problem, kind)} bytes of shared memory and has "
            f"{_budget(device)}"
        )
    return min(plans, key=lambda plan: plan.time_us)


def _least_smem_bytes(problem: Problem, kind: Kind) -> int:
    rows = _SLAB_ROWS[0]
    return smem_bytes(problem, kind, Cut(0, rows, rows, 1, 1, 1, 1), 1)


def smem_bytes(problem: Problem, kind: Kind, cut: Cut, stages: int) -> int:
    """Shared memory that a launch of a product asks for."""
    slab_rows = cut.slab_rows
    size = problem.item_bytes
    if kind in _PARTS:
        parts = {part for part, _ in _parts(problem, kind, 0)}
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
    if kind == "score_gradients" or kind in _GRADIENTS:
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


# Kernels that meet on the same tiles, and whether they have the values' channels.
_PARTS: dict[Kind, tuple[tuple[Kind, bool], ...]] = {
    "forward": (("weights", False), ("values", True)),
    "query_gradients": (("gradients", False), ("values", False)),
    "key_gradients": (("gradients", False), ("values", True), ("values", False)),
}


def _parts(problem: Problem, kind: Kind, channels: int) -> list[tuple[Kind, int]]:
    """The kernels of a kind, each with its channels."""
    if kind not in _PARTS:
        return [(kind, channels)]
    dims = (problem.head_dim, problem.value_dim)
    return [(part, dims[of_values]) for part, of_values in _PARTS[kind]]


def _side_of(kind: Kind) -> Side:
    return "key" if kind in ("inverse", "key_gradients", "key_rows") else "query"


def _budget(device: DeviceSpec) -> int:
    return min(SMEM_BYTES, device.smem_bytes - STATIC_SMEM_BYTES)


def _plans(problem: Problem, device: DeviceSpec, kind: Kind, channels: int) -> Iterator[GemmPlan]:
    for warp_tile, warps in _tiles(problem):
        cuts = {_cut(problem, _side_of(kind), warp_tile, warps, rows) for rows in _SLAB_ROWS}
        for cut in cuts:
            if cut.slab_rows > MOST_SLAB_ROWS:
                continue
            # One stage leaves room for more blocks, two overlap copies with products.
            fewest = min(cut.slabs, 2) if kind in COMPACT else 1
            for stages in {fewest, fewest if kind in COMPACT else 2}:
                smem = smem_bytes(problem, kind, cut, stages)
                if smem > _budget(device):
                    continue
                time_us = sum(
                    _time_us(
                        problem, device, part, of_part, _side_of(kind), warp_tile, warps, cut,
                        stages, smem_bytes(problem, part, cut, stages),
                    )
                    for part, of_part in _parts(problem, kind, channels)
                )  # fmt: skip
                yield GemmPlan(
                    problem.axes, _side_of(kind), kind in _ROWS, warp_tile, warps, cut, stages,
                    smem, time_us,
                )  # fmt: skip


def _tiles(problem: Problem) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Warps' tiles and blocks' warps; none twice as long as its axis if that can be."""
    tiles = list(itertools.product(_powers(WARP_ROWS, problem.rank), _powers(WARPS, problem.rank)))
    lengths = [axis.group_length(0) for axis in problem.axes]
    fitting = [
        (tile, warps)
        for tile, warps in tiles
        if all(
            extent * count < 2 * length or extent * count == 1
            for extent, count, length in zip(tile, warps, lengths, strict=True)
        )
    ]
    return fitting or tiles


def _powers(product: int, rank: int) -> list[tuple[int, ...]]:
    powers = [1 << i for i in range(product.bit_length())]
    return [t for t in itertools.product(powers, repeat=rank) if math.prod(t) == product]


@lru_cache(maxsize=4096)
def _boxes(problem: Problem, side: Side, tile: tuple[int, ...]) -> tuple[TilePlan, tuple[int, ...]]:
    plan = TilePlan(problem.axes, tile, problem.spatial, side)
    box = plan.largest_box
    if side == "query":
        # Windows that shrink keep their slots.
        box = tuple(max(*pair) for pair in zip(box, problem.kernel_size, strict=True))
    return plan, box


def _cut(
    problem: Problem,
    side: Side,
    warp_tile: tuple[int, ...],
    warps: tuple[int, ...],
    rows: int,
) -> Cut:
    tile = tuple(a * b for a, b in zip(warp_tile, warps, strict=True))
    _, box = _boxes(problem, side, tile)
    _, own = _boxes(problem, side, warp_tile)
    split = len(box) - 1
    after = 1
    while split > 0 and after * box[split] <= rows:
        after *= box[split]
        split -= 1
    most = max(1, rows // after)
    slabs = -(-box[split] // most)
    slab = -(-box[split] // slabs)
    before = math.prod(box[:split])
    columns = min(slab, own[split]) * math.prod(own[split + 1 :])
    # A part of one slab, or both ends of it in slabs of others.
    met = math.prod(own[:split]) * (-(-own[split] // slab) + 1 if slabs > 1 else 1)
    return Cut(
        split=split,
        slab=slab,
        slab_rows=slab * after,
        slabs=slabs * before,
        chunks=met * -(-columns // chunk_of(problem.item_bytes)),
        groups=met * -(-columns // 16),
        part_groups=-(-columns // 16),
    )


def _time_us(
    problem: Problem,
    device: DeviceSpec,
    kind: Kind,
    channels: int,
    side: Side,
    warp_tile: tuple[int, ...],
    warps: tuple[int, ...],
    cut: Cut,
    stages: int,
    smem: int,
) -> float:
    costs = COSTS["gradients" if kind in _ROWS else kind, min(problem.item_bytes, 4)]
    tile = tuple(a * b for a, b in zip(warp_tile, warps, strict=True))
    plan, box = _boxes(problem, side, tile)
    _, own = _boxes(problem, side, warp_tile)
    chunks, groups = _warp_work(problem, own, warp_tile, warps, cut.split, cut.slab)
    slabs = math.prod(box[: cut.split]) * -(-box[cut.split] // cut.slab)
    rows = plan.counts.box_tokens / plan.counts.tiles
    width = channels
    if kind == "score_gradients" or kind in _GRADIENTS:
        width = problem.head_dim + problem.value_dim
    channel_blocks = 1
    if kind in ("outputs", "inverse", "values"):
        of_block = channels_of(problem.dtype, channels)
        channel_blocks = -(-channels // of_block)
        width = min(width, of_block)
    product = costs.product
    if problem.item_bytes == 8:
        product *= FLOAT64_SCALE
    elif problem.item_bytes == 4 and problem.allow_tf32:
        product *= TF32_SCALE
    clocks = (
        costs.tile
        + (costs.slab + (costs.alone if stages == 1 else 0)) * slabs
        + costs.chunk * chunks
        + (costs.group + product * width / 64) * groups
        + costs.copy * rows * width * problem.item_bytes / 256
    )
    if kind in _ROWS:
        of_sums = COSTS["values", min(problem.item_bytes, 4)]
        each = (of_sums.group + of_sums.product * channels / 64) * groups / 2
        clocks += _ROWS[kind] * (ROW_STORE + each)
    blocks = problem.batch * problem.heads * plan.counts.tiles * channel_blocks
    resident = blocks_on_device(problem, device, kind, channels, smem) // device.processors
    waves = max(1.0, device.processors / blocks)
    clocks *= blocks * waves / device.processors / resident**costs.overlap
    return float(clocks / CLOCKS_PER_US)


def blocks_on_device(
    problem: Problem, device: DeviceSpec, kind: Kind, channels: int, smem: int
) -> int:
    """Blocks of threads that run at once."""
    room = device.smem_bytes // (smem + STATIC_SMEM_BYTES)
    return max(1, min(room, resident_blocks(kind, problem.dtype, channels))) * device.processors


@lru_cache(maxsize=4096)
def _warp_work(
    problem: Problem,
    own: tuple[int, ...],
    warp_tile: tuple[int, ...],
    warps: tuple[int, ...],
    split: int,
    slab: int,
) -> tuple[int, int]:
    """Chunks, and groups of 16 columns, that a block's warps take away from borders.

    Warps wait for each other at every slab: the one that takes most of it counts.
    """
    chunk = chunk_of(problem.item_bytes)
    before, after = math.prod(own[:split]), math.prod(own[split + 1 :])
    begins = [warp * warp_tile[split] for warp in range(warps[split])]
    chunks = groups = 0
    for first in range(0, begins[-1] + own[split], slab):
        columns = after * max(
            min(begin + own[split], first + slab) - max(begin, first) for begin in begins
        )
        chunks += -(-columns // chunk)
        groups += -(-columns // 16)
    return chunks * before, groups * before
