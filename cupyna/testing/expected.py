"""What each operation must give for some inputs, with everything the tolerance rule needs.

`weights` names the type in which a kernel stores weights and gradients of scores between its
products, where that is narrower than its accumulator.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .. import reference
from ..arrays.host import host_dtype
from ..problem import Problem
from ..reference import Precision
from ..tolerance import assert_within_rounding, emulation
from .strategies import Inputs

__all__ = [
    "Expected",
    "expected_av",
    "expected_av_backward",
    "expected_backward",
    "expected_forward",
    "expected_qk",
    "expected_qk_backward",
]


@dataclass(frozen=True, slots=True)
class Expected:
    """One result: exact, as a kernel's rounding would give it, and how large its terms are."""

    name: str
    dtype: str
    exact: np.ndarray
    emulated: np.ndarray
    magnitude: np.ndarray

    def check(self, actual: np.ndarray) -> None:
        """Raise AssertionError unless `actual` is within the tolerance rule."""
        assert_within_rounding(
            actual, self.exact, self.emulated, self.magnitude, self.dtype, self.name
        )


def expected_forward(
    problem: Problem, given: Inputs, weights: str | None = None
) -> dict[str, Expected]:
    """`out` and `lse`."""
    arguments = (problem, given.scale, given.q, given.k)
    exact = reference.forward(*arguments, given.v, given.bias)
    rounded = reference.forward(*arguments, given.v, given.bias, _rounding(problem, weights))
    probabilities = np.exp(reference.qk(*arguments, given.bias) - exact[1][..., None])
    lse = _score_magnitude(problem, given).max(-1)
    # An error of a score is a relative error of its weight, hence the factor.
    out = reference.av(problem, probabilities * (1 + lse[..., None]), np.abs(given.v))
    return {
        "out": Expected("out", problem.dtype, exact[0], rounded[0], out),
        "lse": Expected("lse", problem.accumulator, exact[1], rounded[1], lse),
    }


def stored_forward(problem: Problem, given: Inputs) -> tuple[np.ndarray, np.ndarray]:
    """Output and log-sum-exp as backward is handed them."""
    out, lse = reference.forward(problem, given.scale, given.q, given.k, given.v, given.bias)
    return out.astype(given.q.dtype), lse.astype(host_dtype(problem.accumulator))


def expected_backward(
    problem: Problem, given: Inputs, with_dlse: bool = False, weights: str | None = None
) -> dict[str, Expected]:
    """`dq`, `dk`, `dv` and, with a bias, `dbias`, for the output of :func:`stored_forward`."""
    q, k, v, bias, scale = given.q, given.k, given.v, given.bias, given.scale
    dlse = given.dlse if with_dlse else None
    arguments = (problem, scale, given.dout, q, k, v, bias, dlse)
    exact = reference.backward(*arguments)
    rounded = reference.backward(
        *arguments,
        precision=_rounding(problem, weights),
        saved=stored_forward(problem, given),
    )
    out, lse = reference.forward(problem, scale, q, k, v, bias)
    probabilities = np.exp(reference.qk(problem, scale, q, k, bias) - lse[..., None])
    wide_dout = np.abs(given.dout.astype(np.float64))
    dweights, dv = reference.av_backward(problem, wide_dout, probabilities, np.abs(v))
    delta = (wide_dout * np.abs(out)).sum(-1, keepdims=True)
    if dlse is not None:
        delta = delta + np.abs(dlse[..., None])
    # An error of a score is a relative error of its weight, hence the factor.
    shift = 1 + _score_magnitude(problem, given).max(-1, keepdims=True)
    dscores = probabilities * (dweights + delta) * shift
    dq, dk, dbias = reference.qk_backward(problem, abs(scale), dscores, np.abs(q), np.abs(k))
    dv = dv * float(shift.max())
    names, magnitudes = ("dq", "dk", "dv", "dbias"), (dq, dk, dv, dbias)
    return {
        name: Expected(name, problem.dtype, e, r, m)
        for name, e, r, m in zip(names, exact, rounded, magnitudes, strict=True)
        if name != "dbias" or bias is not None
    }


def expected_qk(problem: Problem, given: Inputs) -> Expected:
    """`scores`."""
    arguments = (problem, given.scale, given.q, given.k, given.bias)
    rounded = reference.qk(*arguments, _rounding(problem))
    magnitude = _score_magnitude(problem, given)
    return Expected("scores", problem.dtype, reference.qk(*arguments), rounded, magnitude)


def expected_qk_backward(
    problem: Problem, given: Inputs, dscores: np.ndarray
) -> dict[str, Expected]:
    """`dq`, `dk` and, with a bias, `dbias`."""
    arguments = (problem, given.scale, dscores, given.q, given.k)
    exact = reference.qk_backward(*arguments)
    rounded = reference.qk_backward(*arguments, _rounding(problem))
    sizes = reference.qk_backward(
        problem, abs(given.scale), np.abs(dscores), np.abs(given.q), np.abs(given.k)
    )
    return {
        name: Expected(name, problem.dtype, e, r, m)
        for name, e, r, m in zip(("dq", "dk", "dbias"), exact, rounded, sizes, strict=True)
        if name != "dbias" or given.bias is not None
    }


def expected_av(problem: Problem, given: Inputs, weights: np.ndarray) -> Expected:
    """`out` of stored weights."""
    exact = reference.av(problem, weights, given.v)
    rounded = reference.av(problem, weights, given.v, _rounding(problem))
    magnitude = reference.av(problem, np.abs(weights), np.abs(given.v))
    return Expected("out", problem.dtype, exact, rounded, magnitude)


def expected_av_backward(
    problem: Problem, given: Inputs, weights: np.ndarray
) -> dict[str, Expected]:
    """`dweights` and `dv` of stored weights."""
    exact = reference.av_backward(problem, given.dout, weights, given.v)
    rounded = reference.av_backward(problem, given.dout, weights, given.v, _rounding(problem))
    sizes = reference.av_backward(problem, np.abs(given.dout), np.abs(weights), np.abs(given.v))
    return {
        name: Expected(name, problem.dtype, e, r, m)
        for name, e, r, m in zip(("dweights", "dv"), exact, rounded, sizes, strict=True)
    }


def _rounding(problem: Problem, weights: str | None = None) -> Precision:
    return emulation(problem.dtype, weights, problem.allow_tf32)


def _score_magnitude(problem: Problem, given: Inputs) -> np.ndarray:
    """Sum of the absolute values of each score's terms; zero in empty slots."""
    bias = None if given.bias is None else np.abs(given.bias)
    scores = reference.qk(problem, abs(given.scale), np.abs(given.q), np.abs(given.k), bias)
    return np.where(np.isneginf(scores), 0, scores)
