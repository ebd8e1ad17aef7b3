"""The compiled shapes of the small-window kernels, and the shared memory of a launch."""

from __future__ import annotations

from dataclasses import dataclass

from cupyna.problem import Problem

from ..variant import Variant

__all__ = ["WARP_ROWS", "WINDOW_FORWARD_SHAPES", "WindowShape"]

WARP_ROWS = 16
_FIXED_BYTES = 1024
_PADDING_BYTES = 16  # of a row, so that rows begin in different banks
_STAGES = 2
_SLOT_TABLE_BYTES = 4 + 4
_ITEM_BYTES = 2 * 32  # of this work and the next
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
    """

    head_dim: int
    slots: int
    blocks: int
    threads: int
    smem_kib: int

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
        rows = warps * _STAGES * WARP_ROWS * (self.head_dim * 2 + _PADDING_BYTES)
        offsets = blocks_of_slots * self.slots * _SLOT_TABLE_BYTES
        masks = sum(extent + 1 for extent in slot_box) * blocks_of_slots * _MASK_BYTES
        items_bytes = items * _ITEM_BYTES + sum(row_tile) * _POSITION_BYTES
        lines_bytes = lines * _LINE_BYTES
        return _FIXED_BYTES + tokens + rows + offsets + masks + lines_bytes + items_bytes

    def serves(self, problem: Problem) -> bool:
        """Whether it has the elements and the channels of a problem; none has a bias."""
        return (
            problem.item_bytes == 2
            and not problem.has_bias
            and max(problem.head_dim, problem.value_dim) <= self.head_dim
        )

    def variant(self, problem: Problem) -> Variant:
        """The manifest's row for a problem."""
        return self.row(problem.dtype)

    def row(self, dtype: str) -> Variant:
        """The manifest's row of a dtype."""
        return Variant(
            "window_forward_sm80",
            dtype,
            0,
            threads=self.threads,
            smem_bytes=self.smem_bytes,
            defines=(("HEAD_DIM", self.head_dim), ("SLOTS", self.slots), ("BLOCKS", self.blocks)),
        )


WINDOW_FORWARD_SHAPES = (
    WindowShape(32, slots=112, blocks=3, threads=128, smem_kib=99),
    WindowShape(64, slots=64, blocks=1, threads=384, smem_kib=227),
    WindowShape(128, slots=64, blocks=1, threads=256, smem_kib=227),
)
