"""The compiled shapes of the small-window forward on Hopper, and its shared memory."""

from __future__ import annotations

from dataclasses import dataclass

from cupyna.problem import Problem

from ..variant import Variant

__all__ = ["WINDOW_RING_SHAPES", "WindowRingShape"]

_FIXED_BYTES = 10240
_SMEM_BYTES = 227 * 1024
_REPEAT_BYTES = 1024  # after which a swizzle repeats
_MOST_STAGES = 64


@dataclass(frozen=True, slots=True)
class WindowRingShape:
    """One way to divide the work of a block.

    Parameters
    ----------
    head_dim : int
        Most channels of queries, keys and values.
    line : int
        Most keys of a warp's box along the last axis: 8 or 16.
    slots : int
        Keys whose scores a warp holds at a time.
    consumers : int
        Warps that compute; one more copies.
    """

    head_dim: int
    line: int
    slots: int
    consumers: int

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return 32 * (self.consumers + 1)

    @property
    def smem_bytes(self) -> int:
        """Shared memory of a block: all there is."""
        return _SMEM_BYTES

    @property
    def most_lines(self) -> int:
        """Most lines of a warp's box: each has a bit."""
        return 31 if self.line == 16 else 63

    def stages(self, tokens: int) -> int:
        """Stages of so many tokens that the ring holds."""
        rows = tokens * self.head_dim * 2
        return min(_MOST_STAGES, (_SMEM_BYTES - _FIXED_BYTES - _REPEAT_BYTES) // (2 * rows))

    def serves(self, problem: Problem) -> bool:
        """Whether it has the elements and the channels of a problem; none has a bias."""
        return (
            problem.item_bytes == 2
            and problem.rank > 1
            and not problem.has_bias
            and problem.head_dim % 8 == problem.value_dim % 8 == 0
            and max(problem.head_dim, problem.value_dim) <= self.head_dim
        )

    def variant(self, dtype: str) -> Variant:
        """The manifest's row of a dtype."""
        return Variant(
            "window_forward_sm90",
            dtype,
            0,
            threads=self.threads,
            smem_bytes=self.smem_bytes,
            defines=(
                ("HEAD_DIM", self.head_dim),
                ("LINE", self.line),
                ("SLOTS", self.slots),
                ("CONSUMERS", self.consumers),
            ),
            hopper=True,
        )


WINDOW_RING_SHAPES = (
    WindowRingShape(32, line=8, slots=48, consumers=15),
    WindowRingShape(32, line=16, slots=64, consumers=15),
    WindowRingShape(64, line=8, slots=64, consumers=11),
    WindowRingShape(64, line=16, slots=64, consumers=11),
)
