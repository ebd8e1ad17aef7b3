"""The compiled shapes of the fused kernels: rows, columns and channels of one block's tiles.

Rows are the tokens that a block keeps, columns those that it walks over: queries and keys in
forward and for the gradient of the queries, keys and queries for those of keys and values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cupyna.problem import Problem
from cupyna.tiles import Side

from ..variant import Variant

__all__ = [
    "BESIDE_SHAPES",
    "BIAS_SHAPES",
    "FORWARD_SHAPES",
    "GRADIENT_SHAPES",
    "MOST_ADDITIONAL_CHANNELS",
    "FusedShape",
]

# Channels of the widest kernels that take keys beside the windows.
MOST_ADDITIONAL_CHANNELS = 128

# Channels of the widest float32 kernels that have a variant of plain TF32.
MOST_TF32_CHANNELS = 128

# Bytes of the tables beside the tiles: of one row, one column, one warp, and one block.
_ROW_TABLE_BYTES = 24
_STEP_BYTES = 4 + 16
_COLUMN_TABLE_BYTES = _STEP_BYTES + 4
_WARP_TABLE_BYTES = 48
_BLOCK_TABLE_BYTES = 3 * (28 + 16 + 48)
_STATISTICS_BYTES = 8  # of one query
_FOUND_TILES_BYTES = 32 * (3 * 28 + 4) + 3 * 4
_ALIGNMENT_BYTES = 64  # between the tables
_SCORES_ALIGNMENT_BYTES = 256
_STAGES = 2


@dataclass(frozen=True, slots=True)
class FusedShape:
    """One way to divide a block's work.

    Parameters
    ----------
    direction : {"forward", "gradient", "bias_gradient", "beside_gradient"}
    side : {"query", "key"}
        What rows are. Forward has rows of queries.
    sums_queries : bool
        Whether a pass over keys gives the gradient of the queries too.
    shares : int
        Warps that have the same rows, each with a share of the channels that it sums.
    is_exact : bool
        Whether float32 has no variant of plain TF32: another shape does as well there.
    item_bytes : int
        Bytes of an element of the arrays.
    head_dim : int
        Most channels of queries, keys and values.
    row_tiles : int
        Tiles of 16 rows that one warp owns.
    warps : int
        Warps with rows of their own.
    columns : int
        Columns of one tile.
    column_block : int
        Columns whose scores a warp holds at a time.
    blocks : int
        Blocks that one multiprocessor holds; bounds the registers of a thread.
    """

    direction: Literal["forward", "gradient", "bias_gradient", "beside_gradient"]
    side: Side
    item_bytes: int
    head_dim: int
    row_tiles: int
    warps: int
    columns: int
    column_block: int
    blocks: int = 2
    sums_queries: bool = False
    shares: int = 1
    is_exact: bool = False

    @property
    def warp_rows(self) -> int:
        """Rows of one warp."""
        return 16 * self.row_tiles

    @property
    def rows(self) -> int:
        """Rows of one block."""
        return self.warp_rows * self.warps

    @property
    def takes_bias(self) -> bool:
        """Whether scores may have a bias; elsewhere registers are too short for its addresses."""
        return self.row_tiles == 1 and (self.column_block == self.columns or self.splits)

    @property
    def splits(self) -> bool:
        """Whether warps with the same rows compute the scores of different columns."""
        return self.shares > 1 and self.column_block < self.columns

    @property
    def takes_additional(self) -> bool:
        """Whether every query may see keys beside its window; elsewhere registers are too short."""
        return self.takes_bias and self.head_dim <= MOST_ADDITIONAL_CHANNELS

    @property
    def smem_bytes(self) -> int:
        """Shared memory of one block: rows, stages of columns, and tables."""
        row_arrays = 1 if self.direction == "forward" else 2
        stages = 1 if self.direction == "bias_gradient" else _STAGES
        tokens = row_arrays * self.rows + 2 * stages * self.columns
        tiles = tokens * self.head_dim * self.item_bytes
        tables = self.rows * _ROW_TABLE_BYTES + self.columns * _COLUMN_TABLE_BYTES
        tables += self.warps * _WARP_TABLE_BYTES + self._queries + _BLOCK_TABLE_BYTES
        scores = 0
        if self.sums_queries:
            scores = self.rows * self.columns * 2 + self.warps + _SCORES_ALIGNMENT_BYTES
        if self.direction == "bias_gradient":
            scores = self.rows * (self.columns * self.item_bytes + _STEP_BYTES + 4)
            scores += _FOUND_TILES_BYTES
        if self.splits:  # weights and their gradients, for the other warp
            handed = (self.side == "key") + (not self.sums_queries)
            scores += handed * self.rows * self.columns * self.item_bytes
        return tiles + tables + scores + _ALIGNMENT_BYTES

    @property
    def _queries(self) -> int:
        """Bytes of what backward knows of each query."""
        if self.direction == "forward":
            queries = 1
        else:
            queries = self.rows if self.side == "query" else _STAGES * self.columns
        return queries * _STATISTICS_BYTES

    @property
    def has_tf32(self) -> bool:
        """Whether float32 has a kernel of plain TF32, for the most common of its passes."""
        is_pass = self.direction in ("forward", "gradient")
        is_common = is_pass and self.head_dim <= MOST_TF32_CHANNELS and not self.is_exact
        return self.item_bytes == 4 and is_common

    def serves(self, problem: Problem) -> bool:
        """Whether it has the elements, the channels and the bias of a problem."""
        return (
            problem.item_bytes == self.item_bytes
            and max(problem.head_dim, problem.value_dim) <= self.head_dim
            and (self.takes_bias or not problem.has_bias)
            and not (self.is_exact and problem.allow_tf32)
        )

    def variant(self, problem: Problem) -> Variant:
        """The manifest's row for a problem."""
        return self.row(problem.dtype, problem.allow_tf32)

    def row(self, dtype: str, allow_tf32: bool = False) -> Variant:
        """The manifest's row of a dtype; float32 has one for each way to multiply it."""
        side: tuple[tuple[str, int], ...] = ()
        shares: tuple[tuple[str, int], ...] = ()
        has_side = self.direction in ("gradient", "beside_gradient")
        if has_side:
            side = (("SIDE", int(self.side == "key") + self.sums_queries),)
        if has_side or self.shares > 1:
            shares = (("SHARES", self.shares),)
        rounds = allow_tf32 and self.has_tf32
        products = (("TF32", 1 if rounds else 3),) if dtype == "float32" else ()
        tile = (
            ("HEAD_DIM", self.head_dim),
            ("ROW_TILES", self.row_tiles),
            ("COLUMNS", self.columns),
            ("BLOCK", self.column_block),
            ("BLOCKS", self.blocks),
        )
        return Variant(
            f"fused_{self.direction}_sm80",
            dtype,
            0,
            threads=32 * self.warps * self.shares,
            smem_bytes=self.smem_bytes,
            defines=(*side, *products, *tile, *shares),
        )


