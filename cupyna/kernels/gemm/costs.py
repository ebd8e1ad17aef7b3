"""What the gemm kernels cost: fitted figures of the cost model."""

from __future__ import annotations

from dataclasses import dataclass

from cupyna.problem import Operation, Problem

__all__ = [
    "CLOCKS_PER_US", "COSTS", "FLOAT64_SCALE", "ROW_STORE", "SLOT_SCALE", "TF32_SCALE", "Costs",
    "Whole", "whole_of",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Costs:
    """Clocks of a block of threads, were it alone on its multiprocessor.

    Fitted on an H200: those of rows of slots to some 200 plans of 7 problems in float16, those of
    fragments to 540 plans of 26 problems in float16 and float32, with root-mean-square errors of 6
    to 10 % and 7 to 15 %. Several blocks take `overlap` of each other's time: n of them are n to
    the power of it as fast as one.
    """

    tile: float  # once
    slab: float
    chunk: float  # of every warp
    group: float  # 16 columns of a chunk
    product: float  # a group and 64 channels
    copy: float  # 256 bytes
    overlap: float
    alone: float = 0  # a slab, where shared memory holds only one


# Of 16-bit elements, and of float32 in three products.
COSTS: dict[tuple[str, int], Costs] = {
    ("scores", 2): Costs(4830, 2220, 1090, 260, 310, 2, 0.7),
    ("outputs", 2): Costs(3060, 1650, 880, 50, 330, 27, 0.7),
    ("score_gradients", 2): Costs(7460, 2870, 1560, 35, 270, 21, 0.7),
    ("inverse", 2): Costs(3690, 2740, 0, 340, 150, 47, 0.7),
    ("scores", 4): Costs(4830, 2220, 1090, 260, 1395, 2, 0.7),
    ("outputs", 4): Costs(3060, 1650, 880, 50, 1485, 27, 0.7),
    ("score_gradients", 4): Costs(7460, 2870, 1560, 35, 1215, 21, 0.7),
    ("inverse", 4): Costs(3690, 2740, 0, 340, 675, 47, 0.7),
    ("weights", 2): Costs(400, 1380, 510, 110, 130, 21, 0.4, 160),
    ("values", 2): Costs(600, 1990, 0, 86, 16, 34, 0.55, 470),
    ("gradients", 2): Costs(820, 3190, 0, 210, 96, 27, 0.6, 455),
    ("weights", 4): Costs(380, 1710, 270, 117, 890, 22, 0.5, 220),
    ("values", 4): Costs(640, 2070, 0, 84, 546, 29, 0.55, 515),
    ("gradients", 4): Costs(1900, 3040, 295, 0, 497, 30, 0.6, 390),
}
# Products beside those of float32 in three.
TF32_SCALE = 0.67
FLOAT64_SCALE = 2.7
CLOCKS_PER_US = 1750.0

# Rows of gradients of a kernel whose fragments stay in registers, once for each gradient.
ROW_STORE = 500.0

# Products whose rows of slots are a caller's and no 16-byte vectors, as windows have odd lengths.
SLOT_SCALE = {"scores": 1.5, "outputs": 3.2, "inverse": 1.1}


@dataclass(frozen=True, slots=True)
class Whole:
    """What a plan of forward, or of one side of backward, takes beside the costs of its tiles.

    Fitted on an H200: in float16 to 39 problems, with root-mean-square errors of 7 to 11 %; in
    float32 and TF32 to 98 and 62 problems of the sweep, with errors of 6 to 10 %.
    """

    scale: float  # of the time of tiles
    moved: float  # of the time in which memory moves the queries
    pair: float = 0  # clocks of a multiprocessor for each query and key that meet
    launch_us: float = 15.0  # of a kernel of a further call: it may not fill the device


_UNFITTED = Whole(1.0, 0.0)
# By the bytes of an element, and whether float32 is computed in TF32.
_WHOLE = {
    ("forward", 2, False): Whole(0.82, 4.6),
    ("forward", 4, False): Whole(0.752, 3.67, 0.25, 8.0),
    ("forward", 4, True): Whole(0.575, 5.35, 0.311, 8.0),
    ("backward", 2, False): Whole(0.85, 7.85),
    ("backward", 4, False): Whole(0.943, 4.15, 0.179),
    ("backward", 4, True): Whole(0.56, 7.08, 0.315),
}
# Where backward leaves fragments to further kernels.
_WHOLE_OF_FRAGMENTS = {(2, False): Whole(0.95, 4.5), (4, False): Whole(1.05, 3.7)}


def whole_of(problem: Problem, operation: Operation, leaves_rows: bool) -> Whole:
    """The figures of an operation."""
    key = problem.item_bytes, problem.allow_tf32 and problem.dtype == "float32"
    if operation == "backward" and not leaves_rows:
        return _WHOLE_OF_FRAGMENTS.get(key, _UNFITTED)
    return _WHOLE.get((operation, *key), _UNFITTED)
