"""One function for each number of axes, with the names and the order of NATTEN's."""

from __future__ import annotations

from typing import Any

from .api import Bools, Ints, neighborhood_attention

__all__ = ["na1d", "na2d", "na3d"]


def na1d(
    query: Any,
    key: Any,
    value: Any,
    kernel_size: Ints,
    stride: Ints = 1,
    dilation: Ints = 1,
    is_causal: Bools = False,
    scale: float | None = None,
    **options: Any,
) -> Any:
    """Neighborhood attention along one axis, in NATTEN's order of arguments.

    Parameters
    ----------
    query, key, value : array, shape [batch, length, heads, head_dim]
        As in :func:`neighborhood_attention`.
    kernel_size, stride, dilation, is_causal, scale
        As in :func:`neighborhood_attention`.
    **options
        Its other keywords: `bias`, `method`, `allow_tf32`, `deterministic`, `tune`,
        `return_lse`, `out`.

    Returns
    -------
    out : array, shape [batch, length, heads, value_dim]
        With ``return_lse=True`` a pair of it and the log-sum-exp.

    Raises
    ------
    TypeError, ValueError
        As :func:`neighborhood_attention`.
    """
    _check_rank(query, 1)
    return neighborhood_attention(
        query, key, value, kernel_size,
        stride=stride, dilation=dilation, is_causal=is_causal, scale=scale, **options,
    )  # fmt: skip


def na2d(
    query: Any,
    key: Any,
    value: Any,
    kernel_size: Ints,
    stride: Ints = 1,
    dilation: Ints = 1,
    is_causal: Bools = False,
    scale: float | None = None,
    **options: Any,
) -> Any:
    """Neighborhood attention on a plane ``[batch, x, y, heads, head_dim]``; see :func:`na1d`."""
    _check_rank(query, 2)
    return neighborhood_attention(
        query, key, value, kernel_size,
        stride=stride, dilation=dilation, is_causal=is_causal, scale=scale, **options,
    )  # fmt: skip


def na3d(
    query: Any,
    key: Any,
    value: Any,
    kernel_size: Ints,
    stride: Ints = 1,
    dilation: Ints = 1,
    is_causal: Bools = False,
    scale: float | None = None,
    **options: Any,
) -> Any:
    """Neighborhood attention in a volume, ``[batch, x, y, z, heads, head_dim]``; see `na1d`."""
    _check_rank(query, 3)
    return neighborhood_attention(
        query, key, value, kernel_size,
        stride=stride, dilation=dilation, is_causal=is_causal, scale=scale, **options,
    )  # fmt: skip


def _check_rank(query: Any, rank: int) -> None:
    shape = getattr(query, "shape", None)
    if shape is not None and len(shape) != rank + 3:
        raise ValueError(
            f"query must be [batch, *spatial, heads, head_dim] with {rank} spatial "
            f"{'axis' if rank == 1 else 'axes'} for na{rank}d, got shape {tuple(shape)}"
        )