def _forward(
    item_bytes: int,
    head_dim: int,
    row_tiles: int,
    columns: int,
    column_block: int,
    blocks: int = 2,
    warps: int = 4,
    shares: int = 1,
    is_exact: bool = False,
) -> FusedShape:
    return FusedShape(
        "forward", "query", item_bytes, head_dim, row_tiles, warps, columns, column_block, blocks,
        shares=shares, is_exact=is_exact,
    )  # fmt: skip


def _gradient(
    side: Side,
    item_bytes: int,
    head_dim: int,
    row_tiles: int,
    columns: int,
    column_block: int,
    blocks: int = 2,
    shares: int = 1,
    warps: int = 4,
    is_exact: bool = False,
) -> FusedShape:
    return FusedShape(
        "gradient", side, item_bytes, head_dim, row_tiles, warps, columns, column_block, blocks,
        shares=shares, is_exact=is_exact,
    )  # fmt: skip


def _pair_gradient(
    side: Side, head_dim: int, columns: int, column_block: int, blocks: int, shares: int = 1
) -> FusedShape:
    return _gradient(
        side, 4, head_dim, 1, columns, column_block, blocks, shares, warps=2, is_exact=True
    )


def _lone_gradient(
    head_dim: int, row_tiles: int, warps: int, column_block: int, blocks: int, shares: int = 1
) -> FusedShape:
    return FusedShape(
        "gradient", "key", 2, head_dim, row_tiles, warps, 64, column_block, blocks,
        sums_queries=True, shares=shares,
    )  # fmt: skip


