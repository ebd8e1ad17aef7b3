"""Derivatives against finite differences, in float64, to second order."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from cupyna.torch import na_av, na_qk, neighborhood_attention  # noqa: E402

pytestmark = pytest.mark.torch

# spatial, kernel_size, stride, dilation, is_causal, query heads, key heads, bias, additional tokens
CASES = {
    "plain": ((5,), (3,), (1,), (1,), (False,), 1, 1, False, 0),
    "causal": ((7,), (3,), (2,), (2,), (True,), 2, 1, True, 0),
    "plane": ((3, 4), (2, 3), (1, 2), (1, 1), (True, False), 2, 2, True, 0),
    "volume": ((2, 3, 3), (2, 1, 2), (2, 1, 1), (1, 2, 1), (False, False, True), 2, 1, True, 0),
    "additional": ((5,), (3,), (1,), (1,), (False,), 2, 1, True, 2),
}
each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def leaf(*shape: int, dtype: Any = torch.float64) -> Any:
    return (torch.randn(shape, dtype=dtype) + 0.5).requires_grad_()


def tensors_of(case: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    spatial, kernel_size, stride, dilation, is_causal, heads, kv_heads, has_bias, more = case
    torch.manual_seed(0)
    tensors = {
        "query": leaf(2, *spatial, heads, 3),
        "key": leaf(2, *spatial, kv_heads, 3),
        "value": leaf(2, *spatial, kv_heads, 2),
    }
    if has_bias:
        tensors["bias"] = leaf(heads, *(2 * size - 1 for size in kernel_size))
    if more:
        tensors["additional_keys"] = leaf(2, more, kv_heads, 3)
        tensors["additional_values"] = leaf(2, more, kv_heads, 2)
    window = {
        "kernel_size": kernel_size, "stride": stride, "dilation": dilation, "is_causal": is_causal,
    }  # fmt: skip
    return tensors, window


@each_case
@pytest.mark.parametrize("method", ["naive", "auto"])
def test_first_and_second_derivatives(case: Any, method: str) -> None:
    tensors, window = tensors_of(case)

    def attend(*values: Any) -> Any:
        named = dict(zip(tensors, values, strict=True))
        return neighborhood_attention(**named, **window, scale=0.7, method=method, return_lse=True)

    arguments = tuple(tensors.values())
    assert torch.autograd.gradcheck(attend, arguments, fast_mode=True)
    assert torch.autograd.gradgradcheck(attend, arguments, fast_mode=True)


@each_case
def test_derivatives_of_the_products(case: Any) -> None:
    tensors, window = tensors_of(case)
    q, k, v = (tensors[name] for name in ("query", "key", "value"))
    bias = tensors.get("bias")

    def scores(*arguments: Any) -> Any:
        found = na_qk(*arguments[:2], **window, scale=-0.4, bias=(*arguments[2:], None)[0])
        return found.masked_fill(found.isneginf(), 0)

    arguments = (q, k) if bias is None else (q, k, bias)
    weights = torch.softmax(na_qk(q, k, **window), -1).detach().requires_grad_()
    for function, given in (
        (scores, arguments),
        (lambda w, v: na_av(w, v, **window), (weights, v)),
    ):
        assert torch.autograd.gradcheck(function, given, fast_mode=True)
        assert torch.autograd.gradgradcheck(function, given, fast_mode=True)


def test_a_third_derivative() -> None:
    tensors, window = tensors_of(CASES["causal"])
    q, k, v = (tensors[name] for name in ("query", "key", "value"))

    def second(q: Any) -> Any:
        out = neighborhood_attention(q, k, v, **window)
        (first,) = torch.autograd.grad(out.square().sum(), q, create_graph=True)
        return torch.autograd.grad(first.square().sum(), q, create_graph=True)

    assert torch.autograd.gradcheck(second, (q,), fast_mode=True)


def test_recorded_gradients_are_the_kernels_own() -> None:
    """What a double backward differentiates is what a single one computes."""
    tensors, window = tensors_of(CASES["plane"])
    leaves = list(tensors.values())
    out, lse = neighborhood_attention(**tensors, **window, return_lse=True)
    seed = torch.randn_like(out)
    for loss in ((out * seed).sum(), (out * seed).sum() + lse.square().sum()):
        own = torch.autograd.grad(loss, leaves, retain_graph=True)
        recorded = torch.autograd.grad(loss, leaves, create_graph=True)
        for a, b in zip(own, recorded, strict=True):
            torch.testing.assert_close(a, b)


def test_second_derivatives_of_half_precision_are_computed_in_single() -> None:
    torch.manual_seed(0)
    wide = torch.randn(1, 8, 2, 4, dtype=torch.float64)

    def second(q: Any) -> Any:
        q = q.detach().requires_grad_()
        out = neighborhood_attention(q, q, q, 3)
        (first,) = torch.autograd.grad(out.sum(), q, create_graph=True)
        return torch.autograd.grad(first.square().sum(), q)[0]

    narrow = second(wide.half())
    assert narrow.dtype is torch.float16
    torch.testing.assert_close(narrow.double(), second(wide.half().double()), rtol=0.02, atol=0.02)
