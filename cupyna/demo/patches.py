"""Patches of a grid as the queries and keys of neighborhood attention."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["padded", "patch_elements", "queries_and_keys"]


def patch_elements(patch_size: int, rank: int, channels: int) -> int:
    """Numbers in one patch."""
    return int(patch_size**rank * channels)


def padded(xp: Any, noisy: Any, patch_size: int) -> Any:
    """The grid, centered and mirrored at its borders so that every token has a patch.

    Distances between patches do not change when a constant is subtracted from all of them, and
    products of smaller numbers lose less to rounding.
    """
    rank = noisy.ndim - 1
    centered = noisy - noisy.mean(axis=tuple(range(rank)), dtype="float64").astype("float32")
    return xp.pad(centered, [(patch_size // 2,) * 2] * rank + [(0, 0)], mode="reflect")


def queries_and_keys(xp: Any, mirrored: Any, patch_size: int) -> tuple[Any, Any, Any]:
    """Queries ``[patch, 1]``, keys ``[patch, -|patch|^2 / 2]`` and ``|patch|^2`` of every token.

    The score ``q . k' = p . p' - |p'|^2 / 2`` is ``-|p - p'|^2 / 2`` up to a constant of the
    query, which the softmax cancels.

    Parameters
    ----------
    xp : module
        NumPy or CuPy, the library of `mirrored`.
    mirrored : array of float32, shape [*(spatial + patch_size - 1), channels]
    patch_size : int

    Returns
    -------
    q, k : array of float32, shape [*spatial, elements + 1]
    norms : array of float32, shape [*spatial]
    """
    *extended, channels = mirrored.shape
    spatial = [extent - patch_size + 1 for extent in extended]
    run = patch_size * channels
    # Along the last axis a patch is contiguous, so it is copied a run at a time.
    lines = mirrored.reshape(*extended[:-1], -1)
    runs = xp.lib.stride_tricks.sliding_window_view(lines, run, axis=-1)[..., ::channels, :]
    elements = patch_elements(patch_size, len(spatial), channels)
    q = xp.empty((*spatial, elements + 1), "float32")
    for i, offset in enumerate(np.ndindex(*[patch_size] * (len(spatial) - 1))):
        shifted = tuple(slice(o, o + n) for o, n in zip(offset, spatial, strict=False))
        q[..., i * run : (i + 1) * run] = runs[shifted]
    q[..., elements] = 0
    norms = xp.einsum("...i,...i->...", q, q)
    k = q.copy()
    k[..., elements] = norms / -2
    q[..., elements] = 1
    return q, k, norms
