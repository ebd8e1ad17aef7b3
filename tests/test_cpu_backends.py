"""Every method on a CPU against the oracle, over the whole option space."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cupyna.arrays.host import host_dtype
from cupyna.backends.cpu import BACKENDS
from cupyna.backends.cpu import fused as fused_module
from cupyna.execution import Backend, Execution
from cupyna.operands import BackwardArrays, ForwardArrays
from cupyna.problem import DeviceSpec, Problem
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
from cupyna.testing.expected import stored_forward
from cupyna.tiles import TilePlan

every_backend = pytest.mark.parametrize("backend", BACKENDS, ids=lambda b: b.name)
unfused_backends = pytest.mark.parametrize(
    "backend", [b for b in BACKENDS if b.method != "fused"], ids=lambda b: b.name
)


def poisoned(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    return np.full(shape, np.nan, host_dtype(dtype))


EXECUTION = Execution(DeviceSpec("test", "cpu", processors=2), 0, poisoned)


def check_forward(backend: Backend, problem: Problem, given: Inputs) -> None:
    q, k, v, bias = given.q, given.k, given.v, given.bias
    out = poisoned((*q.shape[:-1], problem.value_dim), problem.dtype)
    lse = poisoned(q.shape[:-1], problem.accumulator)
    backend.forward(problem, given.scale, EXECUTION, ForwardArrays(q, k, v, bias, out, lse))
    expected = expected_forward(problem, given)
    expected["out"].check(out)
    expected["lse"].check(lse)


def check_backward(backend: Backend, problem: Problem, given: Inputs, with_dlse: bool) -> None:
    q, k, v, bias = given.q, given.k, given.v, given.bias
    out, lse = stored_forward(problem, given)
    dlse = given.dlse if with_dlse else None
    dq, dk, dv = (poisoned(a.shape, problem.dtype) for a in (q, k, v))
    dbias = None if bias is None else poisoned(bias.shape, problem.dtype)
    arrays = BackwardArrays(q, k, v, bias, out, lse, given.dout, dlse, dq, dk, dv, dbias)
    backend.backward(problem, given.scale, EXECUTION, arrays)
    found = {"dq": dq, "dk": dk, "dv": dv, "dbias": dbias}
    for name, expected in expected_backward(problem, given, with_dlse).items():
        expected.check(found[name])


@every_backend
@given(problem=problems(), seed=st.integers(0, 2**16))
def test_forward(backend: Backend, problem: Problem, seed: int) -> None:
    check_forward(backend, problem, inputs(problem, seed))


@every_backend
@given(problem=problems(max_tokens=125), seed=st.integers(0, 2**16), with_dlse=st.booleans())
def test_backward(backend: Backend, problem: Problem, seed: int, with_dlse: bool) -> None:
    check_backward(backend, problem, inputs(problem, seed), with_dlse)


@given(problem=problems(max_tokens=64), data=st.data())
def test_fused_is_right_for_every_tile_shape(problem: Problem, data: st.DataObject) -> None:
    extents = st.tuples(*(st.integers(1, axis.group_length(0)) for axis in problem.axes))
    plan = TilePlan.of(problem, data.draw(extents, "q_tile"), data.draw(extents, "kv_tile"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fused_module, "fused_plan", lambda problem: plan)
        check_forward(fused_module.CpuFused(), problem, inputs(problem))
        check_backward(fused_module.CpuFused(), problem, inputs(problem), True)


@unfused_backends
@given(problem=problems(max_tokens=125), seed=st.integers(0, 2**16))
def test_unfused_products(backend: Backend, problem: Problem, seed: int) -> None:
    given = inputs(problem, seed)
    q, k, v, bias = given.q, given.k, given.v, given.bias
    scores = poisoned((*q.shape[:-1], problem.window), problem.dtype)
    backend.qk(problem, given.scale, EXECUTION, q, k, bias, scores)
    expected_qk(problem, given).check(scores)

    empty = np.isneginf(scores)
    weights = np.where(empty, 0, np.exp(np.where(empty, 0, scores) / 4)).astype(q.dtype)
    out = poisoned((*q.shape[:-1], problem.value_dim), problem.dtype)
    backend.av(problem, EXECUTION, weights, v, out)
    expected_av(problem, given, weights).check(out)

    dweights, dv = poisoned(weights.shape, problem.dtype), poisoned(v.shape, problem.dtype)
    backend.av_backward(problem, EXECUTION, given.dout, weights, v, dweights, dv)
    expected = expected_av_backward(problem, given, weights)
    expected["dweights"].check(dweights)
    expected["dv"].check(dv)

    # Whatever stands in empty slots has no effect, NaN included.
    dscores = np.where(empty, np.nan, weights - 1).astype(q.dtype)
    dq, dk = poisoned(q.shape, problem.dtype), poisoned(k.shape, problem.dtype)
    dbias = None if bias is None else poisoned(bias.shape, problem.dtype)
    backend.qk_backward(problem, given.scale, EXECUTION, dscores, q, k, dq, dk, dbias)
    clean = np.where(empty, 0, dscores)
    found = {"dq": dq, "dk": dk, "dbias": dbias}
    for name, gradient in expected_qk_backward(problem, given, clean).items():
        gradient.check(found[name])


@every_backend
def test_threads_do_not_change_a_bit(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = Problem(
        2, (12, 11), 4, 2, 8, 8, "float32", (5, 4), (1, 2), (2, 1), (False, True), has_bias=True
    )
    given = inputs(problem)
    out, lse = stored_forward(problem, given)
    results = []
    for threads in ("1", "3", "3"):
        monkeypatch.setenv("CUPYNA_NUM_THREADS", threads)
        gradients = [poisoned(a.shape, "float32") for a in (given.q, given.k, given.v, given.bias)]
        arrays = BackwardArrays(
            given.q, given.k, given.v, given.bias, out, lse, given.dout, None, *gradients
        )
        backend.backward(problem, given.scale, EXECUTION, arrays)
        results.append(gradients)
    for other in results[1:]:
        for first, second in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(first, second)
