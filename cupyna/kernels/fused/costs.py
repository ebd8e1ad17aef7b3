"""What the general fused kernels are expected to take, beside the kernels of other families.

The model that chooses among their tiles is fitted to large windows. Here is what it leaves out.
"""

from __future__ import annotations

from cupyna.problem import DeviceSpec, Operation, Problem

from .heuristics import gradient_time_us
from .tile_costs import is_of_three
from .tuning import Passes

__all__ = ["expected_us"]

# Blocks of few columns took longer than the model of tiles says, by as much as if 16 bytes of each
# of their rows cost these clocks of a multiprocessor for each 128 channels: it shows most where
# dilation leaves short groups, and most rows of a block are no token's. From 185 problems of the
# sweep measured on an H200.
_ROW_CHUNK = {"forward": 5.3, "backward": 9.0}
_ROW_CHANNELS = 128
_CLOCKS_PER_US = 1700.0
# With that, small windows took this share of it, by the median. The model of products of three TF32
# numbers has both in it.
_SHARE = {"forward": 0.85, "backward": 1.25}
# Dilated windows of 128 channels in 16 bits took this share of that, by the median of 28 problems.
_DILATED = 0.75
_DILATED_CHANNELS = 128


def expected_us(
    problem: Problem, operation: Operation, device: DeviceSpec, passes: Passes
) -> float:
    """Expected time of forward or backward; that of a bias's gradient comes on top."""
    tiles_us = sum(chosen.time_us for chosen in passes)
    if operation == "backward":
        tiles_us = gradient_time_us(problem, device, passes)
    if is_of_three(problem, passes[0].shape):
        return tiles_us
    rows_us = _rows_us(problem, operation, device, passes)
    is_wide = problem.item_bytes == 2 and passes[0].shape.head_dim == _DILATED_CHANNELS
    share = _SHARE[operation]
    if is_wide and max(problem.dilation) > 1:
        share *= _DILATED
    return share * (tiles_us + rows_us)


def _rows_us(problem: Problem, operation: Operation, device: DeviceSpec, passes: Passes) -> float:
    """What the model of tiles leaves out of the rows of every block."""
    clocks = 0.0
    for chosen in passes:
        shape = chosen.shape
        heads = problem.heads if shape.side == "query" else problem.kv_heads
        rows = problem.batch * heads * chosen.plan(problem).counts.tiles * shape.rows
        chunks = rows * shape.head_dim * shape.item_bytes / 16
        clocks += chunks * _ROW_CHUNK[operation] * shape.head_dim / _ROW_CHANNELS
    return clocks / device.processors / _CLOCKS_PER_US
