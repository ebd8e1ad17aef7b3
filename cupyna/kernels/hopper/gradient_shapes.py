"""The compiled shapes of the fused backward on Hopper (TMA and WGMMA)."""

from __future__ import annotations

from dataclasses import dataclass

from cupyna.tiles import Side

from ..variant import Variant
from .shapes import WARP_ROWS, Consumers

__all__ = ["HOPPER_GRADIENT_SHAPES", "HopperGradientShape"]

_BLOCK_CHANNELS = 64
_ROW_BYTES = 128
_WINDOW_BYTES = 24
_PLACE_BYTES = 24
_PLAN_BYTES = 3 * 28 + 8 * 4 + 2 * 8
_INTERVAL_BYTES = 8
_STATISTICS_BYTES = 8
_ALIGNMENT = 1024


@dataclass(frozen=True, slots=True)
class HopperGradientShape(Consumers):
    """One way to divide a block's work: two consumers of 64 rows each.

    Parameters
    ----------
    side : {"query", "key"}
        What rows are: a pass over keys gives dK and dV, one over queries dQ.
    head_dim : int
        Most channels of queries, keys and values.
    columns : int
        Of one tile: of queries where rows are keys.
    stages : int
        Tiles of columns, of two arrays, in shared memory at a time.
    row_buffers : int
        Tiles of rows in shared memory at a time.
    sums_queries : bool
        Whether a pass over keys adds up dQ as well.
    """

    side: Side
    head_dim: int
    columns: int
    stages: int
    row_buffers: int = 1
    sums_queries: bool = False

    consumers = 2

    @property
    def multiplications(self) -> int:
        """Products for each pair of a query and a key."""
        if self.side == "query":
            return 3
        return 5 if self.sums_queries else 4

    @property
    def smem_bytes(self) -> int:
        """Shared memory of one block: ``Shared`` of the main loop."""
        blocks = -(-self.head_dim // _BLOCK_CHANNELS)
        rows = self.row_buffers * self.rows + self.stages * self.columns
        tiles = 2 * rows * blocks * _ROW_BYTES
        query_blocks = -(-self.columns // 64)
        gradients = 2 * query_blocks * self.rows * _ROW_BYTES if self.sums_queries else 128
        sums = self.columns * self.head_dim * 4 if self.sums_queries else 16
        set_words = -(-self.columns // 128) * 4
        is_over_keys = self.side == "key"
        statistics = self.stages * self.columns if is_over_keys else 2
        plan = (
            _PLAN_BYTES
            + (self.rows + 2) * _INTERVAL_BYTES
            + (self.rows + self.rows // WARP_ROWS) * _WINDOW_BYTES
            + (1 if is_over_keys else self.rows) * _STATISTICS_BYTES
        )
        tables = (
            (self.columns + 5) * set_words * 4
            + statistics * _STATISTICS_BYTES
            + 2 * plan
            + self.stages * _PLACE_BYTES
            + self.columns * 9
            + (3 + self.row_buffers + 2 * self.stages) * 16
            + 256
        )
        return -(-(tiles + gradients + sums + tables) // _ALIGNMENT) * _ALIGNMENT

    def variant(self, dtype: str) -> Variant:
        """The manifest's row for inputs of a dtype."""
        return Variant(
            "fused_gradient_sm90",
            dtype,
            0,
            threads=self.threads,
            smem_bytes=self.smem_bytes,
            defines=(
                ("ROWS_ARE_KEYS", int(self.side == "key")),
                ("HEAD_DIM", self.head_dim),
                ("COLUMNS", self.columns),
                ("STAGES", self.stages),
                ("ROW_BUFFERS", self.row_buffers),
                ("SUMS_QUERIES", int(self.sums_queries)),
            ),
            hopper=True,
        )


HOPPER_GRADIENT_SHAPES = (
    HopperGradientShape("key", 32, columns=128, stages=2, sums_queries=True),
    HopperGradientShape("key", 64, columns=64, stages=3, row_buffers=2, sums_queries=True),
    HopperGradientShape("key", 64, columns=128, stages=2, sums_queries=True),
    HopperGradientShape("key", 96, columns=64, stages=2, sums_queries=True),
    HopperGradientShape("key", 128, columns=64, stages=2, sums_queries=True),
    HopperGradientShape("key", 32, columns=80, stages=4, row_buffers=2),
    HopperGradientShape("key", 64, columns=80, stages=4, row_buffers=2),
    HopperGradientShape("key", 64, columns=96, stages=3, row_buffers=2),
    HopperGradientShape("key", 96, columns=64, stages=3),
    HopperGradientShape("key", 128, columns=64, stages=3),
    HopperGradientShape("query", 32, columns=128, stages=3, row_buffers=2),
    HopperGradientShape("query", 64, columns=80, stages=4, row_buffers=2),
    HopperGradientShape("query", 64, columns=128, stages=3, row_buffers=2),
    HopperGradientShape("query", 96, columns=112, stages=2),
    HopperGradientShape("query", 128, columns=96, stages=2),
    HopperGradientShape("query", 128, columns=112, stages=2),
)
