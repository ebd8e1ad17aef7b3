"""The fused method on a GPU against the oracle, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import cupyna
from cupyna import fused
from cupyna.kernels.fused import heuristics
from cupyna.problem import DeviceSpec, Problem
from cupyna.testing import (
    Inputs,
    expected_backward,
    expected_forward,
    inputs,
    problems,
    stored_forward,
)
from cupyna.testing.cases import small_problems

from .libraries import each_gpu_library, get, guarded, put

DTYPES = ("float16", "bfloat16", "float32")
MOST_CHANNELS = 256
NAMED = {
    name: problem
    for name, problem in small_problems(DTYPES)
    if problem.head_dim % 8 == 0 and problem.value_dim % 8 == 0
    if problem.head_dim <= MOST_CHANNELS
}
named_problems = pytest.mark.parametrize("problem", NAMED.values(), ids=NAMED.keys())
head_dims = st.sampled_from([8, 16, 24, 32, 40, 64, 72, 128, 160, 256])


def with_channels(problem: Problem, channels: tuple[int, int], allow_tf32: bool) -> Problem:
    head_dim, value_dim = channels
    return replace(problem, head_dim=head_dim, value_dim=value_dim, allow_tf32=allow_tf32)


def attend(library: str, problem: Problem, given: Inputs) -> tuple[np.ndarray, np.ndarray]:
    q, k, v, bias = (put(library, a) for a in (given.q, given.k, given.v, given.bias))
    with guarded(library):
        out, lse = fused.neighborhood_attention(
            q, k, v, problem.kernel_size,
            stride=problem.stride, dilation=problem.dilation, is_causal=problem.is_causal,
            bias=bias, scale=given.scale, allow_tf32=problem.allow_tf32, return_lse=True,
        )  # fmt: skip
    return get(out), get(lse)


def check(library: str, problem: Problem, given: Inputs) -> None:
    out, lse = attend(library, problem, given)
    # Weights are rounded to the inputs' type before they meet the values.
    expected = expected_forward(problem, given, weights=problem.dtype)
    expected["out"].check(out)
    expected["lse"].check(lse)


@pytest.fixture(params=["two passes", "one pass"])
def passes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Backward in one way, whatever the cost model holds of it; one pass needs enough channels."""
    if request.param == "two passes":
        return
    usual = heuristics.fused_gradient_choices

    def choices(problem: Problem, device: DeviceSpec) -> tuple[heuristics.FusedChoice, ...]:
        lone = heuristics.lone_gradient_choice(problem, device)
        return usual(problem, device) if lone is None or problem.deterministic else (lone,)

    monkeypatch.setattr(heuristics, "fused_gradient_choices", choices)


def differentiate(
    library: str,
    problem: Problem,
    given: Inputs,
    deterministic: bool = True,
    stored: tuple[np.ndarray, np.ndarray] | None = None,
) -> list[np.ndarray]:
    stored = stored_forward(problem, given) if stored is None else stored
    arrays = (given.dout, given.q, given.k, given.v, *stored, given.dlse, given.bias)
    *arguments, dlse, bias = (put(library, array) for array in arrays)
    with guarded(library):
        gradients = fused.neighborhood_attention_backward(
            *arguments, problem.kernel_size,
            stride=problem.stride, dilation=problem.dilation, is_causal=problem.is_causal,
            bias=bias, scale=given.scale, dlse=dlse, allow_tf32=problem.allow_tf32,
            deterministic=deterministic,
        )  # fmt: skip
    return [get(gradient) for gradient in gradients]


def check_backward(library: str, problem: Problem, given: Inputs) -> None:
    expected = expected_backward(problem, given, with_dlse=True, weights=problem.dtype)
    for deterministic in (False, True):
        gradients = differentiate(library, problem, given, deterministic)
        for wanted, found in zip(expected.values(), gradients, strict=True):
            wanted.check(found)


@each_gpu_library
@named_problems
@pytest.mark.usefixtures("passes")
def test_named_gradients(library: str, problem: Problem) -> None:
    check_backward(library, problem, inputs(problem))


@each_gpu_library
@named_problems
def test_named_problems(library: str, problem: Problem) -> None:
    check(library, problem, inputs(problem))


