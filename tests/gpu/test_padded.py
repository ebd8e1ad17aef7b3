"""Rows that are not whole vectors, through copies that are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cupyna
from cupyna import fused
from cupyna.problem import Problem
from cupyna.testing import (
    expected_backward,
    expected_forward,
    inputs,
    problems,
    stored_forward,
)

from .libraries import get, guarded, put

pytestmark = pytest.mark.gpu


def window_of(problem: Problem) -> dict[str, Any]:
    return {
        "kernel_size": problem.kernel_size, "stride": problem.stride,
        "dilation": problem.dilation, "is_causal": problem.is_causal,
    }  # fmt: skip


@given(
    problem=problems(dtypes=("float16", "bfloat16", "float32"), max_tokens=200),
    seed=st.integers(0, 2**16),
)
def test_any_number_of_channels(problem: Problem, seed: int) -> None:
    data, window = inputs(problem, seed), window_of(problem)
    q, k, v, bias = (put("cupy", a) for a in (data.q, data.k, data.v, data.bias))
    with guarded("cupy"):
        out, lse = fused.neighborhood_attention(
            q, k, v, bias=bias, scale=data.scale, return_lse=True, **window
        )
    expected = expected_forward(problem, data, weights=problem.dtype)
    expected["out"].check(get(out))
    expected["lse"].check(get(lse))
    dout, stored_out, stored_lse = (
        put("cupy", a) for a in (data.dout, *stored_forward(problem, data))
    )
    with guarded("cupy"):
        gradients = fused.neighborhood_attention_backward(
            dout, q, k, v, stored_out, stored_lse, bias=bias, scale=data.scale, **window
        )
    wanted = expected_backward(problem, data, weights=problem.dtype)
    for name, gradient in zip(("dq", "dk", "dv", "dbias"), gradients, strict=False):
        wanted[name].check(get(gradient))


def test_views_between_vectors() -> None:
    import cupy

    numbers = np.random.default_rng(0).standard_normal(3 * 40 * 2 * 64 + 1)
    shifted = cupy.asarray(numbers, "float16")[1:].reshape(3, 1, 40, 2, 64)
    whole = cupy.ascontiguousarray(shifted.copy())
    found = fused.na1d(*shifted, 7)
    np.testing.assert_array_equal(get(found), get(fused.na1d(*whole, 7)))
    answer = str(cupyna.explain(*shifted, 7, method="fused"))
    assert "cuda-fused-padded" in answer and "copies rows, to head_dim 64" in answer
