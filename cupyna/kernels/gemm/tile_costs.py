"""What a product of the gemm method costs with given tiles, by a model in clocks."""

from __future__ import annotations

import math
from functools import lru_cache

from cupyna.problem import DeviceSpec, Problem
from cupyna.tiles import Side

from ..variant import STATIC_SMEM_BYTES
from .costs import CLOCKS_PER_US, COSTS, FLOAT64_SCALE, ROW_STORE, TF32_SCALE
from .plan import GRADIENTS, ROW_KINDS, Cut, Kind, boxes_of
from .shapes import channels_of, chunk_of, resident_blocks

__all__ = ["blocks_on_device", "product_us"]


def product_us(
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
    """Expected time of a kernel whose rows have `channels` channels."""
    costs = COSTS["gradients" if kind in ROW_KINDS else kind, min(problem.item_bytes, 4)]
    tile = tuple(a * b for a, b in zip(warp_tile, warps, strict=True))
    plan, box = boxes_of(problem, side, tile)
    _, own = boxes_of(problem, side, warp_tile)
    chunks, groups = _warp_work(problem, own, warp_tile, warps, cut.split, cut.slab)
    slabs = math.prod(box[: cut.split]) * -(-box[cut.split] // cut.slab)
    rows = plan.counts.box_tokens / plan.counts.tiles
    width = channels
    if kind == "score_gradients" or kind in GRADIENTS:
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
    if kind in ROW_KINDS:
        of_sums = COSTS["values", min(problem.item_bytes, 4)]
        each = (of_sums.group + of_sums.product * channels / 64) * groups / 2
        clocks += ROW_KINDS[kind] * (ROW_STORE + each)
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
