"""Gradients of the operators, of any order.

Forward and its backward are single kernels' work. Where a gradient is differentiated again, it is
written out in the three bilinear products, which are closed under differentiation: the gradients of
each are the two others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from . import beside, direct, ops, weights
from .options import CallOptions

__all__ = [
    "attention",
    "attention_beside",
    "gradients",
    "gradients_beside",
    "scores",
    "values",
    "values_transposed",
]

Tensor = Any


def gradients(
    dout: Tensor | None, dlse: Tensor | None, saved: Sequence[Any], options: CallOptions
) -> tuple[Any, ...]:
    """Gradients for q, k, v and the bias, and None for every option."""
    rest = (None,) * len(options)
    q, k, v, bias, out, lse = saved
    if dout is None:
        if dlse is None:
            return (None, None, None, None, *rest)
        dout = torch.zeros_like(out)
    if torch.is_grad_enabled():
        return *_written_out(dout, dlse, q, k, v, bias, options), *rest
    if _is_direct(dout, dlse, q, k, v):
        found = direct.attend_backward(dout, dlse, q, k, v, bias, out, lse, options)
    else:
        found = ops.attention_backward(dout, dlse, q, k, v, bias, out, lse, *options)
    return *found[:3], None if bias is None else found[3], *rest


def _is_direct(dout: Tensor, dlse: Tensor | None, *others: Tensor) -> bool:
    """Whether backward may go around torch's dispatcher."""
    # What `is_grads_batched` maps over says so in no other way.
    mapped = torch._C._functorch.is_legacy_batchedtensor
    is_mapped = mapped(dout) or (dlse is not None and mapped(dlse))
    return not (is_mapped or torch.compiler.is_compiling()) and direct.is_plain(dout, *others)


def gradients_beside(
    dout: Tensor | None, dlse: Tensor | None, saved: Sequence[Any], options: CallOptions
) -> tuple[Any, ...]:
    """Gradients for q, k, v, the bias and the keys and values beside, and None for every option."""
    rest = (None,) * len(options)
    q, k, v, bias, more_k, more_v, out, lse = saved
    if dout is None:
        if dlse is None:
            return (*(None,) * 6, *rest)
        dout = torch.zeros_like(out)
    if torch.is_grad_enabled():
        return *_merged_gradients(dout, dlse, saved[:6], options), *rest
    if _is_direct(dout, dlse, q, k, v, more_k, more_v):
        found = beside.attend_backward(dout, dlse, q, k, v, bias, more_k, more_v, out, lse, options)
    else:
        found = ops.attention_beside_backward(dout, dlse, *saved, *options)
    dq, dk, dv, dbias, *of_more = found
    return dq, dk, dv, None if bias is None else dbias, *of_more, *rest


def _merged_gradients(
    dout: Tensor, dlse: Tensor | None, tensors: Sequence[Any], options: CallOptions
) -> list[Any]:
    """Gradients that are differentiable themselves: those of merging two results."""

    def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, options: Any) -> Any:
        return attention(q, k, v, bias, *options)

    results = beside.merged(attend, tensors, options)
    pairs = [(r, d) for r, d in zip(results, (dout, dlse), strict=True) if d is not None]
    asked = [i for i, t in enumerate(tensors) if t is not None and t.requires_grad]
    found = torch.autograd.grad(
        [result for result, _ in pairs], [tensors[i] for i in asked], [d for _, d in pairs],
        create_graph=True, allow_unused=True,
    )  # fmt: skip
    by_place: list[Any] = [None] * len(tensors)
    for i, gradient in zip(asked, found, strict=True):
        by_place[i] = gradient
    return by_place


