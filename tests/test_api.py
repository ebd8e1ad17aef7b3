"""The public functions: same kind of array out, every keyword heard, options as defined."""

from __future__ import annotations

import inspect
import threading
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cupyna
from cupyna import api, operations
from cupyna.problem import Problem
from cupyna.testing import expected_backward, expected_forward, expected_qk, inputs, problems
from cupyna.testing.expected import stored_forward

METHODS = ("naive", "gemm", "fused")


def keywords(problem: Problem) -> dict[str, Any]:
    return {
        "stride": problem.stride,
        "dilation": problem.dilation,
        "is_causal": problem.is_causal,
    }


@pytest.mark.parametrize("method", ["auto", *METHODS])
@given(problem=problems(max_tokens=100))
def test_forward_and_backward_through_the_api(method: str, problem: Problem) -> None:
    given = inputs(problem)
    options = {**keywords(problem), "bias": given.bias, "scale": given.scale, "method": method}
    out, lse = cupyna.neighborhood_attention(
        given.q, given.k, given.v, problem.kernel_size, return_lse=True, **options
    )
    expected = expected_forward(problem, given)
    expected["out"].check(out)
    expected["lse"].check(lse)
    stored = stored_forward(problem, given)
    gradients = cupyna.neighborhood_attention_backward(
        given.dout, given.q, given.k, given.v, *stored, problem.kernel_size,
        dlse=given.dlse, **options,
    )  # fmt: skip
    for gradient, wanted in zip(
        gradients, expected_backward(problem, given, with_dlse=True).values(), strict=True
    ):
        wanted.check(gradient)


@given(problem=problems(max_tokens=100), seed=st.integers(0, 1000))
def test_strided_inputs_are_read_in_place_and_out_is_written_in_place(
    problem: Problem, seed: int
) -> None:
    given = inputs(problem, seed)

    def strided(a: np.ndarray) -> np.ndarray:
        wide = np.full((*a.shape[:-1], 2 * a.shape[-1] + 1), np.nan, a.dtype)
        view = wide[..., 1::2].swapaxes(0, 1)[::-1].swapaxes(0, 1)
        view[...] = a
        return view

    options = keywords(problem) | {"bias": given.bias}
    arrays = given.q, given.k, given.v
    expected = cupyna.neighborhood_attention(*arrays, problem.kernel_size, **options)
    out = strided(expected * 0)
    result = cupyna.neighborhood_attention(
        *map(strided, arrays), problem.kernel_size, out=out, **options
    )
    assert result is out
    np.testing.assert_array_equal(out, expected)
    canaries = out.base[..., ::2]
    assert np.isnan(canaries).all()


@given(problem=problems(max_tokens=100))
def test_scores_and_weights_make_attention(problem: Problem) -> None:
    given = inputs(problem)
    options = keywords(problem)
    scores = cupyna.na_qk(
        given.q, given.k, problem.kernel_size, bias=given.bias, scale=given.scale, **options
    )
    expected_qk(problem, given).check(scores)
    wide = scores.astype(np.float64)
    weights = np.exp(wide - wide.max(-1, keepdims=True))
    weights = (weights / weights.sum(-1, keepdims=True)).astype(scores.dtype)
    out = cupyna.na_av(weights, given.v, problem.kernel_size, **options)
    assert out.shape == (*given.q.shape[:-1], problem.value_dim)
    np.testing.assert_array_equal(
        out, cupyna.gemm.na_av(weights, given.v, problem.kernel_size, **options)
    )


def test_self_attention_is_the_widest_window() -> None:
    q, k, v = np.random.default_rng(0).standard_normal((3, 1, 9, 1, 4))
    scores = (q[0, :, 0] @ k[0, :, 0].T) / 2
    weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    np.testing.assert_allclose(cupyna.na1d(q, k, v, 9)[0, :, 0], weights @ v[0, :, 0], rtol=1e-12)


