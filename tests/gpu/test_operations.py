"""Every operation of the naive method against the oracle, on each library's arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cupyna import naive
from cupyna.problem import Problem
from cupyna.testing import (
    Inputs,
    expected_av,
    expected_av_backward,
    expected_backward,
    expected_forward,
    expected_qk,
    expected_qk_backward,
    inputs,
    problems,
)
from cupyna.testing.cases import small_problems
from cupyna.testing.expected import stored_forward

from .libraries import each_library, get, guarded, put

DTYPES = ("float16", "bfloat16", "float32", "float64")
NAMED = dict(small_problems(DTYPES))
named_problems = pytest.mark.parametrize("problem", NAMED.values(), ids=NAMED.keys())


def keywords(problem: Problem) -> dict[str, Any]:
    return {
        "stride": problem.stride,
        "dilation": problem.dilation,
        "is_causal": problem.is_causal,
    }


def check_attention(library: str, problem: Problem, given: Inputs, with_dlse: bool) -> None:
    q, k, v, bias, dout = (
        put(library, a) for a in (given.q, given.k, given.v, given.bias, given.dout)
    )
    options = {**keywords(problem), "bias": bias, "scale": given.scale}
    with guarded(library):
        out, lse = naive.neighborhood_attention(
            q, k, v, problem.kernel_size, return_lse=True, **options
        )
    for name, expected in expected_forward(problem, given).items():
        expected.check(get({"out": out, "lse": lse}[name]))
    stored = (put(library, a) for a in stored_forward(problem, given))
    dlse = put(library, given.dlse) if with_dlse else None
    with guarded(library):
        gradients = naive.neighborhood_attention_backward(
            dout, q, k, v, *stored, problem.kernel_size, dlse=dlse, **options
        )
    expected = expected_backward(problem, given, with_dlse)
    for gradient, wanted in zip(gradients, expected.values(), strict=True):
        wanted.check(get(gradient))


def check_products(library: str, problem: Problem, given: Inputs) -> None:
    q, k, v, bias, dout = (
        put(library, a) for a in (given.q, given.k, given.v, given.bias, given.dout)
    )
    window, options = problem.kernel_size, keywords(problem)
    with guarded(library):
        scores = get(naive.na_qk(q, k, window, bias=bias, scale=given.scale, **options))
    expected_qk(problem, given).check(scores)

    empty = np.isneginf(scores)
    weights = np.where(empty, 0, np.exp(np.where(empty, 0, scores) / 4)).astype(given.q.dtype)
    # Whatever stands in empty slots has no effect, NaN included.
    noisy = put(library, np.where(empty, np.nan, weights).astype(given.q.dtype))
    with guarded(library):
        out = naive.na_av(noisy, v, window, **options)
        dweights, dv = naive.na_av_backward(dout, noisy, v, window, **options)
    expected_av(problem, given, weights).check(get(out))
    expected = expected_av_backward(problem, given, weights)
    expected["dweights"].check(get(dweights))
    expected["dv"].check(get(dv))

    dscores = np.where(empty, np.nan, weights - 1).astype(given.q.dtype)
    with guarded(library):
        gradients = naive.na_qk_backward(
            put(library, dscores), q, k, window, bias=bias, scale=given.scale, **options
        )
    clean = np.where(empty, 0, dscores)
    wanted = expected_qk_backward(problem, given, clean).values()
    for gradient, expect in zip(gradients, wanted, strict=True):
        expect.check(get(gradient))


@each_library
@named_problems
def test_attention_of_named_problems(library: str, problem: Problem) -> None:
    check_attention(library, problem, inputs(problem), with_dlse=problem.has_bias)


@each_library
@named_problems
def test_products_of_named_problems(library: str, problem: Problem) -> None:
    check_products(library, problem, inputs(problem))


@each_library
@given(problem=problems(max_tokens=125), seed=st.integers(0, 2**16), with_dlse=st.booleans())
def test_attention(library: str, problem: Problem, seed: int, with_dlse: bool) -> None:
    check_attention(library, problem, inputs(problem, seed), with_dlse)


@each_library
@given(problem=problems(max_tokens=125), seed=st.integers(0, 2**16))
def test_products(library: str, problem: Problem, seed: int) -> None:
    check_products(library, problem, inputs(problem, seed))
