"""The kernels for few keys on a GPU against the oracle, whatever the cost models hold of them."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cupyna import fused
from cupyna.backends.direct import CudaDirect
from cupyna.problem import Problem
from cupyna.testing import (
    Inputs,
    expected_backward,
    expected_forward,
    inputs,
    problems,
    stored_forward,
)
from cupyna.testing.cases import small_problems
from cupyna.testing.sanitize import only

from .libraries import each_gpu_library, get, guarded, put

DTYPES = ("float16", "bfloat16", "float32")
MOST_CHANNELS = 128
NAMED = {
    name: problem
    for name, problem in small_problems(DTYPES)
    if problem.head_dim % 8 == 0 and problem.value_dim % 8 == 0
    if max(problem.head_dim, problem.value_dim) <= MOST_CHANNELS
}
named_problems = pytest.mark.parametrize("problem", NAMED.values(), ids=NAMED.keys())
head_dims = st.sampled_from([8, 16, 24, 32, 40, 64, 72, 128])
scales = st.sampled_from([None, 0.0, -0.7, 2.0])


def attend(library: str, problem: Problem, given: Inputs) -> list[np.ndarray]:
    q, k, v = (put(library, a) for a in (given.q, given.k, given.v))
    bias = None if given.bias is None else put(library, given.bias)
    with only(CudaDirect()), guarded(library):
        out, lse = fused.neighborhood_attention(
            q, k, v, problem.kernel_size,
            stride=problem.stride, dilation=problem.dilation, is_causal=problem.is_causal,
            scale=given.scale, bias=bias, return_lse=True,
        )  # fmt: skip
    return [get(out), get(lse)]


def check(library: str, problem: Problem, given: Inputs) -> None:
    expected = expected_forward(problem, given)
    for name, array in zip(("out", "lse"), attend(library, problem, given), strict=True):
        expected[name].check(array)


def differentiate(
    library: str, problem: Problem, given: Inputs, stored: tuple[np.ndarray, np.ndarray]
) -> list[np.ndarray]:
    arrays = (given.dout, given.q, given.k, given.v, *stored)
    bias = None if given.bias is None else put(library, given.bias)
    with only(CudaDirect()), guarded(library):
        found = fused.neighborhood_attention_backward(
            *(put(library, a) for a in arrays), problem.kernel_size,
            stride=problem.stride, dilation=problem.dilation, is_causal=problem.is_causal,
            scale=given.scale, bias=bias, dlse=put(library, given.dlse),
        )  # fmt: skip
    return [get(gradient) for gradient in found[:3]]


def check_gradients(library: str, problem: Problem, given: Inputs) -> None:
    expected = expected_backward(problem, given, with_dlse=True)
    gradients = differentiate(library, problem, given, stored_forward(problem, given))
    for name, gradient in zip(("dq", "dk", "dv"), gradients, strict=True):
        expected[name].check(gradient)


@each_gpu_library
@named_problems
def test_named_problems(library: str, problem: Problem) -> None:
    check(library, problem, inputs(problem))


@each_gpu_library
@named_problems
def test_gradients_of_named_problems(library: str, problem: Problem) -> None:
    check_gradients(library, problem, inputs(problem))


def changed(
    problem: Problem, channels: tuple[int, int], scale: float | None, seed: int
) -> tuple[Problem, Inputs]:
    problem = replace(problem, head_dim=channels[0], value_dim=channels[1])
    given = inputs(problem, seed)
    return problem, given if scale is None else replace(given, scale=scale)


@pytest.mark.gpu
@given(
    problem=problems(dtypes=DTYPES, max_tokens=400),
    channels=st.tuples(head_dims, head_dims),
    scale=scales,
    seed=st.integers(0, 2**16),
)
def test_any_problem(
    problem: Problem, channels: tuple[int, int], scale: float | None, seed: int
) -> None:
    check("cupy", *changed(problem, channels, scale, seed))


@pytest.mark.gpu
@given(
    problem=problems(dtypes=DTYPES, max_tokens=400),
    channels=st.tuples(head_dims, head_dims),
    scale=scales,
    seed=st.integers(0, 2**16),
)
def test_gradients_of_any_problem(
    problem: Problem, channels: tuple[int, int], scale: float | None, seed: int
) -> None:
    check_gradients("cupy", *changed(problem, channels, scale, seed))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("head_dim", [32, 64, 128])
def test_every_run_gives_the_same_bits(dtype: str, head_dim: int) -> None:
    problem = Problem(
        2, (40, 33), 4, 2, head_dim, head_dim, dtype, (5, 4), (1, 3), (2, 1), (False, True)
    )  # fmt: skip
    given = inputs(problem)
    for run in (attend, partial(differentiate, stored=stored_forward(problem, given))):
        first = run("cupy", problem, given)
        for _ in range(50):
            for a, b in zip(first, run("cupy", problem, given), strict=True):
                np.testing.assert_array_equal(a.view(np.uint8), b.view(np.uint8))
