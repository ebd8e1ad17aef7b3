"""Attention of plain tensors without torch's dispatcher: what a call outside compilers runs."""

from __future__ import annotations

from typing import Any

import torch

from . import autograd, beside, direct
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
    """As `autograd.attention_beside`, in the older form."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        *tensors, options = inputs
        q, k, v, bias, more_k, more_v = tensors
        found = beside.attend(q, k, v, bias, more_k, more_v, options)
        ctx.save_for_backward(*tensors, *found)
        ctx.options = options
        return found

    @staticmethod
    def backward(ctx: Any, dout: Tensor | None, dlse: Tensor | None) -> tuple[Any, ...]:
        return autograd.gradients_beside(dout, dlse, ctx.saved_tensors, ctx.options)[:7]
