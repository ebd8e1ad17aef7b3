"""Operation -> the parts that it is computed in, their products, and the memory beside them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from cupyna.arrays.device_array import DeviceArray
from cupyna.problem import DeviceSpec, Operation, Problem
from cupyna.tiles import Side

from ..fused.params import axis_tiles
from .costs import CLOCKS_PER_US, SLOT_SCALE, whole_of
from .heuristics import gemm_plan
from .parts import Part, foldings, slices
from .plan import SIDES, GemmPlan, Kind
from .shapes import channels_of, keeps_fragments, row_channels_of, row_slots

__all__ = ["Schedule", "SharedWorkspace", "gradient_plan", "schedule"]

# Weights of long windows are many times the inputs: planes take turns in so much memory.
_MOST_WORKSPACE_BYTES = 4 * 2**30

# What a kernel takes beside its blocks.
_KERNEL_US = 5.0

# Kernels of a plan: forward; gradients of either side by rows, or by fragments.
_KERNELS_OF_FRAGMENTS: dict[Side, int] = {"query": 2, "key": 3}

# The products of each operation; the last entry is whether they have the values' channels.
_PRODUCTS: dict[Operation, tuple[tuple[Kind, bool], ...]] = {
    "forward": (("forward", False),),
    "backward": (
        ("score_gradients", False), ("inverse", True), ("outputs", False), ("inverse", False),
    ),
    "qk": (("scores", False),),
    "av": (("outputs", True),),
    "qk_backward": (("outputs", False), ("inverse", False)),
    "av_backward": (("scores", True), ("inverse", True)),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Schedule:
    """How an operation is computed.

    Parameters
    ----------
    parts : tuple of Part
        Calls that follow each other, the one with the most memory first.
    plans : tuple of GemmPlan
        Of the first part.
    time_us : float
        Expected time.
    workspace_bytes : int
        Memory beside inputs and outputs, which parts share.
    computed_products : int
        Pairs of a query and a key that the tiles of the first product evaluate.
    blocks : int
        Most blocks of threads that one launch needs.
    """

    parts: tuple[Part, ...]
    plans: tuple[GemmPlan, ...]
    time_us: float
    workspace_bytes: int
    computed_products: int
    blocks: int

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader should know of the parts."""
        first = self.parts[0]
        found = []
        if first.folded is not None:
            groups = self.plans[0].tile[first.folded + 1]
            found.append(f"{groups} dilation groups of axis {first.folded} to a tile")
        if len(self.parts) > 1:
            found.append(f"{len(self.parts)} calls on parts of the arrays, one after another")
        return tuple(found)


