"""Keys that every query sees beside its window, against the oracle's scores with more columns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from cupyna.problem import Problem  # noqa: E402
from cupyna.reference import EXACT  # noqa: E402
from cupyna.testing import Expected, emulation, inputs, problems  # noqa: E402
from cupyna.torch import merge_attentions, na1d, neighborhood_attention  # noqa: E402

from .beside import tokens, with_more  # noqa: E402
from .tensors import get, keywords, leaves, put  # noqa: E402

pytestmark = pytest.mark.torch


@given(
    problem=problems(dtypes=("float32", "float64"), max_tokens=60),
    count=st.integers(1, 9),
    seed=st.integers(0, 2**16),
)
def test_every_query_sees_them(problem: Problem, count: int, seed: int) -> None:
    given, more = inputs(problem, seed), tokens(problem, count, seed)
    with torch.no_grad():
        out, lse = neighborhood_attention(
            **leaves(given), **keywords(problem), scale=given.scale, return_lse=True,
            additional_keys=put(more[0]), additional_values=put(more[1]),
        )  # fmt: skip
    exact = with_more(problem, given, more, EXACT)
    rounded = with_more(problem, given, more, emulation(problem.dtype))
    Expected("out", problem.dtype, exact[0], rounded[0], exact[2]).check(get(out))
    lse_magnitude = np.abs(exact[1]) + 1
    Expected("lse", problem.accumulator, exact[1], rounded[1], lse_magnitude).check(get(lse))


def test_a_window_of_one_key_and_the_rest_beside_it() -> None:
    """All keys but a query's own as additional ones is attention with that key counted twice."""
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 1, 6, 2, 4, dtype=torch.float64)
    out = na1d(q, k, v, 1, additional_keys=k, additional_values=v)
    scores = torch.einsum("nqhd,nkhd->nhqk", q, k) / 2
    scores = scores + torch.eye(6, dtype=torch.float64) * np.log(2)
    expected = torch.einsum("nhqk,nkhd->nqhd", scores.softmax(-1), v)
    torch.testing.assert_close(out, expected)


def test_merging_parts_of_the_keys_gives_the_whole() -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 1, 9, 2, 4, dtype=torch.float64).requires_grad_()
    whole = na1d(q, k, v, 3, additional_keys=k, additional_values=v)
    parts = [na1d(q, k, v, 3, return_lse=True)]
    for third in range(3):
        keys, values = (t[:, 3 * third : 3 * third + 3] for t in (k, v))
        scores = torch.einsum("nqhd,nkhd->nqhk", q, keys) / 2
        out = torch.einsum("nqhk,nkhd->nqhd", scores.softmax(-1), values)
        parts.append((out, torch.logsumexp(scores, -1)))
    merged, _ = merge_attentions(*zip(*parts, strict=True))
    torch.testing.assert_close(merged, whole)
    seed = torch.randn_like(whole)
    for a, b in zip(
        torch.autograd.grad(merged, (q, k, v), seed),
        torch.autograd.grad(whole, (q, k, v), seed),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("more", "error", "message"),
    [
        ((torch.ones(1, 2, 1, 4), None), ValueError, "must be given together"),
        ((torch.ones(1, 2, 1, 4), torch.ones(1, 3, 1, 4)), ValueError, "additional_values must be"),
        ((torch.ones(1, 0, 1, 4), torch.ones(1, 0, 1, 4)), ValueError, "at least one token"),
        ((torch.ones(1, 2, 1, 4).double(), torch.ones(1, 2, 1, 4)), TypeError, "must be torch.flo"),
        ((torch.ones(1, 2, 1), torch.ones(1, 2, 1)), ValueError, "additional_keys must be"),
        (([1.0], [2.0]), TypeError, "additional_keys must be a torch tensor"),
    ],
)
def test_what_does_not_fit_is_refused(more: Any, error: type[Exception], message: str) -> None:
    q = torch.ones(1, 6, 2, 4)
    k = torch.ones(1, 6, 1, 4)
    with pytest.raises(error, match=message):
        na1d(q, k, k, 3, additional_keys=more[0], additional_values=more[1])


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (1, "two or more of each, got 1 and 1"),
        (2, r"lse_tensors\[1\] must have shape \(1, 4, 2\), got \(1, 4, 3\)"),
    ],
)
def test_parts_that_do_not_fit_are_refused(parts: int, message: str) -> None:
    outputs = [torch.ones(1, 4, 2, 8)] * parts
    lses = [torch.ones(1, 4, 2 + i) for i in range(parts)]
    with pytest.raises(ValueError, match=message):
        merge_attentions(outputs, lses)
