"""Attention of plain tensors without torch's dispatcher: what a call outside compilers runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from . import autograd, direct, merging
from .options import CallOptions

__all__ = ["attend", "attend_beside"]

Tensor = Any


def attend(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, options: CallOptions, with_lse: bool
) -> tuple[Tensor, Tensor | None]:
    """Output and log-sum-exp; without `with_lse` the second may be None."""
    if torch.is_grad_enabled() and (
        q.requires_grad
        or k.requires_grad
        or v.requires_grad
        or (bias is not None and bias.requires_grad)
    ):
        found: tuple[Tensor, Tensor] = _Attention.apply(q, k, v, bias, options)
        return found
    return direct.attend(q, k, v, bias, options, with_lse)


class _Attention(torch.autograd.Function):  # type: ignore[misc]
    """As `autograd.attention`, in the older form of a function, which costs a third as much."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, options: CallOptions
    ) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        out, lse = direct.attend(q, k, v, bias, options, True)
        ctx.save_for_backward(q, k, v, bias, out, lse)
        ctx.options = options
        assert lse is not None
        return out, lse

    @staticmethod
    def backward(ctx: Any, dout: Tensor | None, dlse: Tensor | None) -> tuple[Any, ...]:
        return autograd.gradients(dout, dlse, ctx.saved_tensors, ctx.options)[:5]


def attend_beside(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    more_k: Tensor,
    more_v: Tensor,
    options: CallOptions,
) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp where every query sees `more_k` beside its window."""
    found: tuple[Tensor, Tensor] = _AttentionBeside.apply(q, k, v, bias, more_k, more_v, options)
    return found


class _AttentionBeside(torch.autograd.Function):  # type: ignore[misc]
    """Attention with keys beside the windows: in one pass where a kernel can, else merged.

    Given the output and the log-sum-exp of all keys, backward of the windows is that of attention
    without others, and what the others add is a few dense products.
    """

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        *tensors, options = inputs
        q, k, v, bias, more_k, more_v = tensors
        found = direct.attend_beside(q, k, v, bias, more_k, more_v, options)
        if found is None:
            found = _merged(direct.attend, tensors, options, True)
        ctx.save_for_backward(*tensors, *found)
        ctx.options = options
        return found

    @staticmethod
    def backward(ctx: Any, dout: Tensor | None, dlse: Tensor | None) -> tuple[Any, ...]:
        *tensors, out, lse = ctx.saved_tensors
        if dout is None:
            if dlse is None:
                return (None,) * 7
            dout = torch.zeros_like(out)
        if torch.is_grad_enabled():
            return *_recorded(dout, dlse, tensors, ctx.options), None
        q, k, v, bias, more_k, more_v = tensors
        saved = (q, k, v, bias, out, lse)
        dq, dk, dv, dbias, *_ = autograd.gradients(dout, dlse, saved, ctx.options)
        added, dmore_k, dmore_v = merging.attend_all_backward(
            dout, dlse, q, more_k, more_v, out, lse, ctx.options.scale
        )
        dq = (dq + added).to(q.dtype)
        return dq, dk, dv, dbias, dmore_k.to(q.dtype), dmore_v.to(q.dtype), None


def _merged(attend: Any, tensors: Sequence[Any], *rest: Any) -> tuple[Tensor, Tensor]:
    q, k, v, bias, more_k, more_v = tensors
    options = rest[0]
    nearby = attend(q, k, v, bias, *rest)
    return merging.merge((nearby, merging.attend_all(q, more_k, more_v, options.scale)))


def _recorded(
    dout: Tensor, dlse: Tensor | None, tensors: Sequence[Any], options: CallOptions
) -> list[Any]:
    """Gradients that are differentiable themselves: those of merging two results."""

    def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, options: Any) -> Any:
        return autograd.attention(q, k, v, bias, *options)

    results = _merged(attend, tensors, options)
    pairs = [(r, d) for r, d in zip(results, (dout, dlse), strict=True) if d is not None]
    asked = [i for i, t in enumerate(tensors) if t is not None and t.requires_grad]
    found = torch.autograd.grad(
        [result for result, _ in pairs], [tensors[i] for i in asked], [d for _, d in pairs],
        create_graph=True, allow_unused=True,
    )  # fmt: skip
    gradients: list[Any] = [None] * len(tensors)
    for i, gradient in zip(asked, found, strict=True):
        gradients[i] = gradient
    return gradients