def test_zero_scale_is_a_scale() -> None:
    v = np.arange(6.0).reshape(1, 6, 1, 1)
    out = cupyna.na1d(v, v, v, 3, scale=0.0)
    np.testing.assert_allclose(out.ravel(), [1, 1, 2, 3, 4, 4])


@pytest.mark.parametrize("method", METHODS)
def test_an_empty_batch_gives_an_empty_result(method: str) -> None:
    q = np.empty((0, 5, 5, 2, 4), np.float16)
    bias = np.ones((2, 5, 5), np.float16)
    out, lse = cupyna.neighborhood_attention(q, q, q, 3, bias=bias, return_lse=True, method=method)
    assert (out.shape, lse.shape, lse.dtype) == (q.shape, (0, 5, 5, 2), np.float32)
    dq, _, _, dbias = cupyna.neighborhood_attention_backward(
        q, q, q, q, out, lse, 3, bias=bias, method=method
    )
    assert dq.shape == q.shape
    np.testing.assert_array_equal(dbias, np.zeros_like(bias))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [40, 3000])
def test_rows_far_from_zero_neither_overflow_nor_vanish(method: str, size: float) -> None:
    q = np.full((1, 7, 1, 2), size, np.float32)
    v = np.arange(14, dtype=np.float32).reshape(1, 7, 1, 2)
    for key in (q, -q):
        out = cupyna.neighborhood_attention(q, key, v, 3, method=method, scale=1.0)
        np.testing.assert_allclose(out[0, 3, 0], [6, 7], rtol=1e-6)


@pytest.mark.torch
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_torch_in_torch_out(dtype: str) -> None:
    import torch

    problem = Problem(1, (9, 8), 2, 1, 6, 5, dtype, (3, 4), (1, 1), (2, 1), (False, True))
    given = inputs(problem)

    def tensor(a: np.ndarray) -> torch.Tensor:
        if a.dtype == ml_dtypes.bfloat16:
            return torch.from_numpy(a.view(np.uint16)).view(torch.bfloat16)
        return torch.from_numpy(a)

    q, k, v = map(tensor, (given.q, given.k, given.v))
    options = keywords(problem)
    out, lse = cupyna.neighborhood_attention(q, k, v, (3, 4), return_lse=True, **options)
    assert out.dtype is q.dtype and lse.dtype is getattr(torch, problem.accumulator)
    expected = expected_forward(problem, given)
    found = cupyna.arrays.library_of(out, "out").view(out)
    expected["out"].check(found)
    gradients = cupyna.neighborhood_attention_backward(
        torch.ones_like(out), q, k, v, out, lse, (3, 4), **options
    )
    assert [type(g) for g in gradients] == [torch.Tensor] * 3
    written = torch.empty_like(out)
    assert cupyna.neighborhood_attention(q, k, v, (3, 4), out=written, **options) is written
    assert torch.equal(written, out)


@pytest.mark.torch
def test_torch_tensors_that_cannot_be_used() -> None:
    import torch

    q = torch.ones(1, 6, 1, 4)
    with pytest.raises(ValueError, match="q requires a gradient"):
        cupyna.na1d(q.requires_grad_(), q, q, 3)
    with torch.no_grad():
        assert cupyna.na1d(q, q, q, 3).shape == q.shape
    q = q.detach()
    with pytest.raises(TypeError, match="k must be a numpy array like q, got a torch array"):
        cupyna.na1d(q.numpy(), q, q, 3)
    with pytest.raises(TypeError, match="dense tensor on a CPU or CUDA device"):
        cupyna.na1d(q.to("meta"), q, q, 3)
    with pytest.raises(TypeError, match="dense tensor"):
        cupyna.na1d(q.to_sparse(), q, q, 3)


class Foreign:
    """An array of a library that cupyna has never heard of: DLPack and a namespace, no more."""

    def __init__(self, array: np.ndarray) -> None:
        self._array = array
        self.shape, self.dtype = array.shape, array.dtype

    def __dlpack__(self, **kwargs: Any) -> Any:
        return self._array.__dlpack__(**kwargs)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._array.__dlpack_device__()

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return self._array

    def __array_namespace__(self) -> Any:
        return ForeignNamespace