def _beside_gradient(
    side: Side, item_bytes: int, head_dim: int, columns: int, blocks: int = 2, shares: int = 1
) -> FusedShape:
    return FusedShape(
        "beside_gradient", side, item_bytes, head_dim, 1, 4, columns, columns, blocks,
        shares=shares,
    )  # fmt: skip


def _bias_gradient(
    item_bytes: int, head_dim: int, columns: int, blocks: int, warps: int = 4
) -> FusedShape:
    return FusedShape(
        "bias_gradient", "query", item_bytes, head_dim, 1, warps, columns, columns, blocks
    )  # fmt: skip


# Two row tiles halve the reads of columns from shared memory; one leaves registers for more
# channels and for a bias, and wastes less on small windows. More columns share the cost of a tile.
# The smaller ones of a head_dim are for devices with 99 KB of shared memory. In float32, with three
# products for one, what warps of a block wait for each other costs more than copies: blocks of two
# warps see smaller boxes, and serve devices that hold enough of them.
FORWARD_SHAPES = (
    _forward(2, 32, row_tiles=1, columns=64, column_block=64, blocks=3),
    _forward(2, 32, row_tiles=2, columns=128, column_block=64),
    _forward(2, 64, row_tiles=1, columns=64, column_block=64),
    _forward(2, 64, row_tiles=2, columns=64, column_block=64),
    _forward(2, 64, row_tiles=2, columns=128, column_block=128),
    _forward(2, 128, row_tiles=1, columns=64, column_block=64),
    _forward(2, 128, row_tiles=2, columns=32, column_block=32),
    _forward(2, 128, row_tiles=2, columns=64, column_block=64),
    _forward(2, 128, row_tiles=2, columns=128, column_block=64, blocks=1, warps=8),
    _forward(2, 256, row_tiles=1, columns=32, column_block=32),
    _forward(4, 32, row_tiles=1, columns=64, column_block=64, blocks=3),
    _forward(4, 32, row_tiles=1, columns=32, column_block=32, blocks=8, warps=2, is_exact=True),
    _forward(4, 64, row_tiles=1, columns=32, column_block=32, blocks=3),
    _forward(4, 64, row_tiles=1, columns=32, column_block=32, blocks=5, warps=2, is_exact=True),
    _forward(4, 128, row_tiles=1, columns=32, column_block=32),
    _forward(4, 256, row_tiles=1, columns=16, column_block=16, warps=2, shares=2),
)

