"""The compiled shapes of the fused kernels: rows, keys and channels of one block's tiles."""

from __future__ import annotations

from dataclasses import dataclass

from .variant import Variant

__all__ = ["FORWARD_SHAPES", "FusedShape"]

# Bytes of the tables beside the tiles: of one row, one key column, one warp, and one block.
_ROW_TABLE_BYTES = 24
_COLUMN_TABLE_BYTES = 4 + 16
_WARP_TABLE_BYTES = 48
_BLOCK_TABLE_BYTES = 3 * (28 + 16)
_STAGES = 2


@dataclass(frozen=True, slots=True)
class FusedShape:
    """One way to divide a block's work.

    Parameters
    ----------
    head_dim : int
        Most channels of queries, keys and values.
    row_tiles : int
        Tiles of 16 query rows that one warp owns.
    warps : int
    keys : int
        Keys of one tile.
    blocks : int
        Blocks that one multiprocessor holds; bounds the registers of a thread.
    """

    head_dim: int
    row_tiles: int
    warps: int
    keys: int
    blocks: int = 2

    @property
    def warp_rows(self) -> int:
        """Query rows of one warp."""
        return 16 * self.row_tiles

    @property
    def rows(self) -> int:
        """Query rows of one block."""
        return self.warp_rows * self.warps

    @property
    def smem_bytes(self) -> int:
        """Shared memory of one block: queries, two stages of keys and values, and tables."""
        tiles = (self.rows + 2 * _STAGES * self.keys) * self.head_dim * 2
        tables = self.rows * _ROW_TABLE_BYTES + self.keys * _COLUMN_TABLE_BYTES
        return tiles + tables + self.warps * _WARP_TABLE_BYTES + _BLOCK_TABLE_BYTES + 12

    def variant(self, dtype: str) -> Variant:
        """The manifest's row for inputs of a dtype."""
        return Variant(
            "fused_forward_sm80",
            dtype,
            0,
            threads=32 * self.warps,
            smem_bytes=self.smem_bytes,
            defines=(
                ("HEAD_DIM", self.head_dim),
                ("ROW_TILES", self.row_tiles),
                ("KEYS", self.keys),
                ("BLOCKS", self.blocks),
            ),
        )


# Two row tiles halve the reads of keys and values from shared memory; one leaves registers for more
# channels, and wastes less on small windows.
FORWARD_SHAPES = (
    FusedShape(32, row_tiles=1, warps=4, keys=64, blocks=3),
    FusedShape(64, row_tiles=1, warps=4, keys=64),
    FusedShape(64, row_tiles=2, warps=4, keys=64),
    FusedShape(128, row_tiles=1, warps=4, keys=64),
    FusedShape(128, row_tiles=2, warps=4, keys=32),
    FusedShape(256, row_tiles=1, warps=4, keys=32),
)
