"""How the naive kernels cut a problem: runs of queries, blocks of weights, groups of lanes."""

from __future__ import annotations

import math
from dataclasses import dataclass

from cupyna.problem import Problem

__all__ = ["LANE_CHANNELS", "RUN", "Runs", "computed_channels", "lanes_of"]

# As in the device sources: queries of a run, channels of a lane, quads that a lane keeps.
RUN = 4
LANE_CHANNELS = 8
KEPT_QUADS = 8

# Quads of a line, and slots of a row, that a lane moves at a time.
LINE_QUADS = 2
ROW_SLOTS = 4

_WARP = 32


@dataclass(frozen=True, slots=True)
class Runs:
    """Runs of queries along the last axis, and the block of weights that each of them has.

    Parameters
    ----------
    per_group : int
        Runs of one dilation group of the last axis.
    items : int
        Runs of one head of one batch entry.
    keys : int
        Keys along the last axis in the largest box of a run, rounded up to an even number.
    quads : int
        Keys of a block, each with the weights of four queries.
    window : int
        Slots of a query.
    """

    per_group: int
    items: int
    keys: int
    quads: int
    window: int

    @classmethod
    def of(cls, problem: Problem) -> Runs:
        """Cut a problem."""
        last = problem.axes[-1]
        longest = last.group_length(0)
        per_group = -(-longest // RUN)
        # Windows of a run differ by whole strides, as many as can begin inside it.
        shift = last.stride * -(-(RUN - 1) // last.stride)
        keys = last.kernel_size + min(shift, longest - last.kernel_size)
        keys += keys % 2  # kernels take them in pairs
        return cls(
            per_group,
            items=math.prod(problem.spatial[:-1]) * last.dilation * per_group,
            keys=keys,
            quads=math.prod(problem.kernel_size[:-1]) * keys,
            window=problem.window,
        )

    def block_shape(self, problem: Problem) -> tuple[int, ...]:
        """Shape of the workspace for all weights of a problem."""
        return problem.batch, problem.heads, self.items, self.quads, RUN

    @property
    def block_lanes(self) -> int:
        """Threads that share a block where it is taken as one row of quads."""
        return _lanes(-(-self.quads // KEPT_QUADS))

    @property
    def line_lanes(self) -> int:
        """Threads that share a block where it is taken line by line along the last axis."""
        return _lanes(-(-self.keys // LINE_QUADS))

    @property
    def slot_lanes(self) -> int:
        """Threads that share a block where it is taken slot by slot, one query after the other."""
        return _lanes(-(-self.window // ROW_SLOTS))


def lanes_of(channels: int) -> int:
    """Threads that share a run of rows."""
    return _lanes(-(-channels // LANE_CHANNELS))


def computed_channels(channels: int) -> int:
    """Channels that the lanes of a run multiply: a power of two of them, or many times the most."""
    whole = lanes_of(channels) * LANE_CHANNELS
    return -(-channels // whole) * whole


def _lanes(least: int) -> int:
    return min(max(1 << (least - 1).bit_length(), 4), _WARP)
