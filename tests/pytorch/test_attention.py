"""Attention of tensors and its gradients by autograd, against the oracle."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from cupyna.problem import Problem  # noqa: E402
from cupyna.testing import (  # noqa: E402
    Inputs,
    expected_av,
    expected_backward,
    expected_forward,
    expected_qk,
    inputs,
    problems,
)
from cupyna.torch import (  # noqa: E402
    na1d,
    na2d,
    na3d,
    na_av,
    na_qk,
    neighborhood_attention,
)

from .tensors import get, keywords, leaves, put  # noqa: E402

pytestmark = pytest.mark.torch

METHODS = ("auto", "naive", "gemm", "fused")


def check(problem: Problem, given: Inputs, method: str, with_dlse: bool) -> None:
    tensors = leaves(given)
    out, lse = neighborhood_attention(
        **tensors, **keywords(problem), scale=given.scale, method=method, return_lse=True
    )
    for name, expected in expected_forward(problem, given).items():
        expected.check(get({"out": out, "lse": lse}[name]))
    loss = (out * put(given.dout)).sum()
    if with_dlse:
        loss = loss + (lse * put(given.dlse)).sum()
    found = torch.autograd.grad(loss, list(tensors.values()))
    expected = expected_backward(problem, given, with_dlse)
    for gradient, wanted in zip(found, expected.values(), strict=True):
        wanted.check(get(gradient))


@given(
    problem=problems(dtypes=("float32", "float64"), max_tokens=100),
    method=st.sampled_from(METHODS),
    with_dlse=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_attention_and_its_gradients(
    problem: Problem, method: str, with_dlse: bool, seed: int
) -> None:
    check(problem, inputs(problem, seed), method, with_dlse)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("method", METHODS)
def test_half_precision(dtype: str, method: str) -> None:
    problem = Problem(
        2, (9, 8), 4, 2, 16, 8, dtype, (5, 4), (2, 1), (1, 2), (False, True), has_bias=True
    )  # fmt: skip
    given = inputs(problem)
    tensors = leaves(given)
    out = neighborhood_attention(**tensors, **keywords(problem), method=method)
    expected_forward(problem, given)["out"].check(get(out))
    out.backward(put(given.dout))
    for tensor in tensors.values():
        assert tensor.grad.dtype is tensor.dtype
        assert tensor.grad.isfinite().all()


@given(problem=problems(dtypes=("float64",), max_tokens=60), seed=st.integers(0, 2**16))
def test_stored_weights(problem: Problem, seed: int) -> None:
    given = inputs(problem, seed)
    window = keywords(problem)
    q, k, v, bias = (put(a) for a in (given.q, given.k, given.v, given.bias))
    scores = na_qk(q, k, **window, bias=bias)
    expected_qk(problem, given).check(get(scores))
    weights = torch.softmax(scores, -1)
    expected_av(problem, given, get(weights)).check(get(na_av(weights, v, **window)))


def test_only_what_is_asked_for_gets_a_gradient() -> None:
    q, k, v = (torch.randn(1, 9, 2, 4) for _ in range(3))
    v.requires_grad_()
    na1d(q, k, v, 3).sum().backward()
    assert q.grad is None
    torch.testing.assert_close(v.grad.sum(), torch.tensor(float(q.numel())))


def test_a_loss_of_the_log_sum_exp_alone() -> None:
    q = torch.randn(1, 9, 2, 4, dtype=torch.float64, requires_grad=True)
    _, lse = na1d(q, q, q, 3, return_lse=True)
    (found,) = torch.autograd.grad(lse.sum(), q)
    scores = na_qk(q, q, 3)
    (expected,) = torch.autograd.grad(torch.logsumexp(scores, -1).sum(), q)
    torch.testing.assert_close(found, expected)


def test_layouts_of_any_stride() -> None:
    packed = torch.randn(2, 3, 2, 9, 8, 4, dtype=torch.float64)  # batch, qkv, heads, x, y, channels
    q, k, v = packed.permute(1, 0, 3, 4, 2, 5)
    expected = na2d(q.contiguous(), k.contiguous(), v.contiguous(), 3)
    assert torch.equal(na2d(q, k, v, 3), expected)


def test_a_batch_of_none() -> None:
    q = torch.empty(0, 6, 6, 2, 4, requires_grad=True)
    bias = torch.randn(2, 5, 5, requires_grad=True)
    out = na2d(q, q, q, 3, bias=bias)
    assert out.shape == q.shape
    out.sum().backward()
    assert not bias.grad.any()


def test_ranked_functions_take_the_arguments_of_natten() -> None:
    q = torch.randn(1, 8, 8, 2, 4)
    expected = neighborhood_attention(q, q, q, 3, 2, 2, True, 0.5)
    found = na2d(
        q, q, q, 3, 2, 2, True, 0.5, backend="hopper-fna", q_tile_shape=(8, 8),
        kv_tile_shape=(8, 8), kernel_schedule="pp", torch_compile=True, return_lse=False,
    )  # fmt: skip
    assert torch.equal(found, expected)
    for attend, rank in ((na1d, 1), (na2d, 2), (na3d, 3)):
        shape = (1, *(5,) * rank, 1, 2)
        assert attend(torch.ones(shape), torch.ones(shape), torch.ones(shape), 3).shape == shape


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"query": np.ones((1, 8, 8, 2, 4))}, TypeError, "query must be a torch tensor"),
        ({"query": torch.ones(1, 8, 2, 4)}, ValueError, "2 spatial axes for na2d"),
        ({"key": torch.ones(1, 8, 8, 2, 5)}, ValueError, "k must have shape"),
        ({"value": torch.ones(1, 8, 8, 2, 4).double()}, TypeError, "v must be float32"),
        ({"kernel_size": 9}, ValueError, "at most the axis length 8"),
        ({"kernel_size": [3, 3, 3]}, ValueError, "one entry for each of 2"),
        ({"stride": 4}, ValueError, r"stride\[0\] must be between"),
        ({"method": "fast"}, ValueError, "method must be one of"),
        ({"colour": 3}, TypeError, "colour"),
        ({"bias": torch.ones(2, 5, 4)}, ValueError, "bias must have shape"),
        ({"scale": float("nan")}, ValueError, "scale must be finite"),
    ],
)
def test_what_does_not_fit_is_refused(
    change: dict[str, Any], error: type[Exception], message: str
) -> None:
    q = torch.ones(1, 8, 8, 2, 4)
    arguments: dict[str, Any] = {"query": q, "key": q, "value": q, "kernel_size": 3}
    for _ in range(2):  # the second time, the layout is known
        with pytest.raises(error, match=message):
            na2d(**{**arguments, **change})


def test_the_array_functions_point_to_the_ones_with_gradients() -> None:
    import cupyna

    q = torch.ones(1, 8, 2, 4, requires_grad=True)
    with pytest.raises(ValueError, match=r"cupyna\.torch"):
        cupyna.na1d(q, q, q, 3)


def test_the_switch_of_torch_asks_for_determinism(monkeypatch: pytest.MonkeyPatch) -> None:
    from cupyna.torch import direct

    asked = []
    real = direct.operations.neighborhood_attention

    def watched(**options: Any) -> Any:
        asked.append(options["deterministic"])
        return real(**options)

    monkeypatch.setattr(direct.operations, "neighborhood_attention", watched)
    q = torch.ones(1, 8, 2, 4)
    torch.use_deterministic_algorithms(True)
    try:
        na1d(q, q, q, 3)
    finally:
        torch.use_deterministic_algorithms(False)
    na1d(q, q, q, 3)
    assert asked == [True, False]
