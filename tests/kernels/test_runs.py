"""How the naive kernels cut a problem, and what the backend says about it without a GPU."""

from __future__ import annotations

import math

import pytest
from hypothesis import given

from cupyna.backends.naive import CudaNaive
from cupyna.geometry import Axis
from cupyna.kernels.runs import LANE_CHANNELS, RUN, Runs, computed_channels, lanes_of
from cupyna.problem import DeviceSpec, Problem
from cupyna.testing import axes, problems

HOPPER = DeviceSpec("test", "cuda", processors=132, compute_capability=(9, 0))


def line_problem(axis: Axis) -> Problem:
    return Problem(
        1, (axis.length,), 1, 1, 8, 8, "float32",
        (axis.kernel_size,), (axis.stride,), (axis.dilation,), (axis.is_causal,),
    )  # fmt: skip


@given(axis=axes(max_length=60))
def test_a_block_has_room_for_the_box_of_every_run(axis: Axis) -> None:
    runs = Runs.of(line_problem(axis))
    assert runs.keys % 2 == 0
    for _, line in axis.lines():
        assert runs.per_group * RUN >= line.length
        for first in range(0, line.length, RUN):
            last = min(first + RUN, line.length) - 1
            # Slots of the last window included, keys or not: each has its place in the block.
            needed = line.window_begin(last) + axis.kernel_size - line.window_begin(first)
            assert needed <= runs.keys


@given(problem=problems())
def test_items_and_quads_count_the_whole_grid(problem: Problem) -> None:
    runs = Runs.of(problem)
    assert runs.items * RUN >= problem.tokens
    assert runs.quads == math.prod(problem.kernel_size[:-1]) * runs.keys
    shape = runs.block_shape(problem)
    assert math.prod(shape) >= problem.batch * problem.heads * problem.tokens * problem.window


@pytest.mark.parametrize(
    ("channels", "lanes"), [(1, 4), (32, 4), (33, 8), (64, 8), (80, 16), (256, 32), (1000, 32)]
)
def test_lanes_hold_a_row_where_a_warp_can(channels: int, lanes: int) -> None:
    assert lanes_of(channels) == lanes
    assert lanes * LANE_CHANNELS >= min(channels, 256)


@given(problem=problems())
def test_every_problem_is_supported_and_costed(problem: Problem) -> None:
    backend = CudaNaive()
    for operation in ("forward", "backward", "qk", "av", "qk_backward", "av_backward"):
        assert backend.refusals(problem, operation, HOPPER) == ()
        choice = backend.choice(problem, operation, HOPPER)
        assert choice.computed_products >= choice.useful_products > 0
        assert choice.time_us > 0 and choice.workspace_bytes > 0


def test_refusals_name_the_device_and_the_size() -> None:
    backend, axis = CudaNaive(), Axis(9, 3)
    old = DeviceSpec("test", "cuda", compute_capability=(7, 5))
    [reason] = backend.refusals(line_problem(axis), "forward", old)
    assert "8.x, 9.0, 10.x and 12.x" in reason and "7.5" in reason
    [reason] = backend.refusals(line_problem(Axis(2**30, 3)), "forward", HOPPER)
    assert "1073741824 tokens" in reason


@pytest.mark.parametrize(
    ("channels", "computed"), [(8, 32), (32, 32), (48, 64), (80, 128), (136, 256), (300, 512)]
)
def test_lanes_compute_a_power_of_two_of_channels(channels: int, computed: int) -> None:
    assert computed_channels(channels) == computed
