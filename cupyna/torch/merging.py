"""Attention to keys that every query sees, and one result of several by their log-sum-exp.

The log-sum-exp says how much a partial result weighs: of attention over two disjoint sets of keys,
``out = exp(lse_1 - lse) out_1 + exp(lse_2 - lse) out_2`` with ``lse = log(exp lse_1 + exp lse_2)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

__all__ = ["attend_all", "attend_all_backward", "check_additional", "merge", "merge_attentions"]

Tensor = Any


def merge_attentions(
    outputs: Sequence[Tensor],
    lse_tensors: Sequence[Tensor],
    torch_compile: bool = True,
    use_autograd_fix: bool = True,
) -> tuple[Tensor, Tensor]:
    """One attention from several of the same queries over disjoint sets of keys.

    Parameters
    ----------
    outputs : sequence of Tensor, shape [batch, *spatial, heads, value_dim]
        Two or more partial results.
    lse_tensors : sequence of Tensor, shape [batch, *spatial, heads]
        Their log-sum-exps.
    torch_compile, use_autograd_fix
        NATTEN's; they have no effect, as gradients through a log-sum-exp are right here.

    Returns
    -------
    out : Tensor
        Of the shape and dtype of the first output.
    lse : Tensor
        Of the shape and dtype of the first log-sum-exp.

    Raises
    ------
    ValueError
        If there are fewer than two results, or shapes differ.

    Examples
    --------
    >>> import torch
    >>> from cupyna.torch import merge_attentions
    >>> out, lse = merge_attentions([torch.ones(1, 4, 2, 8)] * 2, [torch.zeros(1, 4, 2)] * 2)
    >>> bool(torch.allclose(lse.exp(), torch.tensor(2.0)))
    True
    """
    if len(outputs) != len(lse_tensors) or len(outputs) < 2:
        raise ValueError(
            "outputs and lse_tensors must be two or more of each, "
            f"got {len(outputs)} and {len(lse_tensors)}"
        )
    for name, tensors, shape in (
        ("outputs", outputs, outputs[0].shape),
        ("lse_tensors", lse_tensors, outputs[0].shape[:-1]),
    ):
        for i, tensor in enumerate(tensors):
            if tensor.shape != shape:
                raise ValueError(
                    f"{name}[{i}] must have shape {tuple(shape)}, got {tuple(tensor.shape)}"
                )
    return merge(tuple(zip(outputs, lse_tensors, strict=True)))


def merge(parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Merge partial results, in the log-sum-exp's type."""
    dtype = parts[0][0].dtype
    out, lse = parts[0]
    out = out.to(lse.dtype)
    for other, other_lse in parts[1:]:
        both = torch.logaddexp(lse, other_lse)
        kept, added = torch.exp(lse - both), torch.exp(other_lse - both)
        out = out * kept.unsqueeze(-1) + other.to(lse.dtype) * added.unsqueeze(-1)
        lse = both
    return out.to(dtype), lse


def attend_all(
    query: Tensor, keys: Tensor, values: Tensor, scale: float | None
) -> tuple[Tensor, Tensor]:
    """Attention of every query to all of a few tokens, unrounded, and its log-sum-exp.

    Scores of all queries with all tokens are stored, in the accumulator's type.
    """
    wide = torch.float64 if query.dtype == torch.float64 else torch.float32
    *grid, heads, head_dim = query.shape
    kv_heads, value_dim = values.shape[2:]
    factor = head_dim**-0.5 if scale is None else scale
    grouped = query.reshape(grid[0], -1, kv_heads, heads // kv_heads, head_dim).to(wide)
    with torch.autocast(query.device.type, enabled=False):
        scores = torch.einsum("bqhgd,bkhd->bqhgk", grouped * factor, keys.to(wide))
        lse = torch.logsumexp(scores, -1)
        weights = torch.exp(scores - lse.unsqueeze(-1))
        out = torch.einsum("bqhgk,bkhd->bqhgd", weights, values.to(wide))
    return out.reshape(*grid, heads, value_dim), lse.reshape(*grid, heads)


def attend_all_backward(
    dout: Tensor,
    dlse: Tensor | None,
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    out: Tensor,
    lse: Tensor,
    scale: float | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients for the query and the tokens' keys and values, unrounded.

    `out` and `lse` are those of all keys together, of which these are a part.
    """
    wide = lse.dtype
    *grid, heads, head_dim = query.shape
    kv_heads, value_dim = values.shape[2:]
    factor = head_dim**-0.5 if scale is None else scale

    def grouped(tensor: Tensor, *channels: int) -> Tensor:
        return tensor.reshape(grid[0], -1, kv_heads, heads // kv_heads, *channels).to(wide)

    with torch.autocast(query.device.type, enabled=False):
        q, d = grouped(query, head_dim), grouped(dout, value_dim)
        keys, values = keys.to(wide), values.to(wide)
        scores = torch.einsum("bqhgd,bkhd->bqhgk", q * factor, keys)
        weights = torch.exp(scores - grouped(lse).unsqueeze(-1))
        delta = (d * grouped(out, value_dim)).sum(-1)
        if dlse is not None:
            delta = delta - grouped(dlse)
        dweights = torch.einsum("bqhgd,bkhd->bqhgk", d, values)
        dscores = weights * (dweights - delta.unsqueeze(-1)) * factor
        dq = torch.einsum("bqhgk,bkhd->bqhgd", dscores, keys)
        dkeys = torch.einsum("bqhgk,bqhgd->bkhd", dscores, q)
        dvalues = torch.einsum("bqhgk,bqhgd->bkhd", weights, d)
    return dq.reshape(query.shape), dkeys, dvalues


def check_additional(
    query: Tensor, key: Tensor, value: Tensor, keys: Tensor | None, values: Tensor | None
) -> None:
    """Check keys and values that come beside a window's."""
    if keys is None or values is None:
        raise ValueError("additional_keys and additional_values must be given together")
    given = {"additional_keys": (keys, key), "additional_values": (values, value)}
    for name, (tensor, like) in given.items():
        if not isinstance(tensor, torch.Tensor):
            raise TypeError(f"{name} must be a torch tensor, got {type(tensor).__qualname__}")
        expected = (query.shape[0], keys.shape[1] if keys.ndim > 1 else 0, *like.shape[-2:])
        if tensor.ndim != 4 or tuple(tensor.shape) != tuple(expected) or tensor.shape[1] < 1:
            raise ValueError(
                f"{name} must be [batch, tokens, kv_heads, channels] with at least one token, here "
                f"{(expected[0], 'tokens', *expected[2:])}, got shape {tuple(tensor.shape)}"
            )
        if tensor.dtype != query.dtype:
            raise TypeError(f"{name} must be {query.dtype} like query, got {tensor.dtype}")
        if tensor.device != query.device:
            raise ValueError(f"{name} must be on {query.device} like query, got {tensor.device}")
