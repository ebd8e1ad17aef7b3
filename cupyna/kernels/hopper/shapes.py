"""The compiled shapes of the fused forward on Hopper (TMA and WGMMA)."""

from __future__ import annotations

from dataclasses import dataclass

from cupyna.tiles import Side

from ..variant import Variant

__all__ = ["CONSUMER_ROWS", "HOPPER_SHAPES", "WARP_ROWS", "Consumers", "HopperShape"]

CONSUMER_ROWS = 64
WARP_ROWS = 16
_BLOCK_CHANNELS = 64
_ROW_BYTES = 128
_WINDOW_BYTES = 24
_ASSIGNMENT_BYTES = 104
_ORIGIN_BYTES = 12
_BARRIER_BYTES = 8
_ALIGNMENT = 1024


class Consumers:
    """What follows from the number of warpgroups that compute, in both directions."""

    __slots__ = ()
    side: Side
    consumers: int

    @property
    def rows(self) -> int:
        """Rows of one block: queries, or keys."""
        return CONSUMER_ROWS * self.consumers

    @property
    def threads(self) -> int:
        """One warpgroup copies, the others compute."""
        return 128 * (1 + self.consumers)


@dataclass(frozen=True, slots=True)
class HopperShape(Consumers):
    """One way to divide a block's work.

    Parameters
    ----------
    head_dim : int
        Most channels of queries, keys and values.
    keys : int
        Keys of one tile.
    consumers : int
        Warpgroups that compute, 64 queries each.
    stages : int
        Key tiles, and as many value tiles, in shared memory at a time.
    """

    head_dim: int
    keys: int
    consumers: int
    stages: int

    side = "query"

    @property
    def smem_bytes(self) -> int:
        """Shared memory of one block: ``Shared`` of the main loop."""
        blocks = -(-self.head_dim // _BLOCK_CHANNELS)
        tiles = (self.rows + 2 * self.stages * self.keys) * blocks * _ROW_BYTES
        set_words = -(-self.keys // 128) * 4
        barriers = 3 * self.consumers + 4 * self.stages
        tables = (
            (self.keys + 5) * set_words * 4
            + self.rows * _WINDOW_BYTES
            + 2 * self.consumers * _ASSIGNMENT_BYTES
            + self.stages * _ORIGIN_BYTES
            + barriers * _BARRIER_BYTES
            + _BARRIER_BYTES
        )
        return -(-(tiles + tables) // _ALIGNMENT) * _ALIGNMENT

    def variant(self, dtype: str) -> Variant:
        """The manifest's row for inputs of a dtype."""
        return Variant(
            "fused_forward_sm90",
            dtype,
            0,
            threads=self.threads,
            smem_bytes=self.smem_bytes,
            defines=(
                ("HEAD_DIM", self.head_dim),
                ("KEYS", self.keys),
                ("CONSUMERS", self.consumers),
                ("STAGES", self.stages),
            ),
            hopper=True,
        )


# Each step of the walk costs some hundred clocks beside its products, so more keys are faster as
# far as registers go; fewer keys cover small windows with less waste. Where a pair has few channels
# its exponential bounds it: three consumers keep more of them under way.
HOPPER_SHAPES = (
    HopperShape(32, keys=128, consumers=3, stages=4),
    HopperShape(64, keys=112, consumers=3, stages=4),
    HopperShape(64, keys=128, consumers=2, stages=4),
    HopperShape(64, keys=128, consumers=3, stages=4),
    HopperShape(96, keys=128, consumers=2, stages=2),
    HopperShape(128, keys=96, consumers=2, stages=3),
    HopperShape(128, keys=128, consumers=2, stages=2),
    HopperShape(128, keys=160, consumers=2, stages=2),
    HopperShape(128, keys=176, consumers=2, stages=2),
    HopperShape(192, keys=112, consumers=2, stages=2),
    HopperShape(256, keys=64, consumers=2, stages=2),
)