GRADIENT_SHAPES = (
    _gradient("query", 2, 32, row_tiles=1, columns=64, column_block=64, blocks=3),
    _gradient("query", 2, 64, row_tiles=1, columns=64, column_block=64),
    _gradient("query", 2, 64, row_tiles=2, columns=64, column_block=64),
    _gradient("query", 2, 128, row_tiles=1, columns=64, column_block=64),
    _gradient("query", 2, 128, row_tiles=1, columns=32, column_block=32),
    _gradient("query", 2, 256, row_tiles=1, columns=32, column_block=32, blocks=1),
    _gradient("query", 2, 256, row_tiles=1, columns=16, column_block=16, blocks=1),
    _gradient("query", 4, 32, row_tiles=1, columns=64, column_block=64, blocks=3),
    _pair_gradient("query", 32, columns=32, column_block=32, blocks=8),
    _gradient("query", 4, 64, row_tiles=1, columns=32, column_block=32, blocks=3),
    _pair_gradient("query", 64, columns=32, column_block=32, blocks=4),
    _gradient("query", 4, 128, row_tiles=1, columns=16, column_block=16, blocks=1),
    _gradient("query", 4, 256, row_tiles=1, columns=16, column_block=16, shares=2, warps=1),
    _gradient("key", 2, 32, row_tiles=1, columns=64, column_block=64),
    _gradient("key", 2, 64, row_tiles=1, columns=64, column_block=64),
    _gradient("key", 2, 64, row_tiles=2, columns=32, column_block=32),
    _gradient("key", 2, 128, row_tiles=1, columns=32, column_block=32),
    _gradient("key", 2, 128, row_tiles=1, columns=64, column_block=32),
    _gradient("key", 2, 256, row_tiles=1, columns=32, column_block=16, blocks=1, shares=2),
    _gradient("key", 2, 256, row_tiles=1, columns=16, column_block=16, blocks=1, shares=2),
    _gradient("key", 4, 32, row_tiles=1, columns=32, column_block=32, blocks=6, warps=2),
    _gradient("key", 4, 64, row_tiles=1, columns=32, column_block=32),
    _pair_gradient("key", 64, columns=16, column_block=16, blocks=6),
    _pair_gradient("key", 128, columns=32, column_block=16, blocks=2, shares=2),
    _gradient("key", 4, 128, row_tiles=1, columns=32, column_block=16, blocks=1, shares=2),
    _gradient("key", 4, 128, row_tiles=1, columns=16, column_block=16, blocks=1, shares=2),
    _gradient("key", 4, 256, row_tiles=1, columns=16, column_block=16, shares=4, warps=1),
    # More keys to a block are fewer additions to the sums of each query.
    _lone_gradient(64, row_tiles=2, warps=4, column_block=32, blocks=2),
    _lone_gradient(128, row_tiles=1, warps=8, column_block=32, blocks=1),
    _lone_gradient(128, row_tiles=2, warps=4, column_block=32, blocks=1, shares=2),
    _lone_gradient(256, row_tiles=1, warps=4, column_block=32, blocks=1, shares=2),
)

BIAS_SHAPES = (
    _bias_gradient(2, 32, columns=64, blocks=3),
    _bias_gradient(2, 64, columns=64, blocks=3),
    _bias_gradient(2, 128, columns=64, blocks=2),
    _bias_gradient(2, 256, columns=16, blocks=2),
    _bias_gradient(4, 32, columns=32, blocks=3),
    _bias_gradient(4, 64, columns=32, blocks=3),
    _bias_gradient(4, 128, columns=16, blocks=2),
    _bias_gradient(4, 256, columns=16, blocks=2, warps=2),
)

# Of keys beside the windows: what they add to the gradients of queries, and their own.
BESIDE_SHAPES = (
    _beside_gradient("query", 2, 32, columns=64, blocks=3),
    _beside_gradient("query", 2, 64, columns=64),
    _beside_gradient("query", 2, 128, columns=32),
    _beside_gradient("query", 4, 32, columns=64, blocks=3),
    _beside_gradient("query", 4, 64, columns=32, blocks=3),
    _beside_gradient("query", 4, 128, columns=16, blocks=1),
    _beside_gradient("key", 2, 32, columns=64),
    _beside_gradient("key", 2, 64, columns=64),
    _beside_gradient("key", 2, 128, columns=32),
    _beside_gradient("key", 4, 32, columns=64),
    _beside_gradient("key", 4, 64, columns=32),
    _beside_gradient("key", 4, 128, columns=16, blocks=1, shares=2),
)
