"""Random problems: sizes and options that no kernel was tuned for.

The sweep's grids are powers of two and fill a GPU. What people call with often is neither.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from random import Random

from .row import Row

__all__ = ["random_rows"]

_COUNT = 150
_SEED = 1

_HEAD_DIMS = (32, 32, 64, 64, 64, 128, 128, 128, 96, 256, 80, 192, 48)
_MOST_KEYS = {1: 4096, 2: 80, 3: 24}  # along an axis, by how many there are

# Operations of forward, and bytes of an array in 16 bits: more than a launch, less than a minute of
# whatever is slow.
_LEAST_FLOPS, _MOST_FLOPS = 2e8, 3e12
_MOST_BYTES = 1.5e8


def random_rows() -> Iterator[Row]:
    """The same problems every time."""
    random = Random(_SEED)
    left = _COUNT
    while left:
        row = _draw(random)
        if row is not None:
            left -= 1
            yield row


def _draw(random: Random) -> Row | None:
    """One problem; None where an axis is too short to be dilated so, or the work out of bounds."""
    spatial = _grid(random)
    rank = len(spatial)
    ones = (1,) * rank
    head_dim = random.choice(_HEAD_DIMS)
    dilation = ones
    if random.random() < 0.35:
        dilation = tuple(random.choice((1, 1, 1, 1, 2, 3, 4)) for _ in spatial)
    kernel_size = []
    for length, gap in zip(spatial, dilation, strict=True):
        if length // gap < 2:
            return None
        most = math.log2(min(length // gap, _MOST_KEYS[rank]))
        kernel_size.append(min(length // gap, max(2, int(2 ** random.uniform(1, most)))))
    stride = ones
    if random.random() < 0.3:
        stride = tuple(
            random.randint(1, size) if random.random() < 0.5 else 1 for size in kernel_size
        )
    is_causal = (False,) * rank
    if random.random() < 0.2:
        is_causal = tuple(random.random() < 0.6 for _ in spatial)
    tokens = math.prod(spatial)
    planes = max(1, int(2 ** random.uniform(21.5, 25) / tokens / head_dim))
    heads = min(planes, random.choice((2, 4, 8, 12, 16, 24)))
    batch = max(1, planes // heads)
    elements = batch * heads * tokens * head_dim
    if not _LEAST_FLOPS <= 4 * elements * math.prod(kernel_size) <= _MOST_FLOPS:
        return None
    if 2 * elements > _MOST_BYTES:
        return None
    kv_heads = heads // 2 if heads % 2 == 0 and random.random() < 0.15 else heads
    row = Row(
        "random", "", batch, heads, head_dim, spatial, tuple(kernel_size), stride, dilation,
        is_causal, kv_heads=kv_heads,
    )  # fmt: skip
    return replace(row, name=_name(row))


def _grid(random: Random) -> tuple[int, ...]:
    rank = random.choice((1, 1, 2, 2, 2, 3, 3))
    if rank == 1:
        return (int(2 ** random.uniform(9, 16)),)
    if rank == 2:
        height = int(2 ** random.uniform(3.8, 8))
        return height, max(8, int(height * 2 ** random.uniform(-1, 1)))
    return tuple(max(4, int(2 ** random.uniform(2.3, 5.6))) for _ in range(rank))


def _name(row: Row) -> str:
    """Such as ``2x8x64 40x30, window 7x5, dilation 1x2``."""
    heads = f"{row.heads}" if row.kv_heads == row.heads else f"{row.heads}/{row.kv_heads}"
    parts = [f"{row.batch}x{heads}x{row.head_dim} {_times(row.spatial)}"]
    parts.append(f"window {_times(row.kernel_size)}")
    parts += [
        f"{what} {_times(values)}"
        for what, values in (("stride", row.stride), ("dilation", row.dilation))
        if max(values) > 1
    ]
    if any(row.is_causal):
        parts.append(f"causal {_times(map(int, row.is_causal))}")
    return ", ".join(parts)


def _times(values: Iterable[int]) -> str:
    return "x".join(map(str, values))
