"""What surrounds stored weights: slots without a key, and the bias of each slot."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from ..geometry import Axis
from .options import CallOptions

__all__ = ["check_bias", "gather_bias", "hide_empty", "spread_bias"]

Tensor = Any


def check_bias(bias: Tensor, query: Tensor, options: CallOptions) -> None:
    """Check the shape and the type of a relative positional bias."""
    expected = (query.shape[-2], *(2 * size - 1 for size in options.kernel_size))
    if tuple(bias.shape) != tuple(expected):
        raise ValueError(f"bias must have shape {tuple(expected)}, got {tuple(bias.shape)}")
    if bias.dtype != query.dtype:
        raise TypeError(f"bias must be {query.dtype} like query, got {bias.dtype}")


def hide_empty(scores: Tensor, options: CallOptions) -> Tensor:
    """Scores with -inf in the slots where a causal window has no key."""
    if not any(options.is_causal):
        return scores
    spatial = tuple(scores.shape[1:-2])
    _, used = _slots(spatial, *options.window().values())
    empty = torch.from_numpy(~used).to(scores.device)
    return scores.masked_fill(empty.unsqueeze(-2), -math.inf)


def spread_bias(bias: Tensor, shape: tuple[int, ...], options: CallOptions) -> Tensor:
    """The bias of every slot, ``[*spatial, heads, prod(kernel_size)]``."""
    spatial = tuple(shape[1:-2])
    index = torch.from_numpy(_slots(spatial, *options.window().values())[0]).to(bias.device)
    return bias.flatten(1)[:, index].movedim(0, -2)


def gather_bias(dscores: Tensor, bias_shape: tuple[int, ...], options: CallOptions) -> Tensor:
    """The transpose of :func:`spread_bias`, summed over the batch."""
    spatial = tuple(dscores.shape[1:-2])
    index = torch.from_numpy(_slots(spatial, *options.window().values())[0]).to(dscores.device)
    of_heads = dscores.sum(0).movedim(-2, 0).flatten(1)
    empty = of_heads.new_zeros((bias_shape[0], math.prod(bias_shape[1:])))
    return empty.index_add(1, index.flatten(), of_heads).reshape(bias_shape)


@lru_cache(maxsize=32)
def _slots(
    spatial: tuple[int, ...],
    kernel_size: tuple[int, ...],
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
    is_causal: tuple[bool, ...],
) -> tuple[np.ndarray, np.ndarray]:
    """Of every slot, ``[*spatial, prod(kernel_size)]``: its entry of the bias, and if it is used.

    Slots without a key get entry zero.
    """
    entry = np.zeros((1, 1), np.int64)
    used = np.ones((1, 1), bool)
    fields = zip(spatial, kernel_size, stride, dilation, is_causal, strict=True)
    for axis in (Axis(*of_axis) for of_axis in fields):
        begins, ends = axis.windows()
        slots = np.arange(axis.kernel_size)
        keys = np.asarray(begins)[:, None] + slots
        own = np.arange(axis.length)[:, None] // axis.dilation
        here = keys < np.asarray(ends)[:, None]
        offset = np.where(here, keys - own + axis.kernel_size - 1, 0)
        rows, columns = len(entry) * axis.length, entry.shape[1] * axis.kernel_size
        entry = entry[:, None, :, None] * (2 * axis.kernel_size - 1) + offset[None, :, None]
        used = used[:, None, :, None] & here[None, :, None]
        entry, used = entry.reshape(rows, columns), used.reshape(rows, columns)
    return (entry * used).reshape(*spatial, -1), used.reshape(*spatial, -1)
