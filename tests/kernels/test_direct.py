"""Shapes, tiles and expected times of the kernels for few keys, without a GPU."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cupyna.arrays import DeviceArray, has_short_steps
from cupyna.backends.direct import CudaDirect
from cupyna.dispatch import select
from cupyna.kernels.direct.costs import AxisRuns, direct_passes, tiled
from cupyna.kernels.direct.shapes import DIRECT_FORWARD_SHAPES, DIRECT_GRADIENT_SHAPES, THREADS
from cupyna.problem import Operation, Problem
from cupyna.profiling.gpus import GPUS
from cupyna.testing import problems

H200 = GPUS["H200"].spec
OPERATIONS: tuple[Operation, ...] = ("forward", "backward")
SHAPES = (*DIRECT_FORWARD_SHAPES, *DIRECT_GRADIENT_SHAPES)


def line(**fields: object) -> Problem:
    usual = {
        "batch": 8, "spatial": (4096,), "heads": 16, "kv_heads": 16, "head_dim": 32,
        "value_dim": 32, "dtype": "float16", "kernel_size": (7,), "stride": (1,),
        "dilation": (585,), "is_causal": (False,),
    }  # fmt: skip
    return Problem(**{**usual, **fields})  # type: ignore[arg-type]


@settings(max_examples=60)
@given(problem=problems(max_tokens=400), pick=st.integers(0, 2**16))
def test_every_row_is_in_one_run(problem: Problem, pick: int) -> None:
    shape = SHAPES[pick % len(SHAPES)]
    choice = tiled(problem, shape)
    for axis, runs, rows in zip(
        problem.axes, choice.runs(problem), (1,) * (problem.rank - 1) + (shape.rows,), strict=True
    ):
        found = []
        for run in range(runs.count):
            # As DirectPlaces::place does.
            of_longer, of_shorter, longer, longer_runs, _ = runs.fields
            if run < longer_runs:
                group, place = divmod(run, of_longer)
            else:
                group, place = divmod(run - longer_runs, of_shorter)
                group += longer
            positions = range(place * rows, min(place * rows + rows, axis.group_length(group)))
            assert len(positions) > 0
            found += [group + position * axis.dilation for position in positions]
        assert sorted(found) == list(range(axis.length))


@settings(max_examples=60)
@given(problem=problems(max_tokens=400), pick=st.integers(0, 2**16))
def test_every_choice_can_be_launched(problem: Problem, pick: int) -> None:
    shape = SHAPES[pick % len(SHAPES)]
    choice = tiled(problem, shape)
    heads = problem.heads if shape.side == "query" else problem.kv_heads
    assert heads % choice.heads == 0
    assert choice.heads * math.prod(choice.run_tile) * shape.lanes == THREADS
    tiles, planes, _ = choice.grid(problem, H200)
    assert tiles == math.prod(choice.tiles(problem))
    assert 1 <= planes <= choice.planes(problem) == problem.batch * heads // choice.heads


def test_runs_of_a_group_that_is_longer_come_first() -> None:
    (axis,) = line().axes
    assert AxisRuns.along(axis, 4) == AxisRuns(of_longer=2, of_shorter=2, longer=1, groups=585)
    assert AxisRuns.along(axis, 1).count == 4096


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("head_dim", [8, 32, 40, 64, 128])
def test_few_keys_far_apart_are_taken_one_by_one(
    operation: Operation, dtype: str, head_dim: int
) -> None:
    problem = line(dtype=dtype, head_dim=head_dim, value_dim=head_dim)
    # In backward of 16-bit elements, tensor cores with several heads to a block compete.
    picked = select(problem, operation, H200, "fused").name
    is_close = operation == "backward" and dtype != "float32"
    assert picked in (("cuda-direct", "cuda-window") if is_close else ("cuda-direct",))
    passes = direct_passes(problem, operation, H200)
    assert passes is not None
    assert [chosen.shape.gradient for chosen in passes] == (
        [None] if operation == "forward" else ["query", "key"]
    )
    choice = CudaDirect().choice(problem, operation, H200)
    assert choice.time_us == sum(chosen.time_us for chosen in passes)
    assert all("direct" in kernel for kernel in choice.kernel.split(" + "))


def test_runs_ask_ahead_where_one_line_of_columns_has_gaps() -> None:
    def sharers(**fields: object) -> list[int]:
        problem = line(dtype="float32", **fields)
        passes = direct_passes(problem, "backward", H200)
        assert passes is not None
        for chosen in passes:
            assert chosen.run_tile[-1] % max(chosen.sharers(problem), 1) == 0
        return [chosen.sharers(problem) for chosen in passes]

    plane = {"spatial": (64, 64), "stride": (1, 1), "is_causal": (False, False)}
    assert sharers(kernel_size=(31,), dilation=(132,)) == [4, 4]
    assert sharers(kernel_size=(3,), dilation=(7,)) == [1, 1]
    assert sharers(kernel_size=(31,), dilation=(1,)) == [0, 0]
    assert sharers(**plane, kernel_size=(1, 9), dilation=(1, 7)) == [4, 4]
    assert sharers(**plane, kernel_size=(3, 9), dilation=(1, 7)) == [0, 0]


@pytest.mark.parametrize(
    ("spatial", "window", "dilation", "rows"),
    [((4096,), 31, 132, 4), ((4096,), 31, 1, 4), ((64, 64), 3, 1, 2), ((32, 32, 32), 5, 1, 2)],
)
def test_runs_of_keys_are_as_long_as_pays(
    spatial: tuple[int, ...], window: int, dilation: int, rows: int
) -> None:
    rank = len(spatial)
    problem = line(
        dtype="float32", head_dim=64, value_dim=64, spatial=spatial,
        kernel_size=(window,) * rank, stride=(1,) * rank, dilation=(dilation,) * rank,
        is_causal=(False,) * rank,
    )  # fmt: skip
    passes = direct_passes(problem, "backward", H200)
    assert passes is not None
    assert passes[1].shape.rows == rows


@pytest.mark.parametrize("operation", OPERATIONS)
def test_many_keys_are_left_to_tensor_cores(operation: Operation) -> None:
    problem = line(kernel_size=(127,), dilation=(1,))
    assert select(problem, operation, H200, "fused").name != "cuda-direct"


@pytest.mark.parametrize("fields", [{"head_dim": 136}, {"dtype": "float64"}])
def test_what_no_shape_serves_is_left_to_other_kernels(fields: dict[str, object]) -> None:
    for operation in OPERATIONS:
        assert direct_passes(line(**fields), operation, H200) is None


def test_neighbors_may_be_two_gigabytes_apart() -> None:
    problem = line(dilation=(4,), spatial=(64,))
    for stride, is_short in ((2**28 - 1, True), (2**28, False), (-(2**28), False)):
        array = DeviceArray(4096, (8, 64, 16, 32), (0, stride, 32, 1), "float16", 0)
        assert has_short_steps(array, problem.dilation) == is_short
        refusals = CudaDirect().refusals(
            replace(problem, has_short_steps=is_short), "forward", H200
        )
        assert bool(refusals) != is_short


def test_a_tile_takes_heads_that_lie_together() -> None:
    for shape, heads in itertools.product(DIRECT_FORWARD_SHAPES, (1, 3, 4, 6, 16)):
        choice = tiled(replace(line(), heads=heads, kv_heads=heads), shape)
        assert choice.heads == min(heads & -heads, 32 // shape.lanes)
