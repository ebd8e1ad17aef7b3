"""Problem + device -> tiles and slabs of the gemm kernels, by a cost model.

Pure functions: the same problem on the same figures always gives the same choice.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from functools import lru_cache

from cupyna.problem import DeviceSpec, Problem
from cupyna.tiles import Side

from ..variant import STATIC_SMEM_BYTES
from .plan import (
    COMPACT,
    ROW_KINDS,
    Cut,
    GemmPlan,
    Kind,
    boxes_of,
    parts_of,
    side_of,
    smem_bytes,
)
from .shapes import MOST_SLAB_ROWS, SMEM_BYTES, WARP_ROWS, WARPS, chunk_of
from .tile_costs import product_us

__all__ = ["gemm_plan"]

# Slabs that are worth a choice, in rows.
_SLAB_ROWS = (16, 32, 48, 64, 96, 128, 192, 256, 384, MOST_SLAB_ROWS)


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


def _budget(device: DeviceSpec) -> int:
    return min(SMEM_BYTES, device.smem_bytes - STATIC_SMEM_BYTES)


def _plans(problem: Problem, device: DeviceSpec, kind: Kind, channels: int) -> Iterator[GemmPlan]:
    for warp_tile, warps in _tiles(problem):
        cuts = {_cut(problem, side_of(kind), warp_tile, warps, rows) for rows in _SLAB_ROWS}
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
                    product_us(
                        problem, device, part, of_part, side_of(kind), warp_tile, warps, cut,
                        stages, smem_bytes(problem, part, cut, stages),
                    )
                    for part, of_part in parts_of(problem, kind, channels)
                )  # fmt: skip
                yield GemmPlan(
                    problem.axes, side_of(kind), kind in ROW_KINDS, warp_tile, warps, cut, stages,
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


def _cut(
    problem: Problem,
    side: Side,
    warp_tile: tuple[int, ...],
    warps: tuple[int, ...],
    rows: int,
) -> Cut:
    tile = tuple(a * b for a, b in zip(warp_tile, warps, strict=True))
    _, box = boxes_of(problem, side, tile)
    _, own = boxes_of(problem, side, warp_tile)
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