class ForeignNamespace:
    @staticmethod
    def from_dlpack(array: Any) -> Foreign:
        return Foreign(np.from_dlpack(array))

    @staticmethod
    def asarray(array: Any) -> Foreign:
        return Foreign(np.array(array))


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_any_dlpack_array_in_and_out(dtype: Any) -> None:
    array = np.ones((1, 6, 1, 4), dtype)
    q = Foreign(array)
    out = cupyna.na1d(q, q, q, 3)
    assert isinstance(out, Foreign)
    np.testing.assert_array_equal(np.asarray(out), cupyna.na1d(array, array, array, 3))
    with pytest.raises(ValueError, match="out must be writable"):
        cupyna.na1d(q, q, q, 3, out=out)


def test_dlpack_without_a_namespace_says_what_to_do() -> None:
    class Bare:
        shape, dtype = (1, 6, 1, 4), np.dtype("f4")

        def __dlpack__(self) -> None: ...
        def __dlpack_device__(self) -> tuple[int, int]:
            return (1, 0)

    with pytest.raises(TypeError, match=r"numpy\.from_dlpack"):
        cupyna.na1d(Bare(), Bare(), Bare(), 3)


@pytest.mark.parametrize("name", api.__all__)
def test_every_keyword_reaches_the_operation(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: dict[str, Any] = {}
    monkeypatch.setattr(
        operations, name, lambda *args, **kwargs: heard.update(kwargs) or (None, None)
    )
    function = getattr(api, name)
    parameters = inspect.signature(function).parameters.values()
    positional = [object() for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    given = {p.name: object() for p in parameters if p.kind is p.KEYWORD_ONLY}
    function(*positional, **given)
    assert heard == given


@pytest.mark.parametrize("method", METHODS)
def test_thin_modules_fix_their_method(method: str) -> None:
    module = getattr(cupyna, method)
    q = np.ones((1, 6, 6, 1, 4), np.float32)
    assert module.explain(q, q, q, 3).selected.method == method
    for name in module.__all__:
        function, public = getattr(module, name), getattr(cupyna, name)
        signature = inspect.signature(function)
        assert "method" not in signature.parameters
        wanted = [p for p in inspect.signature(public).parameters if p != "method"]
        assert list(signature.parameters) == wanted
        assert method in function.__doc__


def test_calls_from_many_threads_agree() -> None:
    problem = Problem(1, (20, 20), 2, 2, 8, 8, "float32", (5, 5), (1, 1), (1, 1), (False, False))
    given = inputs(problem)
    results: list[np.ndarray] = []

    def run() -> None:
        results.append(cupyna.na2d(given.q, given.k, given.v, 5))

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


def test_overlapping_calls_leave_blas_as_it_was() -> None:
    from threadpoolctl import threadpool_info

    def limits() -> list[int]:
        return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]

    before = limits()
    test_calls_from_many_threads_agree()
    assert limits() == before


def test_explanation_says_what_runs_and_why_not_the_others() -> None:
    q = np.ones((1, 64, 64, 4, 32), np.float32)
    answer = cupyna.explain(q, q, q, 13, dilation=(1, 2), is_causal=(True, False))
    assert answer.selected is not None and answer.selected.method == "fused"
    text = str(answer)
    parts = ["64x64 tokens", "window 13x13", "dilation 1x2", "causal along axis 0"]
    parts += ["-> cpu-fused", "query tile", "where cpu-fused takes", "backward:"]
    for part in parts:
        assert part in text
    naive = cupyna.explain(q, q, q, 13, method="naive")
    assert "method 'naive' was asked for" in str(naive)
    with pytest.raises(AttributeError):
        naive.method = "fused"  # type: ignore[misc]
