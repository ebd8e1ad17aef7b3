"""Rows computed from whole tensors are those of the oracle, and wrong results are seen."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings

from cupyna.problem import Problem
from cupyna.profiling.checks import Check
from cupyna.profiling.exact import Place, key_rows, query_rows
from cupyna.profiling.exact_products import product_rows
from cupyna.profiling.implementations import PIECES
from cupyna.profiling.problems import SUITES, find, rows
from cupyna.profiling.random_problems import random_rows
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

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

RESULTS = ("out", "dq", "dk", "dv")
FLOATS = ("float16", "float32", "float64")


def _unbiased(problem: Problem) -> tuple[Problem, Inputs, dict[str, object]]:
    problem = dataclasses.replace(problem, has_bias=False)
    given = dataclasses.replace(inputs(problem), scale=problem.head_dim**-0.5, bias=None)
    tensors = {
        name: torch.from_numpy(np.ascontiguousarray(getattr(given, name)))
        for name in ("q", "k", "v", "dout")
    }
    return problem, given, tensors


def _expected(problem: Problem, given: Inputs) -> dict[str, object]:
    return {
        **expected_forward(problem, given, weights=problem.dtype),
        **expected_backward(problem, given, weights=problem.dtype),
    }


def _places(problem: Problem, heads: int) -> list[Place]:
    return [
        Place(batch, head, token)
        for batch in range(problem.batch)
        for head in range(heads)
        for token in np.ndindex(*problem.spatial)
    ]


def _in_order(array: np.ndarray) -> np.ndarray:
    """``[batch * heads * tokens, channels]``."""
    moved = np.moveaxis(array, -2, 1)
    return moved.reshape(-1, moved.shape[-1])


@settings(max_examples=25)
@given(problem=problems(dtypes=FLOATS, max_tokens=120))
def test_rows_are_those_of_the_oracle(problem: Problem) -> None:
    problem, given, tensors = _unbiased(problem)
    if problem.batch == 0:
        return
    found = {
        **query_rows(problem, given.scale, tensors, _places(problem, problem.heads)),
        **key_rows(problem, given.scale, tensors, _places(problem, problem.kv_heads)),
    }
    expected = _expected(problem, given)
    for name in RESULTS:
        exact, emulated, magnitude = (
            _in_order(np.asarray(getattr(expected[name], part)))
            for part in ("exact", "emulated", "magnitude")
        )
        np.testing.assert_allclose(found[name].exact, exact, rtol=1e-9, atol=1e-11)
        # The order of sums differs, so rounding does, by less than the terms' last places.
        places = 2e-3 if problem.dtype == "float16" else 1e-5
        assert np.abs(found[name].emulated - emulated).max() <= places * magnitude.max() + 1e-9
        if name != "dv":  # its factor is the largest over the key's own queries
            np.testing.assert_allclose(found[name].magnitude, magnitude, rtol=1e-6, atol=1e-9)


def test_rows_are_rounded_to_tf32_where_products_may_be() -> None:
    plain = Problem(
        batch=1, spatial=(9, 12), heads=2, kv_heads=2, head_dim=16, value_dim=16, dtype="float32",
        kernel_size=(3, 5), stride=(1, 1), dilation=(1, 1), is_causal=(False, False),
    )  # fmt: skip
    problem, given, tensors = _unbiased(dataclasses.replace(plain, allow_tf32=True))
    places = _places(problem, problem.heads)
    expected = _expected(problem, given)
    errors = {}
    for asked in (problem, plain):
        found = {
            **query_rows(asked, given.scale, tensors, places),
            **key_rows(asked, given.scale, tensors, places),
        }
        errors[asked] = {n: np.std(rows.emulated - rows.exact) for n, rows in found.items()}
    for name in RESULTS:
        oracle = np.std(expected[name].emulated - expected[name].exact)
        assert errors[problem][name] == pytest.approx(oracle, rel=0.25)
        assert errors[plain][name] < oracle / 100


@settings(max_examples=25)
@given(problem=problems(dtypes=FLOATS, max_tokens=80))
def test_rows_of_single_products_are_those_of_the_oracle(problem: Problem) -> None:
    problem, given, tensors = _unbiased(problem)
    if problem.batch == 0:
        return
    shape = (problem.batch, *problem.spatial, problem.heads, problem.window)
    generator = np.random.default_rng(0)
    weights = generator.standard_normal(shape).astype(given.q.dtype)
    tensors["weights"] = torch.from_numpy(weights)
    expected = {
        "qk": {"scores": expected_qk(problem, given)},
        "av": {"out": expected_av(problem, given, weights)},
        "qk_backward": expected_qk_backward(problem, given, weights),
        "av_backward": expected_av_backward(problem, given, weights),
    }
    places = _places(problem, problem.heads), _places(problem, problem.kv_heads)
    for operation in PIECES:
        found = product_rows(problem, operation, tensors, *places)
        assert set(found) == set(expected[operation])
        for name, of_name in found.items():
            for part in ("exact", "magnitude"):
                wanted = _in_order(np.asarray(getattr(expected[operation][name], part)))
                np.testing.assert_allclose(getattr(of_name, part), wanted, rtol=1e-6, atol=1e-9)


@settings(max_examples=25)
@given(problem=problems(dtypes=("float32",), max_tokens=120))
def test_a_check_passes_right_results_and_sees_a_wrong_corner(problem: Problem) -> None:
    problem, given, tensors = _unbiased(problem)
    if problem.batch == 0:
        return
    expected = _expected(problem, given)
    results = {
        name: torch.from_numpy(np.asarray(expected[name].exact).astype(np.float32))
        for name in RESULTS
    }
    check = Check(problem, tensors)
    assert not any(found.complaint for found in check.deviations(results).values())
    for name in RESULTS:
        wrong = results[name].clone()
        wrong.view(-1)[-1] += 1 + float(wrong.abs().max())
        assert check.deviations({name: wrong})[name].complaint
        unwritten = results[name].clone()
        unwritten.view(-1)[len(unwritten.view(-1)) // 2] = float("nan")
        assert "not finite" in check.deviations({name: unwritten})[name].complaint


def test_gradients_that_no_exact_row_is_affordable_for_are_told() -> None:
    problem = find("context 1048576").problem("float16")
    assert Check(problem, {}).reaches_keys
    dense = dataclasses.replace(problem, kernel_size=problem.spatial)
    assert not Check(dense, {}).reaches_keys
    assert Check(find("C").problem("float16"), {}).reaches_keys


@pytest.mark.parametrize("suite", SUITES)
def test_every_problem_is_valid_and_named_once(suite: str) -> None:
    found = [row.problem("float16") for row in rows(suite)]
    for problem in found:
        for axis in problem.axes:
            assert 1 <= axis.stride <= axis.kernel_size
            assert axis.kernel_size * axis.dilation <= axis.length
    assert len({row.name for row in rows(suite)}) == len(found)
    different = {(problem, row.sinks) for problem, row in zip(found, rows(suite), strict=True)}
    assert suite == "scaling" or len(different) == len(found)


def test_random_problems_are_the_same_every_time_and_of_all_kinds() -> None:
    found = rows("random")
    assert tuple(random_rows()) == found and len(found) == 150
    assert found[0].name == "9x4/2x48 8104, window 13"
    problems = [row.problem("float16") for row in found]
    assert {problem.rank for problem in problems} == {1, 2, 3}
    assert sum(problem.kv_heads < problem.heads for problem in problems) == 21
    for option in ("stride", "dilation"):
        assert sum(max(getattr(problem, option)) > 1 for problem in problems) > 20
    assert sum(any(problem.is_causal) for problem in problems) > 10


def test_the_sweep_has_inputs_of_one_size() -> None:
    swept = [row for suite in ("paper-1d", "paper-2d", "paper-3d") for row in rows(suite)]
    assert len({row.problem("float16").least_bytes for row in swept}) == 1
    assert {row.head_dim for row in swept} == {32, 64, 128}


def test_tf32_is_held_to_what_it_rounds() -> None:
    line = Problem(1, (40,), 2, 1, 32, 32, "float32", (9,), (1,), (2,), (False,))
    precise, given, tensors = _unbiased(line)
    rounded = dataclasses.replace(precise, allow_tf32=True)
    for rows_of, heads in ((query_rows, 2), (key_rows, 1)):
        places = _places(line, heads)
        found = [rows_of(one, given.scale, tensors, places) for one in (precise, rounded)]
        for name in found[0]:
            errors = [np.abs(one[name].emulated - one[name].exact).max() for one in found]
            # Ten bits of mantissa where float32 has 23.
            assert 100 * errors[0] < errors[1] < 2e-2 * np.abs(found[0][name].exact).max()
    expected = expected_forward(rounded, given)["out"]
    emulated = _in_order(np.asarray(expected.emulated))
    own = query_rows(rounded, given.scale, tensors, _places(line, 2))["out"].emulated
    assert np.abs(own - emulated).max() < 3e-3 * np.abs(emulated).max()
