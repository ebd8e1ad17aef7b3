"""The compiled shapes of the gemm kernels, and the shared memory that a launch of one asks for."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from cupyna.problem import Problem

from ..variant import Variant

__all__ = [
    "MOST_SLAB_ROWS",
    "ROWS",
    "SMEM_BYTES",
    "WARPS",
    "WARP_ROWS",
    "channels_of",
    "chunk_of",
    "gemm_variant",
    "gemm_variants",
    "is_tight",
    "keeps_fragments",
    "resident_blocks",
    "row_bytes",
    "row_channels_of",
    "row_slots",
    "stage_bytes",
]

# As in cuda_src/mainloop/gemm/tile.cuh: a warp's rows, and warps of a block.
WARP_ROWS = 16
WARPS = 4
ROWS = WARPS * WARP_ROWS

# Coordinates of a slab fit their fields, and its rows the division of slots.cuh.
MOST_SLAB_ROWS = 510

# Most that a launch asks for, where a device has it.
SMEM_BYTES = 216 * 1024

_THREADS = 32 * WARPS
_BIAS_THREADS = 512

# Channels of one block's outputs. Sums of all channels stay in registers: more blocks of threads
# fit where there are fewer.
_CHANNELS = {"float16": (64, 128), "bfloat16": (64, 128), "float32": (64,), "float64": (64,)}


def gemm_variants() -> Iterator[Variant]:
    """Every row of the manifest that belongs to the method."""
    for dtype, widths in _CHANNELS.items():
        yield gemm_variant("gemm_scores", dtype)
        yield gemm_variant("gemm_score_gradients", dtype)
        yield gemm_variant("gemm_weights", dtype)
        if dtype != "float64":
            yield gemm_variant("gemm_gradients", dtype, keys=0)
            yield gemm_variant("gemm_gradients", dtype, keys=1)
        for keys, channels in itertools.product((0, 1), (64, 128)):
            if row_channels_of(dtype, channels, channels, keys):
                for tf32 in (1, 3) if is_tight(dtype, channels, keys) else (None,):
                    yield gemm_variant("gemm_row_gradients", dtype, channels, keys, tf32)
        for channels in widths:
            yield gemm_variant("gemm_values", dtype, channels)
            yield gemm_variant("gemm_outputs", dtype, channels)
            yield gemm_variant("gemm_inverse", dtype, channels)
        yield gemm_variant("gemm_bias_gradient", dtype)


def channels_of(dtype: str, channels: int) -> int:
    """Channels of one block's outputs, for rows of `channels`."""
    widths = _CHANNELS[dtype]
    return next((width for width in widths if width >= channels), widths[-1])


def row_channels_of(dtype: str, head_dim: int, value_dim: int, keys: int) -> int:
    """Channels of the kernel whose factors of gradients stay in registers; 0 where none serves.

    Rows have all of its channels or half of them. Tiles of keys have sums of two gradients.
    """
    if dtype == "float64":
        return 0
    longest = max(head_dim, value_dim)
    width = 64 if longest <= 64 else 128
    serves = all(channels in (width // 2, width) for channels in (head_dim, value_dim))
    return width if serves else 0


def is_tight(dtype: str, channels: int, keys: int) -> bool:
    """Whether rows of gradients leave registers for one way only to multiply float32."""
    return dtype == "float32" and channels > 64 and keys == 1


def gemm_variant(
    family: str, dtype: str, channels: int = 0, keys: int | None = None, tf32: int | None = None
) -> Variant:
    """A row of the manifest; `channels` for the families whose outputs have them."""
    if family == "gemm_bias_gradient":
        return Variant(family, dtype, 0, threads=_BIAS_THREADS, defines=(("BLOCKS", 2),))
    defines: tuple[tuple[str, int], ...] = (("CHANNELS", channels),) if channels else ()
    if keys is not None:
        defines = (*defines, ("KEYS", keys))
    if tf32 is not None:
        defines = (*defines, ("TF32", tf32))
    defines = (*defines, ("BLOCKS", _blocks(family, dtype, channels)))
    return Variant(
        family, dtype, 0, threads=_THREADS, smem_bytes=SMEM_BYTES, defines=defines, is_elastic=True
    )


def _blocks(family: str, dtype: str, channels: int) -> int:
    """Blocks that one multiprocessor is to hold: as many as have registers enough."""
    if dtype == "float64" or family == "gemm_score_gradients":
        return 2
    if family == "gemm_weights":
        return 4
    if family == "gemm_row_gradients":
        return 3 if dtype != "float32" and channels <= 64 else 2
    if family == "gemm_values":
        return 3 if dtype == "float32" or channels > 64 else 4
    if dtype == "float32" and channels:
        return 2
    if channels > 64 or family in ("gemm_scores", "gemm_gradients") or dtype == "float32":
        return 3
    return 4


def resident_blocks(kind: str, dtype: str, channels: int) -> int:
    """Blocks of threads that a multiprocessor holds by the registers of one of the products."""
    if kind in ("query_rows", "key_rows"):
        return _blocks("gemm_row_gradients", dtype, channels)
    is_wide = kind in ("outputs", "inverse", "values")
    width = channels_of(dtype, channels) if is_wide else 0
    return _blocks(f"gemm_{kind}", dtype, width)


def row_bytes(channels: int, item_bytes: int) -> int:
    """Bytes of a row of channels in shared memory: GemmTile::pitch_of of the sources."""
    unit, pad = 32 if item_bytes == 2 else 64, 32 if item_bytes == 8 else 16
    return -(-channels * item_bytes // unit) * unit + pad


def stage_bytes(item_bytes: int) -> int:
    """Bytes of one chunk's weights for all warps: GemmStage of the sources."""
    return ROWS * (chunk_of(item_bytes) * item_bytes + 16)


def chunk_of(item_bytes: int) -> int:
    """Columns that a warp takes at a time."""
    return 64 if item_bytes == 2 else 32


def row_slots(window: int, item_bytes: int) -> int:
    """Slots of a stored row: whole 16-byte vectors."""
    vector = 16 // item_bytes
    return -(-window // vector) * vector


def keeps_fragments(problem: Problem) -> bool:
    """Whether backward works with fragments: the gradient of a bias wants rows of slots."""
    return not problem.has_bias and problem.dtype != "float64"
