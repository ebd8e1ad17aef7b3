"""Operations and bytes of one call, counted from the problem and the chosen tiles.

Three counts of bytes: the least is each input read once and each result written once. Asked is
what the blocks read and write, boxes that overlap and stored weights included; most of it is
answered by a cache. Moved is what must pass between cache and memory: the least, and stored
weights where they are larger than the cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..execution import Choice
from ..problem import DeviceSpec, Problem
from ..tiles import TilePlan, useful_pairs

__all__ = ["CallCounts", "Pass", "call_counts"]

Pass = Literal["forward", "backward"]

# Products of a query with a key in each pass: with channels of keys, and of values.
_PRODUCTS: dict[Pass, tuple[int, int]] = {"forward": (1, 1), "backward": (3, 2)}

# Times that stored weights are read or written, and how many arrays of them there are.
_WEIGHT_PASSES: dict[Pass, tuple[int, int]] = {"forward": (4, 1), "backward": (9, 2)}


@dataclass(frozen=True, slots=True)
class CallCounts:
    """What one call computes and moves.

    Parameters
    ----------
    useful_flops, computed_flops : int
        Of the products that windows ask for, and of all that tiles evaluate.
    least_bytes, asked_bytes, moved_bytes : int
    """

    useful_flops: int
    computed_flops: int
    least_bytes: int
    asked_bytes: int
    moved_bytes: int

    @property
    def intensity(self) -> float:
        """Useful operations for each byte moved."""
        return self.useful_flops / self.moved_bytes


def call_counts(
    problem: Problem,
    operation: Pass,
    choice: Choice,
    spec: DeviceSpec,
    stores_weights: bool = True,
) -> CallCounts:
    """Count one pass as a backend would run it.

    Parameters
    ----------
    problem : Problem
    operation : {"forward", "backward"}
    choice : Choice
    spec : DeviceSpec
    stores_weights : bool, optional
        Whether the workspace holds weights; anything else in it is written once and read once.
    """
    pairs = useful_pairs(problem)
    walks = max(1, choice.useful_products // pairs)
    computed = max(choice.computed_products, pairs)
    least = _least_bytes(problem, operation)
    passes, arrays = _WEIGHT_PASSES[operation] if stores_weights else (2, 1)
    stored = passes * choice.workspace_bytes // arrays
    in_memory = stored if choice.workspace_bytes > spec.l2_bytes else 0
    return CallCounts(
        useful_flops=pairs * _flops(problem, operation),
        computed_flops=computed * _flops(problem, operation, walks) // walks,
        least_bytes=least,
        asked_bytes=max(least, _box_bytes(problem, operation, choice)) + stored,
        moved_bytes=least + in_memory,
    )


def _flops(problem: Problem, operation: Pass, walks: int = 1) -> int:
    """Operations for a pair, over all walks: each one after the first has two products again."""
    of_keys, of_values = (count + walks - 1 for count in _PRODUCTS[operation])
    return 2 * (of_keys * problem.head_dim + of_values * problem.value_dim)


def _least_bytes(problem: Problem, operation: Pass) -> int:
    lse = problem.batch * problem.tokens * problem.heads * (8 if problem.item_bytes == 8 else 4)
    if operation == "forward":
        return problem.least_bytes
    # Read q, k, v, out, dout and the log-sum-exp; write dq, dk and dv.
    channels = 2 * problem.heads * (problem.head_dim + problem.value_dim) + 2 * problem.kv_heads * (
        problem.head_dim + problem.value_dim
    )
    return problem.batch * problem.tokens * channels * problem.item_bytes + lse


def _box_bytes(problem: Problem, operation: Pass, choice: Choice) -> int:
    """Own rows once and boxes once for each tile; backward has boxes of queries, too."""
    if not choice.q_tile:
        return 0
    plan = TilePlan.of(problem, choice.q_tile, choice.kv_tile)
    reads = plan.read_bytes(problem)
    if operation == "forward":
        return reads + problem.batch * problem.tokens * problem.heads * (
            problem.value_dim * problem.item_bytes
        )
    return reads + plan.transposed().read_bytes(problem) + _least_bytes(problem, "backward")
