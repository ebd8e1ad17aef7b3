"""Neighborhood attention as operators of torch, ``torch.ops.cupyna.*``.

Each has one implementation for both kinds of device, shapes for tracing without data, and a rule
for vmap. Gradients are registered in `autograd`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from .. import operations
from . import beside, direct
from .options import CallOptions

__all__ = [
    "LIBRARY",
    "attention",
    "attention_backward",
    "attention_beside",
    "attention_beside_backward",
    "scores",
    "values",
    "values_transposed",
]

Tensor = Any

LIBRARY = torch.library.Library("cupyna", "DEF")

_WINDOW = "int[] kernel_size, int[] stride, int[] dilation, bool[] is_causal"
_OPTIONS = f"{_WINDOW}, float? scale, str method, bool allow_tf32, bool deterministic, bool tune"
_SCHEMAS = {
    "attention": f"(Tensor q, Tensor k, Tensor v, Tensor? bias, {_OPTIONS}) -> (Tensor, Tensor)",
    # With keys and values that every query sees beside its window.
    "attention_beside": (
        "(Tensor q, Tensor k, Tensor v, Tensor? bias, Tensor more_k, Tensor more_v, "
        f"{_OPTIONS}) -> (Tensor, Tensor)"
    ),
    "attention_backward": (
        "(Tensor dout, Tensor? dlse, Tensor q, Tensor k, Tensor v, Tensor? bias, Tensor out, "
        f"Tensor lse, {_OPTIONS}) -> (Tensor, Tensor, Tensor, Tensor)"
    ),
    "attention_beside_backward": (
        "(Tensor dout, Tensor? dlse, Tensor q, Tensor k, Tensor v, Tensor? bias, Tensor more_k, "
        f"Tensor more_v, Tensor out, Tensor lse, {_OPTIONS}) "
        "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
    ),
    # The products that all derivatives of any order are made of; slots without a key are zero.
    "scores": f"(Tensor q, Tensor k, float scale, {_WINDOW}) -> Tensor",
    "values": f"(Tensor weights, Tensor v, {_WINDOW}) -> Tensor",
    "values_transposed": f"(Tensor weights, Tensor x, int kv_heads, {_WINDOW}) -> Tensor",
}


def _attention(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, *fields: Any
) -> tuple[Tensor, Tensor]:
    out, lse = direct.attend(q, k, v, bias, CallOptions.from_operator(fields), with_lse=True)
    return out, lse


def _attention_fake(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, *fields: Any
) -> tuple[Tensor, Tensor]:
    return (
        q.new_empty((*q.shape[:-1], v.shape[-1])),
        q.new_empty(q.shape[:-1], dtype=_accumulator(q.dtype)),
    )


def _attention_beside(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, more_k: Tensor, more_v: Tensor,
    *fields: Any,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    options = CallOptions.from_operator(fields)
    return beside.attend(q, k, v, bias, more_k, more_v, options)


def _attention_beside_fake(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, more_k: Tensor, more_v: Tensor,
    *fields: Any,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    return _attention_fake(q, k, v, bias, *fields)


def _attention_backward(
    dout: Tensor,
    dlse: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    out: Tensor,
    lse: Tensor,
    *fields: Any,
) -> tuple[Tensor, ...]:
    options = CallOptions.from_operator(fields)
    return direct.attend_backward(dout, dlse, q, k, v, bias, out, lse, options)


def _attention_backward_fake(
    dout: Tensor, dlse: Tensor | None, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None,
    out: Tensor, lse: Tensor, *fields: Any,
) -> tuple[Tensor, ...]:  # fmt: skip
    dbias = q.new_empty((0,)) if bias is None else bias.new_empty(bias.shape)
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape), dbias


def _attention_beside_backward(
    dout: Tensor, dlse: Tensor | None, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None,
    more_k: Tensor, more_v: Tensor, out: Tensor, lse: Tensor, *fields: Any,
) -> tuple[Tensor, ...]:  # fmt: skip
    options = CallOptions.from_operator(fields)
    return beside.attend_backward(dout, dlse, q, k, v, bias, more_k, more_v, out, lse, options)


def _attention_beside_backward_fake(
    dout: Tensor, dlse: Tensor | None, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None,
    more_k: Tensor, more_v: Tensor, out: Tensor, lse: Tensor, *fields: Any,
) -> tuple[Tensor, ...]:  # fmt: skip
    nearby = _attention_backward_fake(dout, dlse, q, k, v, bias, out, lse, *fields)
    return *nearby, more_k.new_empty(more_k.shape), more_v.new_empty(more_v.shape)


def _scores(q: Tensor, k: Tensor, scale: float, *window: Any) -> Tensor:
    found = operations.na_qk(q, k, scale=scale, **_window(window))
    return found.masked_fill_(found == -torch.inf, 0) if any(window[-1]) else found


def _scores_fake(q: Tensor, k: Tensor, scale: float, *window: Any) -> Tensor:
    return q.new_empty((*q.shape[:-1], math.prod(window[0])))


def _values(weights: Tensor, v: Tensor, *window: Any) -> Tensor:
    return operations.na_av(weights, v, **_window(window))


def _values_fake(weights: Tensor, v: Tensor, *window: Any) -> Tensor:
    return weights.new_empty((*weights.shape[:-1], v.shape[-1]))


def _values_transposed(weights: Tensor, x: Tensor, kv_heads: int, *window: Any) -> Tensor:
    # It is the gradient of the keys; their values have no part in it.
    keys = x.new_zeros((*x.shape[:-2], kv_heads, x.shape[-1]))
    _, found = operations.na_qk_backward(weights, x, keys, scale=1.0, **_window(window))
    return found


def _values_transposed_fake(weights: Tensor, x: Tensor, kv_heads: int, *window: Any) -> Tensor:
    return x.new_empty((*x.shape[:-2], kv_heads, x.shape[-1]))


def _window(fields: Sequence[Any]) -> dict[str, Any]:
    names = ("kernel_size", "stride", "dilation", "is_causal")
    return {name: tuple(field) for name, field in zip(names, fields, strict=True)}


def _accumulator(dtype: Any) -> Any:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _define(name: str, run: Callable[..., Any], fake: Callable[..., Any]) -> Any:
    LIBRARY.define(name + _SCHEMAS[name], tags=(torch.Tag.pt2_compliant_tag,))
    for key in ("CPU", "CUDA"):
        LIBRARY.impl(name, run, key)
    torch.library.register_fake(f"cupyna::{name}", fake, lib=LIBRARY)
    return getattr(torch.ops.cupyna, name).default


attention = _define("attention", _attention, _attention_fake)
attention_beside = _define("attention_beside", _attention_beside, _attention_beside_fake)
attention_backward = _define("attention_backward", _attention_backward, _attention_backward_fake)
attention_beside_backward = _define(
    "attention_beside_backward", _attention_beside_backward, _attention_beside_backward_fake
)
scores = _define("scores", _scores, _scores_fake)
values = _define("values", _values, _values_fake)
values_transposed = _define("values_transposed", _values_transposed, _values_transposed_fake)