@pytest.mark.gpu
@given(
    problem=problems(dtypes=DTYPES, max_tokens=300),
    channels=st.tuples(head_dims, head_dims),
    allow_tf32=st.booleans(),
    scale=st.sampled_from([None, 0.0, -0.7, 2.0]),
    seed=st.integers(0, 2**16),
)
def test_any_problem(
    problem: Problem,
    channels: tuple[int, int],
    allow_tf32: bool,
    scale: float | None,
    seed: int,
) -> None:
    problem = with_channels(problem, channels, allow_tf32)
    given = inputs(problem, seed)
    check("cupy", problem, given if scale is None else replace(given, scale=scale))


@pytest.mark.gpu
@pytest.mark.usefixtures("passes")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    problem=problems(dtypes=DTYPES, max_tokens=300),
    channels=st.tuples(head_dims, head_dims),
    allow_tf32=st.booleans(),
    scale=st.sampled_from([None, 0.0, -0.7, 2.0]),
    seed=st.integers(0, 2**16),
)
def test_any_gradient(
    problem: Problem,
    channels: tuple[int, int],
    allow_tf32: bool,
    scale: float | None,
    seed: int,
) -> None:
    problem = with_channels(problem, channels, allow_tf32)
    given = inputs(problem, seed)
    check_backward("cupy", problem, given if scale is None else replace(given, scale=scale))


@pytest.mark.gpu
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_run_gives_the_same_bits(dtype: str, has_bias: bool) -> None:
    problem = Problem(
        2, (40, 33), 4, 2, 64, 64, dtype, (9, 12), (1, 3), (2, 1), (False, True), has_bias
    )  # fmt: skip
    given = inputs(problem)
    for run in (attend, partial(differentiate, stored=stored_forward(problem, given))):
        first = run("cupy", problem, given)
        for _ in range(100):
            for a, b in zip(first, run("cupy", problem, given), strict=True):
                np.testing.assert_array_equal(a.view(np.uint8), b.view(np.uint8))


@pytest.mark.gpu
def test_strided_arrays_are_read_and_written_in_place() -> None:
    import cupy

    packed = cupy.asarray(np.random.default_rng(0).standard_normal((1, 9, 8, 2, 4, 16)), "float16")
    q, k, v, out = (packed[..., i, :] for i in range(4))
    expected = fused.na2d(*(cupy.ascontiguousarray(a) for a in (q, k, v)), 5)
    assert fused.na2d(q, k, v, 5, out=out) is out
    np.testing.assert_array_equal(get(out), get(expected))


@pytest.mark.gpu
def test_what_it_cannot_do_is_refused_with_reasons() -> None:
    import cupy

    def refusal(q: Any) -> str:
        with pytest.raises(ValueError, match="method 'fused' cannot run this") as caught:
            fused.na1d(q, q, q, 3)
        return str(caught.value)

    assert "not in float64" in refusal(cupy.ones((1, 8, 1, 16), "float64"))
    assert "up to 256, got 272" in refusal(cupy.ones((1, 8, 1, 272), "float16"))
    q = cupy.ones((1, 8, 1, 16), "float16")
    assert cupyna.explain(q, q, q, 3).selected.method == "fused"


@pytest.mark.gpu
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_widest_heads(dtype: str, has_bias: bool) -> None:
    problem = Problem(
        1, (17, 20), 2, 1, 256, 200, dtype, (5, 9), (1, 2), (2, 1), (False, True), has_bias
    )  # fmt: skip
    given = inputs(problem)
    check("cupy", problem, given)
    check_backward("cupy", problem, given)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
def test_sums_over_long_windows(dtype: str) -> None:
    problem = Problem(1, (2048,), 1, 1, 64, 64, dtype, (1500,), (1,), (1,), (False,))
    given = inputs(problem)
    check("cupy", problem, given)
    check_backward("cupy", problem, given)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_bias_of_many_queries(dtype: str) -> None:
    problem = Problem(
        8, (33, 30), 3, 3, 32, 32, dtype, (7, 7), (1, 1), (1, 1), (False, False), has_bias=True
    )  # fmt: skip
    check_backward("cupy", problem, inputs(problem))