@lru_cache(maxsize=4096)
def schedule(problem: Problem, operation: Operation, device: DeviceSpec) -> Schedule:
    """The parts of an operation that are expected to take the least time.

    Raises
    ------
    ValueError
        If no tile fits the shared memory of a block.
    """
    # The gradient of a bias is a sum over all tokens and batch entries.
    has_bias_gradient = problem.has_bias and operation in ("backward", "qk_backward")
    ways = list(foldings(problem))[: 1 if has_bias_gradient else None]
    found = [_schedule(parts, operation, device) for parts in ways]
    best = min(found, key=lambda way: way.time_us)
    count = -(-best.workspace_bytes // _MOST_WORKSPACE_BYTES)
    if count == 1 or best.workspace_bytes == 0:
        return best
    parts = [
        piece for part in best.parts for piece in slices(part, count, keeps_batch=has_bias_gradient)
    ]
    return _schedule(tuple(parts), operation, device)


class SharedWorkspace:
    """Workspace that parts of a call use in turns, as their kernels follow each other."""

    def __init__(self, empty: Callable[[tuple[int, ...], str], DeviceArray]) -> None:
        self._empty = empty
        self._kept: list[DeviceArray] = []
        self._next = 0

    def restart(self) -> None:
        """Another part begins: all memory is free."""
        self._next = 0

    def empty(self, shape: tuple[int, ...], dtype: str) -> DeviceArray:
        """Memory of the same request of an earlier part where that is large enough."""
        at = self._next
        self._next += 1
        if at < len(self._kept):
            kept = self._kept[at]
            found = DeviceArray.contiguous(kept.pointer, shape, dtype, kept.device)
            if found.size * found.item_bytes <= kept.size * kept.item_bytes:
                return found
            self._kept[at] = self._empty(shape, dtype)
        else:
            self._kept.append(self._empty(shape, dtype))
        return self._kept[at]


def _schedule(parts: tuple[Part, ...], operation: Operation, device: DeviceSpec) -> Schedule:
    time_us, launches_us, computed, blocks = 0.0, 0.0, 0, 0
    sizes = {}
    for part in parts:
        plans = _plans(part.problem, operation, device)
        for at, (plan, _) in enumerate(plans):
            time_us += _time_us(part.problem, operation, device, plan, at)
            launch_us = whole_of(part.problem, operation, plan.leaves_rows).launch_us
            kernels = _kernels(part.problem, operation, plan)
            launches_us += launch_us * kernels
            time_us += _KERNEL_US * kernels
        blocks = max(blocks, *(_blocks(part.problem, *plan) for plan in plans))
        own = [plan for plan, _ in plans]
        computed += own[0].computed_products(part.problem)
        sizes[part] = _workspace_bytes(part.problem, operation, own)
    ordered = sorted(parts, key=lambda part: -sizes[part])
    first = _plans(ordered[0].problem, operation, device)
    return Schedule(
        tuple(ordered),
        tuple(plan for plan, _ in first),
        time_us + launches_us * (1 - 1 / len(parts)),
        sizes[ordered[0]],
        computed,
        blocks,
    )


def _kernels(problem: Problem, operation: Operation, plan: GemmPlan) -> int:
    if operation == "forward":
        return 2
    if operation == "backward" and keeps_fragments(problem) and not plan.leaves_rows:
        return _KERNELS_OF_FRAGMENTS[plan.side]
    return 1


def _time_us(
    problem: Problem, operation: Operation, device: DeviceSpec, plan: GemmPlan, at: int
) -> float:
    """What the plan of the product `at` of an operation is expected to take."""
    if operation not in ("forward", "backward"):
        kind, _ = _PRODUCTS[operation][at]
        has_vectors = problem.window * problem.item_bytes % 16 == 0
        return plan.time_us * (1.0 if has_vectors else SLOT_SCALE[kind])
    whole = whole_of(problem, operation, plan.leaves_rows)
    rows = problem.batch * problem.heads * problem.tokens
    moved_us = rows * problem.head_dim * problem.item_bytes / device.bytes_per_us
    clocks = whole.pair * problem.batch * problem.heads * problem.tokens * problem.window
    pairs_us = clocks / (CLOCKS_PER_US * device.processors)
    return whole.scale * plan.time_us + whole.moved * moved_us + pairs_us


def _workspace_bytes(problem: Problem, operation: Operation, plans: list[GemmPlan]) -> int:
    rows = problem.batch * problem.heads * problem.tokens
    number = 8 if problem.dtype == "float64" else 4
    if operation == "forward":
        return plans[0].fragment_bytes(problem) + plans[0].maxima(problem) * number
    if operation != "backward":
        return 0
    if not keeps_fragments(problem):
        return 2 * rows * row_slots(problem.window, problem.item_bytes) * problem.item_bytes
    of_queries, of_keys = (plan.fragment_bytes(problem) for plan in plans)
    return max(of_queries, of_keys) + of_keys + 2 * rows * number


@lru_cache(maxsize=4096)
def gradient_plan(problem: Problem, device: DeviceSpec, side: Side) -> GemmPlan:
    """How backward computes the gradients of one side: without fragments in memory if it can.

    That took 0.59 to 0.98 times as long in all of 117 problems.

    Raises
    ------
    ValueError
        If no tile fits the shared memory of a block.
    """
    kinds: tuple[Kind, Kind] = ("query_gradients", "query_rows")
    if side == "key":
        kinds = ("key_gradients", "key_rows")
    channels = problem.head_dim
    width = row_channels_of(problem.dtype, channels, problem.value_dim, int(side == "key"))
    return gemm_plan(problem, device, kinds[width > 0], channels)


def _plans(
    problem: Problem, operation: Operation, device: DeviceSpec
) -> list[tuple[GemmPlan, int]]:
    """The plan of each product of an operation, with its channels."""
    if operation == "backward" and keeps_fragments(problem):
        return [(gradient_plan(problem, device, side), problem.head_dim) for side in SIDES]
    found = []
    for kind, of_values in _PRODUCTS[operation]:
        channels = problem.value_dim if of_values else problem.head_dim
        found.append((gemm_plan(problem, device, kind, channels), channels))
    return found


def _blocks(problem: Problem, plan: GemmPlan, channels: int) -> int:
    tiles = math.prod(map(axis_tiles, problem.spatial, problem.dilation, plan.tile))
    width = channels_of(problem.dtype, max(problem.head_dim, problem.value_dim))
    longest = max(channels, problem.value_dim)
    return tiles * -(-longest // width)
