"""The fused forward on Hopper against the oracle, with every compiled shape and many tiles."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import cupyna
from cupyna import fused
from cupyna.arrays import Device, library_of
from cupyna.backends.hopper import CudaHopper, launch_forward
from cupyna.devices import device_spec
from cupyna.execution import Execution
from cupyna.kernels.hopper.choice import ForwardChoice
from cupyna.kernels.hopper.heuristics import hopper_choices
from cupyna.kernels.hopper.schedule import Schedule
from cupyna.kernels.hopper.short_tiles import ShortTiles
from cupyna.operands import ForwardArrays
from cupyna.problem import DeviceSpec, Problem
from cupyna.testing import Inputs, expected_forward, inputs, problems
from cupyna.testing.cases import small_problems

from .libraries import CANARY, GUARD, full, get, put

pytestmark = pytest.mark.gpu

DTYPES = ("float16", "bfloat16")
HEAD_DIMS = (8, 24, 32, 40, 64, 72, 96, 128, 160, 192, 256)


def device() -> DeviceSpec:
    found = device_spec(Device("cuda", 0))
    if found.compute_capability != (9, 0):
        pytest.skip("needs compute capability 9.0")
    return found


def best_of_each_shape(problem: Problem) -> Iterator[ForwardChoice]:
    seen = set()
    for choice in sorted(hopper_choices(problem, device()), key=lambda choice: choice.time_us):
        if choice.shape not in seen:
            seen.add(choice.shape)
            yield choice


def poisoned(shape: tuple[int, ...], dtype: str):
    """An array full of NaN, and the allocation with a canary on each side of it."""
    size = math.prod(shape)
    whole = full("cupy", (size + 2 * GUARD,), dtype, CANARY)
    inside = whole[GUARD : GUARD + size]
    inside[...] = float("nan")
    return inside.reshape(shape), whole


def attend(
    problem: Problem, given: Inputs, choice: ForwardChoice, arrays=None
) -> tuple[np.ndarray, np.ndarray]:
    import cupy

    q, k, v = [put("cupy", a) for a in (given.q, given.k, given.v)] if arrays is None else arrays
    rows = (problem.batch, *problem.spatial, problem.heads)
    out, around_out = poisoned((*rows, problem.value_dim), problem.dtype)
    lse, around_lse = poisoned(rows, "float32")
    view = library_of(q, "q").view
    execution = Execution(device(), cupy.cuda.get_current_stream().ptr, cupy.empty)
    views = ForwardArrays(*map(view, (q, k, v)), None, *map(view, (out, lse)))
    launch_forward(problem, given.scale, execution, choice, views)
    for whole in (around_out, around_lse):
        canaries = np.concatenate([get(whole[:GUARD]), get(whole[-GUARD:])])
        assert (canaries == canaries.dtype.type(CANARY)).all()
    return get(out), get(lse)


def check(problem: Problem, given: Inputs) -> None:
    expected = expected_forward(problem, given, weights=problem.dtype)
    for choice in best_of_each_shape(problem):
        out, lse = attend(problem, given, choice)
        expected["out"].check(out)
        expected["lse"].check(lse)


NAMED = {
    name: replace(problem, has_bias=False)
    for name, problem in small_problems(DTYPES)
    if problem.head_dim % 8 == 0 and problem.head_dim <= 256 and problem.value_dim % 8 == 0
}


@pytest.mark.parametrize("problem", NAMED.values(), ids=NAMED.keys())
def test_named_problems(problem: Problem) -> None:
    if not CudaHopper().refusals(problem, "forward", device()):
        check(problem, inputs(problem))


@given(
    problem=problems(dtypes=DTYPES, max_tokens=900),
    channels=st.tuples(st.sampled_from(HEAD_DIMS), st.sampled_from(HEAD_DIMS)),
    scale=st.sampled_from([None, 0.0, -0.7, 2.0]),
    seed=st.integers(0, 2**16),
)
def test_any_problem(
    problem: Problem, channels: tuple[int, int], scale: float | None, seed: int
) -> None:
    problem = replace(problem, head_dim=channels[0], value_dim=channels[1], has_bias=False)
    assume(not CudaHopper().refusals(problem, "forward", device()))
    given = inputs(problem, seed)
    check(problem, given if scale is None else replace(given, scale=scale))


@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize(
    ("spatial", "kernel_size"), [((1100,), (500,)), ((41, 37), (13, 20)), ((11, 13, 17), (5, 9, 6))]
)
def test_more_tiles_than_processors(spatial, kernel_size, head_dim: int) -> None:
    rank = len(spatial)
    problem = Problem(
        1, spatial, 24, 6, head_dim, head_dim, "float16",
        kernel_size, (2,) * rank, (1,) * rank, (False,) * rank,
    )  # fmt: skip
    check(problem, inputs(problem))


@pytest.mark.parametrize("head_dim", [32, 96, 192])
def test_boxes_that_reach_into_the_next_head(head_dim: int) -> None:
    problem = Problem(
        2, (7, 9, 11), 3, 3, head_dim, head_dim, "float16",
        (4, 5, 6), (1, 2, 1), (1, 1, 1), (False, True, False),
    )  # fmt: skip
    assert not CudaHopper().refusals(problem, "forward", device())
    check(problem, inputs(problem))


@pytest.mark.parametrize(
    "grid",
    [Schedule(3, 0, 5, True), Schedule(5, 2, 1, True), Schedule(200, 3), Schedule(4, 2, 7)],
    ids=["turns", "reversed turns", "apart", "rotated"],
)
@pytest.mark.parametrize("head_dim", [32, 64, 128])
def test_any_order_of_tiles(head_dim: int, grid: Schedule, monkeypatch) -> None:
    problem = Problem(
        1, (29, 44), 3, 3, head_dim, head_dim, "bfloat16",
        (17, 23), (1, 3), (1, 1), (False, True),
    )  # fmt: skip
    monkeypatch.setattr("cupyna.kernels.hopper.schedule.schedule", lambda *_: grid)
    given = inputs(problem)
    check(problem, given)
    for choice in best_of_each_shape(problem):
        first = attend(problem, given, choice)
        for a, b in zip(first, attend(problem, given, choice), strict=True):
            np.testing.assert_array_equal(a.view(np.uint8), b.view(np.uint8))


@pytest.mark.parametrize("whole", [0, 1, 2])
@pytest.mark.parametrize("head_dim", [32, 64, 128])
@pytest.mark.parametrize("spatial", [(700,), (19, 41), (5, 12, 15)])
def test_short_tiles(
    spatial: tuple[int, ...], head_dim: int, whole: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rank = len(spatial)
    problem = Problem(
        2, spatial, 3, 1, head_dim, head_dim, "float16",
        tuple(length // 2 for length in spatial), (2,) * rank, (1,) * rank, (False,) * rank,
    )  # fmt: skip

    def with_short_tiles(problem: Problem, choice: ForwardChoice, _: DeviceSpec) -> Schedule:
        axis = choice.split_axis
        extent = choice.consumer_tile[axis] * (choice.shape.consumers - 1)
        begin = min(whole, (spatial[axis] - 1) // choice.row_tile[axis]) * choice.row_tile[axis]
        shorts = ShortTiles(begin, extent, -(-(spatial[axis] - begin) // extent))
        return Schedule(7, takes_turns=whole > 0, shorts=shorts)

    monkeypatch.setattr("cupyna.kernels.hopper.schedule.schedule", with_short_tiles)
    check(problem, inputs(problem))


def test_arrays_of_any_layout_that_boxes_allow() -> None:
    import cupy

    problem = Problem(
        2, (18, 22), 4, 2, 64, 64, "float16", (7, 8), (1, 1), (1, 1), (False, False)
    )  # fmt: skip
    given = inputs(problem)
    expected = expected_forward(problem, given, weights="float16")

    def padded(array: np.ndarray):
        shape = tuple(length + 1 for length in array.shape[:-1])
        whole = cupy.full((*shape, array.shape[-1] + 8), cupy.nan, array.dtype)
        inside = whole[tuple(slice(1, None) for _ in shape)][..., 8:]
        inside[...] = cupy.asarray(array)
        return inside

    def heads_first(array: np.ndarray):
        return cupy.ascontiguousarray(cupy.asarray(array).transpose(0, 3, 1, 2, 4)).transpose(
            0, 2, 3, 1, 4
        )

    def columns_first(array: np.ndarray):
        return cupy.ascontiguousarray(cupy.asarray(array).swapaxes(1, 2)).swapaxes(1, 2)

    for lay in (padded, heads_first, columns_first):
        arrays = [lay(array) for array in (given.q, given.k, given.v)]
        for choice in best_of_each_shape(problem):
            out, lse = attend(problem, given, choice, arrays)
            expected["out"].check(out)
            expected["lse"].check(lse)


@pytest.mark.parametrize("head_dim", [64, 128])
def test_every_run_gives_the_same_bits(head_dim: int) -> None:
    problem = Problem(
        2, (40, 33), 4, 2, head_dim, head_dim, "float16",
        (19, 12), (1, 3), (2, 1), (False, True),
    )  # fmt: skip
    given = inputs(problem)
    for choice in best_of_each_shape(problem):
        first = attend(problem, given, choice)
        for _ in range(30):
            for a, b in zip(first, attend(problem, given, choice), strict=True):
                np.testing.assert_array_equal(a.view(np.uint8), b.view(np.uint8))


def test_auto_takes_it_for_a_large_window() -> None:
    import cupy

    device()
    q = cupy.ones((1, 4096, 8, 128), "float16")
    answer = cupyna.explain(q, q, q, 1024)
    assert answer.selected is not None and answer.selected.name == "cuda-hopper"
    reversed_q = q[:, ::-1]
    answer = cupyna.explain(reversed_q, q, q, 1024)
    assert answer.selected is not None and answer.selected.name == "cuda-fused"
    assert "not broadcast or reversed" in str(answer)
    expected = get(fused.na1d(cupy.ascontiguousarray(reversed_q), q, q, 1024))
    np.testing.assert_allclose(get(fused.na1d(reversed_q, q, q, 1024)), expected, rtol=2e-3)
