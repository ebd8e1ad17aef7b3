"""What measurements rest on, without a GPU."""

from __future__ import annotations

import pytest
from hypothesis import given

import cupyna
from cupyna.problem import Problem
from cupyna.profiling.naive import CASES, Measurement, case_problem
from cupyna.profiling.sample import Sample
from cupyna.profiling.timing import Times
from cupyna.testing import inputs, problems


@given(problem=problems(dtypes=("float32",), max_tokens=400))
def test_a_sample_has_the_windows_of_the_whole_grid(problem: Problem) -> None:
    given = inputs(problem)
    options = {
        "stride": problem.stride, "dilation": problem.dilation, "is_causal": problem.is_causal,
    }  # fmt: skip
    arrays = given.q, given.k, given.v
    out, lse = cupyna.neighborhood_attention(
        *arrays, problem.kernel_size, return_lse=True, **options
    )
    dq, dk, dv = cupyna.neighborhood_attention_backward(
        given.dout, *arrays, out, lse, problem.kernel_size, **options
    )
    sample = Sample.of(problem)
    named = {"q": given.q, "k": given.k, "v": given.v, "dout": given.dout}
    results = {"out": out, "dq": dq}
    if problem.head_group == 1:
        results |= {"dk": dk, "dv": dv}
    if problem.head_dim == problem.value_dim:
        errors = sample.errors(
            {name: sample.cut(array) for name, array in named.items()},
            {name: sample.cut(array) for name, array in results.items()},
        )
        assert all(found <= max(allowed, 1e-5) for found, allowed in errors.values())


@pytest.mark.parametrize("case", CASES)
def test_the_samples_of_the_cases_are_affordable_and_not_empty(case: str) -> None:
    sample = Sample.of(case_problem(case, "float16"))
    assert sample.problem.tokens <= 2000
    assert all(part.stop >= 1 for part in (*sample.queries, *sample.keys))


def test_a_measurement_tells_ratios_and_wrong_results() -> None:
    found = Measurement("D", case_problem("D", "float16"))
    found.times["qk"] = {"cupyna": Times((1.0, 3.0, 2.0)), "peer": Times((8.0, 8.0, 9.0))}
    found.times["av"] = {"cupyna": Times((1.0,))}
    found.errors["peer"] = {"out": (0.5, 0.1), "dq": (0.1, 0.1)}
    assert found.ratio("qk") == 4.0 and found.ratio("av") is None
    assert not found.is_right("peer", "out") and found.is_right("peer", "dq")
    stored = found.to_json()["pieces"]["qk"]
    assert stored["cupyna"] == {"median_us": 2.0, "least_us": 1.0, "most_us": 3.0}
    assert stored["peer_over_ours"] == 4.0
