"""The fused backward on Hopper against the oracle, with every compiled shape and many tiles."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cupyna.arrays import library_of
from cupyna.backends.hopper import CudaHopper
from cupyna.backends.hopper_backward import launch_backward
from cupyna.dispatch import select
from cupyna.execution import Execution
from cupyna.kernels.hopper.choice import GradientChoice
from cupyna.kernels.hopper.gradient_heuristics import hopper_gradient_choices
from cupyna.operands import BackwardArrays
from cupyna.problem import Problem
from cupyna.testing import Inputs, expected_backward, inputs, problems, stored_forward
from cupyna.testing.cases import small_problems

from .libraries import CANARY, GUARD, get, put
from .test_hopper import device, poisoned

pytestmark = pytest.mark.gpu

DTYPES = ("float16", "bfloat16")
HEAD_DIMS = (8, 24, 32, 64, 72, 96, 128)
Passes = tuple[GradientChoice, ...]


def all_passes(problem: Problem) -> list[Passes]:
    """The best tiles of each shape that gives all gradients, and of each pair that does."""
    best: dict[Any, GradientChoice] = {}
    for choice in sorted(
        hopper_gradient_choices(problem, device()), key=lambda choice: choice.time_us
    ):
        best.setdefault(choice.shape, choice)
    lone = [(choice,) for shape, choice in best.items() if shape.sums_queries]
    queries = [choice for shape, choice in best.items() if shape.side == "query"]
    keys = [c for shape, c in best.items() if shape.side == "key" and not shape.sums_queries]
    most = max(len(queries), len(keys))
    pairs = zip((queries * most)[:most], (keys * most)[:most], strict=True)
    return [*lone, *pairs]


def differentiate(
    problem: Problem, given: Inputs, passes: Passes, arrays: Any = None, stored: Any = None
) -> list[np.ndarray]:
    import cupy

    if stored is None:
        stored = stored_forward(problem, given)
    if arrays is None:
        arrays = [put("cupy", a) for a in (given.dout, given.q, given.k, given.v)]
    out, lse, dlse = (put("cupy", a) for a in (*stored, given.dlse))
    view = library_of(out, "out").view
    kept = []

    def empty(shape: tuple[int, ...], dtype: str) -> Any:
        inside, whole = poisoned(shape, dtype)
        kept.append(whole)
        return view(inside)

    gradients = []
    for array in arrays[1:]:
        inside, whole = poisoned(array.shape, problem.dtype)
        kept.append(whole)
        gradients.append(inside)
    execution = Execution(device(), cupy.cuda.get_current_stream().ptr, empty)
    dout, *rows = map(view, arrays)
    views = BackwardArrays(
        *rows, None, view(out), view(lse), dout, view(dlse), *map(view, gradients), None
    )
    launch_backward(problem, given.scale, execution, passes, views)
    for whole in kept:
        canaries = np.concatenate([get(whole[:GUARD]), get(whole[-GUARD:])])
        assert (canaries == canaries.dtype.type(CANARY)).all()
    return [get(gradient) for gradient in gradients]


def check(problem: Problem, given: Inputs) -> None:
    expected = expected_backward(problem, given, with_dlse=True, weights=problem.dtype)
    for passes in all_passes(problem):
        gradients = differentiate(problem, given, passes)
        for name, found in zip(("dq", "dk", "dv"), gradients, strict=True):
            expected[name].check(found)


NAMED = {
    name: replace(problem, has_bias=False)
    for name, problem in small_problems(DTYPES)
    if problem.head_dim % 8 == 0 and problem.head_dim <= 128 and problem.value_dim % 8 == 0
}
# Keys under five heads: a walk comes round in every ring of stages, of which the longest has four.
NAMED |= {
    f"rounds-{channels}-{dtype}": Problem(
        1, (5, 13), 10, 2, channels, channels, dtype, (3, 5), (1, 1), (1, 1), (False, True)
    )
    for channels in (32, 64, 96, 128)
    for dtype in DTYPES
}


@pytest.mark.parametrize("problem", NAMED.values(), ids=NAMED.keys())
def test_named_problems(problem: Problem) -> None:
    if not CudaHopper().refusals(problem, "backward", device()):
        check(problem, inputs(problem))


@given(
    problem=problems(dtypes=DTYPES, max_tokens=900),
    channels=st.tuples(st.sampled_from(HEAD_DIMS), st.sampled_from(HEAD_DIMS)),
    scale=st.sampled_from([None, 0.0, -0.7, 2.0]),
    seed=st.integers(0, 2**16),
)
def test_any_gradient(
    problem: Problem, channels: tuple[int, int], scale: float | None, seed: int
) -> None:
    problem = replace(problem, head_dim=channels[0], value_dim=channels[1], has_bias=False)
    assume(not CudaHopper().refusals(problem, "backward", device()))
    given = inputs(problem, seed)
    check(problem, given if scale is None else replace(given, scale=scale))


@pytest.mark.parametrize("head_dim", [32, 96])
def test_boxes_that_reach_into_the_next_head(head_dim: int) -> None:
    problem = Problem(
        2, (7, 9, 11), 4, 2, head_dim, head_dim, "float16",
        (4, 5, 6), (1, 2, 1), (1, 1, 1), (False, True, False),
    )  # fmt: skip
    assert not CudaHopper().refusals(problem, "backward", device())
    check(problem, inputs(problem))


@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize(
    ("spatial", "kernel_size"), [((1100,), (500,)), ((41, 37), (13, 20)), ((11, 13, 17), (5, 9, 6))]
)
def test_large_windows(spatial, kernel_size, head_dim: int) -> None:
    rank = len(spatial)
    problem = Problem(
        1, spatial, 4, 2, head_dim, head_dim, "float16",
        kernel_size, (2,) * rank, (1,) * rank, (False,) * rank,
    )  # fmt: skip
    check(problem, inputs(problem))


def test_arrays_of_any_layout_that_boxes_allow() -> None:
    import cupy

    problem = Problem(
        2, (18, 22), 4, 2, 64, 64, "float16", (7, 8), (1, 1), (1, 1), (False, False)
    )  # fmt: skip
    given = inputs(problem)
    expected = expected_backward(problem, given, with_dlse=True, weights="float16")

    def heads_first(array: np.ndarray):
        return cupy.ascontiguousarray(cupy.asarray(array).transpose(0, 3, 1, 2, 4)).transpose(
            0, 2, 3, 1, 4
        )

    def columns_first(array: np.ndarray):
        return cupy.ascontiguousarray(cupy.asarray(array).swapaxes(1, 2)).swapaxes(1, 2)

    for lay in (heads_first, columns_first):
        arrays = [lay(array) for array in (given.dout, given.q, given.k, given.v)]
        for passes in all_passes(problem):
            gradients = differentiate(problem, given, passes, arrays)
            for name, found in zip(("dq", "dk", "dv"), gradients, strict=True):
                expected[name].check(found)


@pytest.mark.parametrize(("head_dim", "dtype"), [(64, "float16"), (128, "bfloat16")])
def test_a_hundred_repeats(head_dim: int, dtype: str) -> None:
    """Two passes give the same bits in every run, one pass the same within rounding."""
    problem = Problem(
        2, (24, 19), 4, 2, head_dim, head_dim, dtype,
        (11, 6), (1, 3), (2, 1), (False, True),
    )  # fmt: skip
    given = inputs(problem)
    stored = stored_forward(problem, given)
    expected = expected_backward(problem, given, with_dlse=True, weights=dtype)
    for passes in all_passes(problem):
        first = differentiate(problem, given, passes, stored=stored)
        for _ in range(100):
            again = differentiate(problem, given, passes, stored=stored)
            for name, a, b in zip(("dq", "dk", "dv"), first, again, strict=True):
                if len(passes) == 2 or name != "dq":
                    np.testing.assert_array_equal(a.view(np.uint8), b.view(np.uint8))
                else:
                    expected[name].check(b)


@pytest.mark.parametrize(
    ("head_dim", "is_causal"), [(32, True), (64, False), (96, True), (128, False)]
)
def test_blocks_that_take_many_tiles(head_dim: int, is_causal: bool) -> None:
    """More tiles than multiprocessors: every block takes several, of many heads and entries."""
    problem = Problem(
        3, (20, 12), 16, 16, head_dim, head_dim, "float16",
        (9, 8), (1, 1), (1, 1), (is_causal, False),
    )  # fmt: skip
    check(problem, inputs(problem))


def test_auto_takes_it_for_a_large_window() -> None:
    large = Problem(
        1, (16384,), 8, 8, 128, 128, "float16", (2048,), (1,), (1,), (False,)
    )  # fmt: skip
    assert select(large, "backward", device(), None).name == "cuda-hopper"
    assert select(replace(large, has_bias=True), "backward", device(), None).name != "cuda-hopper"
