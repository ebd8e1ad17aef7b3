"""Neighborhood attention of torch tensors, with gradients.

Arguments have NATTEN's names, order and defaults; whatever else this library can do comes after.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from . import autograd, beside, direct, eager, merging, weights
from .options import CallOptions

__all__ = ["na1d", "na2d", "na3d", "na_av", "na_qk", "neighborhood_attention"]

Tensor = Any
Ints = int | Sequence[int]
Bools = bool | Sequence[bool]

# What NATTEN's functions take to tune NATTEN's kernels. None of it changes a result.
_TUNING = {
    "attention_kwargs", "backend", "q_tile_shape", "kv_tile_shape", "backward_q_tile_shape",
    "backward_kv_tile_shape", "backward_kv_splits", "backward_use_pt_reduction",
    "run_persistent_kernel", "kernel_schedule", "torch_compile",
}  # fmt: skip


def neighborhood_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kernel_size: Ints,
    stride: Ints = 1,
    dilation: Ints = 1,
    is_causal: Bools = False,
    scale: float | None = None,
    additional_keys: Tensor | None = None,
    additional_values: Tensor | None = None,
    *,
    bias: Tensor | None = None,
    method: str = "auto",
    allow_tf32: bool = False,
    deterministic: bool = False,
    tune: bool = False,
    return_lse: bool = False,
) -> Any:
    """Attention of every token to the window of tokens around it, with gradients.

    The same as :func:`cupyna.neighborhood_attention` for tensors of torch on any device, with
    autograd of any order, `torch.compile`, `torch.export`, `torch.func` and autocast.

    Parameters
    ----------
    query : Tensor, shape [batch, *spatial, heads, head_dim]
        float16, bfloat16, float32 or float64.
    key : Tensor, shape [batch, *spatial, kv_heads, head_dim]
        `heads` is a multiple of `kv_heads`.
    value : Tensor, shape [batch, *spatial, kv_heads, value_dim]
    kernel_size, stride, dilation, is_causal, scale
        As in :func:`cupyna.neighborhood_attention`.
    additional_keys : Tensor, shape [batch, tokens, kv_heads, head_dim], optional
        Keys that every query sees beside its window.
    additional_values : Tensor, shape [batch, tokens, kv_heads, value_dim], optional
        Their values.
    bias : Tensor, shape [heads, 2 * kernel_size[0] - 1, ...], optional
        Added to the scores of the window by relative position.
    method : {"auto", "naive", "gemm", "fused"}, optional
        How to compute it. Whatever ``"auto"`` finds computes backward.
    allow_tf32 : bool, optional
        Let tensor cores round float32 inputs to TF32.
    deterministic : bool, optional
        Ask for the same bits in every run, as ``torch.use_deterministic_algorithms`` also does.
    tune : bool, optional
        Measure the candidates once on this machine and remember the fastest.
    return_lse : bool, optional
        Also return the log-sum-exp, which gradients may flow through.

    Returns
    -------
    out : Tensor, shape [batch, *spatial, heads, value_dim]
    lse : Tensor, shape [batch, *spatial, heads]
        float32 (float64 for float64 inputs); only with `return_lse`.

    Raises
    ------
    TypeError, ValueError
        As :func:`cupyna.neighborhood_attention`.

    Notes
    -----
    Under autocast, inputs are cast to its dtype, float64 excepted. On a GPU, a tensor whose
    channels cannot be read in 16-byte steps is copied once if a copy can.

    Examples
    --------
    >>> import torch
    >>> from cupyna.torch import neighborhood_attention
    >>> q = torch.ones(1, 8, 8, 2, 4, requires_grad=True)
    >>> neighborhood_attention(q, q, q, kernel_size=3).sum().backward()
    >>> q.grad.shape
    torch.Size([1, 8, 8, 2, 4])
    """
    if not isinstance(query, torch.Tensor) or query.ndim not in (4, 5, 6):
        raise _wrong_query(query)
    options = CallOptions.of(
        query.ndim - 3, kernel_size, stride, dilation, is_causal, scale,
        method, allow_tf32, deterministic, tune,
    )  # fmt: skip
    if torch.is_autocast_enabled("cuda" if query.is_cuda else "cpu"):
        query, key, value, bias, additional_keys, additional_values = _autocast(
            query, key, value, bias, additional_keys, additional_values
        )
    if additional_keys is None and additional_values is None:
        out, lse = _attend(query, key, value, bias, options, return_lse)
        return (out, lse) if return_lse else out
    merging.check_additional(query, key, value, additional_keys, additional_values)
    more = (additional_keys, additional_values)
    tensors = (query, key, value, bias, *more)
    if torch.compiler.is_compiling():
        found = autograd.attention_beside(*tensors, *options)
    elif direct.is_plain(*tensors):
        found = eager.attend_beside(*tensors, options)
    else:
        # Parts that transforms can differentiate to any order.
        found = beside.merged(_attend, tensors, options, True)
    return found if return_lse else found[0]


def na1d(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kernel_size: Ints,
    stride: Ints = 1,
    dilation: Ints = 1,
    is_causal: Bools = False,
    scale: float | None = None,
    additional_keys: Tensor | None = None,
    additional_values: Tensor | None = None,
    **options: Any,
) -> Any:
    """Neighborhood attention along one axis, with NATTEN's arguments.

    Parameters
    ----------
    query, key, value : Tensor, shape [batch, length, heads, head_dim]
        As in :func:`neighborhood_attention`.
    kernel_size, stride, dilation, is_causal, scale, additional_keys, additional_values
        As in :func:`neighborhood_attention`.
    **options
        Its other keywords: `bias`, `method`, `allow_tf32`, `deterministic`, `tune`,
        `return_lse`. What NATTEN takes to tune its own kernels (`backend`, `q_tile_shape`,
        `kernel_schedule` and so on) is accepted and has no effect.

    Returns
    -------
    out : Tensor, shape [batch, length, heads, value_dim]
        With ``return_lse=True`` a pair of it and the log-sum-exp.

    Raises
    ------
    TypeError, ValueError
        As :func:`neighborhood_attention`.
    """
    return _ranked(
        1, query, key, value, kernel_size, stride, dilation, is_causal, scale,
        additional_keys, additional_values, options,
    )  # fmt: skip


def na2d(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kernel_size: Ints,
    stride: Ints = 1,
    dilation: Ints = 1,
    is_causal: Bools = False,
    scale: float | None = None,
    additional_keys: Tensor | None = None,
    additional_values: Tensor | None = None,
    **options: Any,
) -> Any:
    """Neighborhood attention on a plane ``[batch, x, y, heads, head_dim]``; see :func:`na1d`."""
    return _ranked(
        2, query, key, value, kernel_size, stride, dilation, is_causal, scale,
        additional_keys, additional_values, options,
    )  # fmt: skip


def na3d(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kernel_size: Ints,
    stride: Ints = 1,
    dilation: Ints = 1,
    is_causal: Bools = False,
    scale: float | None = None,
    additional_keys: Tensor | None = None,
    additional_values: Tensor | None = None,
    **options: Any,
) -> Any:
    """Neighborhood attention in a volume, ``[batch, x, y, z, heads, head_dim]``; see `na1d`."""
    return _ranked(
        3, query, key, value, kernel_size, stride, dilation, is_causal, scale,
        additional_keys, additional_values, options,
    )  # fmt: skip


def na_qk(
    query: Tensor,
    key: Tensor,
    kernel_size: Ints,
    stride: Ints = 1,
    dilation: Ints = 1,
    is_causal: Bools = False,
    scale: float | None = None,
    *,
    bias: Tensor | None = None,
) -> Tensor:
    """Attention scores before the softmax, with gradients; see :func:`cupyna.na_qk`.

    Parameters
    ----------
    query, key, kernel_size, stride, dilation, is_causal, scale, bias
        As in :func:`neighborhood_attention`.

    Returns
    -------
    scores : Tensor, shape [batch, *spatial, heads, prod(kernel_size)]
        -inf where a causal window has no key.

    Raises
    ------
    TypeError, ValueError
        As :func:`neighborhood_attention`.
    """
    if not isinstance(query, torch.Tensor) or query.ndim not in (4, 5, 6):
        raise _wrong_query(query)
    options = CallOptions.of(query.ndim - 3, kernel_size, stride, dilation, is_causal)
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    scores = autograd.scores(query, key, factor, *options.window().values())
    if bias is not None:
        weights.check_bias(bias, query, options)
        scores = scores + weights.spread_bias(bias, query.shape, options)
    return weights.hide_empty(scores, options)


def na_av(
    attention_weights: Tensor,
    value: Tensor,
    kernel_size: Ints,
    stride: Ints = 1,
    dilation: Ints = 1,
    is_causal: Bools = False,
) -> Tensor:
    """Values of every window summed under its weights, with gradients; see :func:`cupyna.na_av`.

    Parameters
    ----------
    attention_weights : Tensor, shape [batch, *spatial, heads, prod(kernel_size)]
        Usually the softmax of :func:`na_qk`, perhaps after a dropout.
    value, kernel_size, stride, dilation, is_causal
        As in :func:`neighborhood_attention`.

    Returns
    -------
    out : Tensor, shape [batch, *spatial, heads, value_dim]

    Raises
    ------
    TypeError, ValueError
        As :func:`neighborhood_attention`.
    """
    if not isinstance(value, torch.Tensor) or value.ndim not in (4, 5, 6):
        raise _wrong_query(value, "value")
    options = CallOptions.of(value.ndim - 3, kernel_size, stride, dilation, is_causal)
    return autograd.values(attention_weights, value, *options.window().values())


def _ranked(rank: int, query: Tensor, *arguments: Any) -> Any:
    *arguments_of_all, options = arguments
    if arguments_of_all[5] is None:  # as NATTEN allows for is_causal
        arguments_of_all[5] = False
    if not isinstance(query, torch.Tensor) or query.ndim != rank + 3:
        raise _wrong_query(query, rank=rank)
    if not _TUNING.isdisjoint(options):
        options = {name: value for name, value in options.items() if name not in _TUNING}
    return neighborhood_attention(query, *arguments_of_all, **options)


def _attend(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, options: CallOptions, with_lse: bool
) -> tuple[Tensor, Tensor | None]:
    if not torch.compiler.is_compiling() and direct.is_plain(q, k, v, bias):
        return eager.attend(q, k, v, bias, options, with_lse)
    out, lse = autograd.attention(q, k, v, bias, *options)
    return out, lse


def _autocast(query: Tensor, *others: Tensor | None) -> tuple[Tensor | None, ...]:
    """What autocast does to the inputs of a matrix product."""
    dtype = torch.get_autocast_dtype(query.device.type)
    return tuple(
        tensor if tensor is None or tensor.dtype is torch.float64 else tensor.to(dtype)
        for tensor in (query, *others)
    )


def _wrong_query(query: Any, name: str = "query", rank: int | None = None) -> Exception:
    if not isinstance(query, torch.Tensor):
        kind = type(query)
        return TypeError(
            f"{name} must be a torch tensor, got {kind.__module__}.{kind.__qualname__}; "
            "cupyna.neighborhood_attention takes arrays of any library"
        )
    axes = "1, 2 or 3 spatial axes" if rank is None else f"{rank} spatial axes for na{rank}d"
    return ValueError(
        f"{name} must be [batch, *spatial, heads, head_dim] with {axes}, "
        f"got shape {tuple(query.shape)}"
    )
