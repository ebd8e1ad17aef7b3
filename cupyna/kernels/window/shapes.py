"""The compiled shapes of the small-window kernels, and the shared memory of a launch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cupyna.problem import Problem

from ..variant import Variant

__all__ = [
    "STEP_SLOTS",
    "WARP_ROWS",
    "WINDOW_FORWARD_SHAPES",
    "WINDOW_GRADIENT_SHAPES",
    "WindowShape",
]

WARP_ROWS = 16
STEP_SLOTS = 16  # of backward
_FIXED_BYTES = 1024
_PADDING_BYTES = 16  # of a row, so that rows begin in different banks
# Of rows that a warp has in shared memory: two tiles of queries, or one of two arrays.
_ROWS = 2
_SLOT_TABLE_BYTES = 4 + 4
_ITEM_BYTES = 2 * 48  # of this work and the next
_POSITION_BYTES = 2 * 4
_LINE_BYTES = 32
_MASK_BYTES = 4 * 4  # of one coordinate and one block of slots


@dataclass(frozen=True, slots=True)
class WindowShape:
    """One way to divide a warp's work.

    Parameters
    ----------
    head_dim : int
        Most channels of queries, keys and values.
    slots : int
        Keys whose scores a warp holds at a time.
    blocks : int
        Blocks of the most threads that one multiprocessor holds; bounds the registers.
    threads : int
        Most threads of one block.
    smem_kib : int
        Most shared memory of one block. Every device since Ampere has 99 KiB.
    gradient : {"query", "key"}, optional
        Whose gradients it gives; by default it is forward.
    """

    head_dim: int
    slots: int
    blocks: int
    threads: int
    smem_kib: int
    gradient: Literal["query", "key"] | None = None

    @property
    def side(self) -> Literal["query", "key"]:
        """What rows are."""
        return self.gradient or "query"

    @property
    def products(self) -> int:
        """Matrix products of each pair of tokens."""
        return {None: 2, "query": 3, "key": 4}[self.gradient]

    @property
    def is_unrolled(self) -> bool:
        """Whether backward goes through a block of slots in one stretch of code."""
        return self.head_dim <= 64

    @property
    def passes(self) -> int:
        """How often a warp tile may go through its slots, along one axis."""
        return 2 if self.side == "key" else 1

    @property
    def warps(self) -> int:
        """Most warps of one block."""
        return self.threads // 32

    @property
    def smem_bytes(self) -> int:
        """Most shared memory of one block."""
        return self.smem_kib * 1024

    def smem_bytes_of(
        self,
        box_tokens: int,
        warps: int,
        slot_box: tuple[int, ...],
        blocks_of_slots: int,
        lines: int,
        row_tile: tuple[int, ...],
        items: int,
    ) -> int:
        """Shared memory of a launch: a box of keys and values, queries of warps, and tables."""
        tokens = box_tokens * (2 * self.head_dim * 2 + _PADDING_BYTES)
        rows = warps * _ROWS * WARP_ROWS * (self.head_dim * 2 + _PADDING_BYTES)
        offsets = blocks_of_slots * self.slots * _SLOT_TABLE_BYTES
        masks = sum(extent + 1 for extent in slot_box) * blocks_of_slots * _MASK_BYTES
        items_bytes = items * _ITEM_BYTES + sum(row_tile) * self.passes * _POSITION_BYTES
        lines_bytes = lines * _LINE_BYTES
        return _FIXED_BYTES + tokens + rows + offsets + masks + lines_bytes + items_bytes

    def serves(self, problem: Problem) -> bool:
        """Whether it has the elements and the channels of a problem; none has a bias."""
        return (
            problem.item_bytes == 2
            and not problem.has_bias
            and max(problem.head_dim, problem.value_dim) <= self.head_dim
            and (self.gradient is None or problem.heads == problem.kv_heads)
        )

    def variant(self, problem: Problem) -> Variant:
        """The manifest's row for a problem."""
        return self.row(problem.dtype)

    def row(self, dtype: str) -> Variant:
        """The manifest's row of a dtype."""
        sizes = (("HEAD_DIM", self.head_dim), ("SLOTS", self.slots), ("BLOCKS", self.blocks))
        side = () if self.gradient is None else (("SIDE", int(self.gradient == "key")),)
        return Variant(
            "window_forward_sm80" if self.gradient is None else "window_gradient_sm80",
            dtype,
            0,
            threads=self.threads,
            smem_bytes=self.smem_bytes,
            defines=(*side, *sizes),
        )


WINDOW_FORWARD_SHAPES = (
    WindowShape(32, slots=112, blocks=3, threads=128, smem_kib=99),
    WindowShape(64, slots=64, blocks=1, threads=384, smem_kib=227),
    WindowShape(128, slots=64, blocks=1, threads=256, smem_kib=227),
)

WINDOW_GRADIENT_SHAPES = (
    WindowShape(32, slots=112, blocks=4, threads=128, smem_kib=99, gradient="query"),
    WindowShape(32, slots=128, blocks=3, threads=128, smem_kib=99, gradient="key"),
    WindowShape(64, slots=64, blocks=1, threads=384, smem_kib=227, gradient="query"),
    WindowShape(64, slots=64, blocks=1, threads=256, smem_kib=227, gradient="key"),
    WindowShape(128, slots=64, blocks=1, threads=256, smem_kib=227, gradient="query"),
    WindowShape(128, slots=64, blocks=1, threads=256, smem_kib=227, gradient="key"),
)
