"""What the general fused kernels are expected to take, beside the kernels of other families.

The model that chooses among their tiles is fitted to large windows, where all blocks are alike.
Beside other families counts what a whole launch takes: few blocks leave multiprocessors idle, and
small windows are bound by memory. So the tiles that were chosen are priced by a model of their own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from cupyna.problem import DeviceSpec, Operation, Problem

from .heuristics import FusedChoice, gradient_time_us, moved_us
from .tile_costs import is_of_three, work_of
from .tuning import Passes

__all__ = ["expected_us"]

_CLOCKS_PER_US = 1700.0


@dataclass(frozen=True, slots=True)
class _Costs:
    """Clocks of one multiprocessor for a block, unless said otherwise.

    Parameters
    ----------
    multiply : float
        Per multiplication of a channel of a pair that the block walks.
    softmax, mask : float
        Per pair of its warps, and per pair in a tile that needs a mask.
    copy : float
        Per 16 bytes of columns copied to shared memory.
    column_tile, row_tile, row_channel : float
        Per tile of columns, per tile of rows, and per channel of its rows.
    is_alone : float
        Share of a place for a block that is lost where the place is empty: blocks on one
        multiprocessor hide each other's waits.
    drain : float
        Share of the places that are lost in the last turn, where there are several.
    bytes_read : float
        Passes over inputs and outputs, felt beside the clocks.
    launch_us : float
        Microseconds of a launch beside its blocks.
    """

    multiply: float
    softmax: float
    mask: float
    copy: float
    column_tile: float
    row_tile: float
    row_channel: float
    is_alone: float
    drain: float
    bytes_read: float
    launch_us: float


# Fitted to 485 problems in each direction measured on an H200 in 16 bits, the sweep and random
# ones, with root-mean-square errors of 9 and 8 %.
_COSTS = {
    "forward": _Costs(
        multiply=0.853e-3, softmax=0.0303, mask=0.12, copy=0.206, column_tile=261.0,
        row_tile=2100.0, row_channel=0.18, is_alone=0.676, drain=0.407, bytes_read=0.477,
        launch_us=5.0,
    ),
    "backward": _Costs(
        multiply=0.915e-3, softmax=0.0, mask=0.0731, copy=1.23, column_tile=0.0,
        row_tile=0.0, row_channel=0.435, is_alone=0.15, drain=0.882, bytes_read=1.81,
        launch_us=3.0,
    ),
}  # fmt: skip
# Passes over sums of queries, which are cleared before, and read and rounded after.
_MOVED = 1.63

# Of products of three TF32 numbers the model of tiles knows all but turns: what is lost in the last
# one (200 random problems).
_THREE_IS_ALONE = 0.3
_THREE_DRAIN = {"forward": 0.25, "backward": 0.45}


def expected_us(
    problem: Problem, operation: Operation, device: DeviceSpec, passes: Passes
) -> float:
    """Expected time of forward or backward; that of a bias's gradient comes on top."""
    if is_of_three(problem, passes[0].shape):
        return _three_us(problem, operation, device, passes)
    costs = _COSTS[operation]
    walks_us = sum(_walk_us(problem, device, chosen, costs) for chosen in passes)
    bytes_us = costs.bytes_read * problem.least_bytes / device.bytes_per_us
    time_us = math.hypot(walks_us, bytes_us) + costs.launch_us
    if passes[0].shape.sums_queries:
        time_us += _MOVED * moved_us(problem, device)
    return time_us


def _three_us(problem: Problem, operation: Operation, device: DeviceSpec, passes: Passes) -> float:
    time_us = sum(chosen.time_us for chosen in passes)
    if operation == "backward":
        time_us = gradient_time_us(problem, device, passes)
    for chosen in passes:
        blocks = _blocks(problem, device, chosen)
        turns = _turns(chosen, device, blocks, _THREE_IS_ALONE, _THREE_DRAIN[operation])
        time_us += chosen.time_us * (turns / max(1.0, blocks) - 1)
    return time_us


def _blocks(problem: Problem, device: DeviceSpec, chosen: FusedChoice) -> float:
    """Blocks for each multiprocessor."""
    row_heads = problem.heads if chosen.shape.side == "query" else problem.kv_heads
    return problem.batch * row_heads * chosen.plan(problem).counts.tiles / device.processors


def _turns(
    chosen: FusedChoice, device: DeviceSpec, blocks: float, is_alone: float, drain: float
) -> float:
    """For how many blocks a multiprocessor takes its time, if it is handed `blocks` on average."""
    shape = chosen.shape
    places = max(1, min(shape.blocks, device.smem_bytes // shape.smem_bytes))
    if blocks > places:
        return blocks + places * drain
    together = max(1, math.ceil(blocks))
    return together + (places - together) * is_alone


def _walk_us(problem: Problem, device: DeviceSpec, chosen: FusedChoice, costs: _Costs) -> float:
    """What the blocks of a pass take."""
    shape = chosen.shape
    work = work_of(problem, shape, chosen.row_tile, chosen.column_tile)
    copied = 2 * shape.columns * shape.head_dim * shape.item_bytes / 16
    multiplications = work.multiplications * (shape.item_bytes / 2) * shape.head_dim
    of_head = (
        work.of_block * multiplications * costs.multiply
        + work.of_warps * costs.softmax
        + work.masked * costs.mask
        + work.block.box_tiles * (copied * costs.copy + costs.column_tile)
    )
    of_rows = costs.row_tile + shape.rows * shape.head_dim * costs.row_channel
    # Keys meet the queries of every head that reads theirs.
    heads = 1 if shape.side == "query" else problem.head_group
    clocks = heads * of_head / work.block.tiles + of_rows
    blocks = _blocks(problem, device, chosen)
    return clocks * _turns(chosen, device, blocks, costs.is_alone, costs.drain) / _CLOCKS_PER_US