def _written_out(
    dout: Tensor,
    dlse: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    options: CallOptions,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """The formulas of backward in differentiable operators, from the inputs alone."""
    dtype, wide = q.dtype, torch.float64 if q.dtype == torch.float64 else torch.float32
    q, k, v, dout = (tensor.to(wide) for tensor in (q, k, v, dout))
    scale = q.shape[-1] ** -0.5 if options.scale is None else options.scale
    window = options.window().values()
    products = scores(q, k, scale, *window)
    if bias is not None:
        products = products + weights.spread_bias(bias.to(wide), q.shape, options)
    probabilities = torch.softmax(weights.hide_empty(products, options), -1)
    dweights = scores(dout, v, 1.0, *window)
    delta = (probabilities * dweights).sum(-1, keepdim=True)
    if dlse is not None:
        delta = delta - dlse.unsqueeze(-1)
    dscores = probabilities * (dweights - delta)
    dq = values(dscores, k, *window) * scale
    dk = values_transposed(dscores, q, k.shape[-2], *window) * scale
    dv = values_transposed(probabilities, dout, k.shape[-2], *window)
    dbias = None
    if bias is not None:
        dbias = weights.gather_bias(dscores, bias.shape, options).to(dtype)
    return dq.to(dtype), dk.to(dtype), dv.to(dtype), dbias


def _keep_attention(ctx: Any, inputs: Sequence[Any], output: tuple[Tensor, Tensor]) -> None:
    ctx.set_materialize_grads(False)
    q, k, v, bias, *fields = inputs
    ctx.save_for_backward(q, k, v, bias, *output)
    ctx.options = CallOptions.from_operator(fields)


def _attention_gradients(ctx: Any, dout: Tensor | None, dlse: Tensor | None) -> tuple[Any, ...]:
    return gradients(dout, dlse, ctx.saved_tensors, ctx.options)


def _keep_beside(ctx: Any, inputs: Sequence[Any], output: tuple[Tensor, Tensor]) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs[:6], *output)
    ctx.options = CallOptions.from_operator(inputs[6:])


def _beside_gradients(ctx: Any, dout: Tensor | None, dlse: Tensor | None) -> tuple[Any, ...]:
    return gradients_beside(dout, dlse, ctx.saved_tensors, ctx.options)


def _keep_product(ctx: Any, inputs: Sequence[Any], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2])
    ctx.window = inputs[-4:]


def _keep_scores(ctx: Any, inputs: Sequence[Any], output: Tensor) -> None:
    _keep_product(ctx, inputs, output)
    ctx.scale = inputs[2]


def _scores_gradients(ctx: Any, dscores: Tensor) -> tuple[Any, ...]:
    q, k = ctx.saved_tensors
    dq = values(dscores, k, *ctx.window) * ctx.scale
    dk = values_transposed(dscores, q, k.shape[-2], *ctx.window) * ctx.scale
    return dq, dk, None, None, None, None, None


def _values_gradients(ctx: Any, dout: Tensor) -> tuple[Any, ...]:
    probabilities, v = ctx.saved_tensors
    dweights = scores(dout, v, 1.0, *ctx.window)
    dv = values_transposed(probabilities, dout, v.shape[-2], *ctx.window)
    return dweights, dv, None, None, None, None


def _transposed_gradients(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
    probabilities, x = ctx.saved_tensors
    dweights = scores(x, dy, 1.0, *ctx.window)
    dx = values(probabilities, dy, *ctx.window)
    return dweights, dx, None, None, None, None, None


def _differentiable(
    operator: Any, keep: Callable[..., None], backward: Callable[..., Any]
) -> Callable[..., Any]:
    """An operator with its gradients, also inside `torch.func`.

    What is registered with an operator serves eager mode and compilers. The transforms of
    `torch.func` look for an autograd function instead.
    """
    name = operator.name().partition(".")[0]
    torch.library.register_autograd(name, backward, setup_context=keep, lib=ops.LIBRARY)
    function: Any = type(
        name.partition("::")[2],
        (torch.autograd.Function,),
        {
            "forward": staticmethod(lambda *inputs: operator(*inputs)),
            "setup_context": staticmethod(keep),
            "backward": staticmethod(backward),
            "generate_vmap_rule": True,
        },
    )

    def call(*inputs: Any) -> Any:
        if not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active():
            return function.apply(*inputs)
        return operator(*inputs)

    return call


attention = _differentiable(ops.attention, _keep_attention, _attention_gradients)
attention_beside = _differentiable(ops.attention_beside, _keep_beside, _beside_gradients)
scores = _differentiable(ops.scores, _keep_scores, _scores_gradients)
values = _differentiable(ops.values, _keep_product, _values_gradients)
values_transposed = _differentiable(ops.values_transposed, _keep_product, _transposed_gradients)
