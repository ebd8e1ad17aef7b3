"""The oracle: neighborhood attention by its definition, one query at a time, in NumPy.

No tiles, no tricks, float64 throughout. Every fast path is compared with this file, and this file
with the definition. :class:`Precision` rounds the same maths where a kernel rounds it, which gives
the error that an honest kernel makes; the tolerance rule is built on that.

Arrays are ``[batch, *spatial, heads, channels]`` NumPy arrays. `problem` says everything else.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from .arrays.host import host_dtype
from .problem import Problem

__all__ = [
    "EXACT",
    "Precision",
    "av",
    "av_backward",
    "backward",
    "forward",
    "qk",
    "qk_backward",
    "softmax_backward",
]

Index = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Precision:
    """Where numbers are rounded.

    Parameters
    ----------
    accumulator : str
        Type of every sum, exponential and intermediate.
    weights : str
        Type in which weights, and gradients of scores, enter the second product.
    operands : str
        Type in which all else enters products: "tf32", or one that holds the inputs.
    """

    accumulator: str = "float64"
    weights: str = "float64"
    operands: str = "float64"

    def wide(self, array: np.ndarray) -> np.ndarray:
        """The array in the accumulator's type."""
        return array.astype(host_dtype(self.accumulator))

    def operand(self, array: np.ndarray) -> np.ndarray:
        """Queries, keys, values or gradients as products read them."""
        return self._rounded(self.wide(array), self.operands)

    def rounded(self, weights: np.ndarray) -> np.ndarray:
        """Weights as the second product reads them."""
        return self._rounded(weights, self.weights)

    def _rounded(self, array: np.ndarray, to: str) -> np.ndarray:
        if to != "tf32":
            return self.wide(array.astype(host_dtype(to)))
        # Ten bits of mantissa, ties away from zero.
        bits = array.astype(np.float32).view(np.uint32)
        return self.wide(((bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32))


EXACT = Precision()


@dataclass(frozen=True, slots=True)
class _Neighborhood:
    """One query of every batch entry and its window."""

    query: Index  # into [batch, *spatial, heads, ...]
    keys: Index  # into [batch, *spatial, kv_heads, ...]: gives [batch, *window, kv_heads, ...]
    slots: Index  # into [..., *kernel_size]: the slots that hold a key
    bias: Index  # into [heads, *(2 * kernel_size - 1)]


def _neighborhoods(problem: Problem) -> Iterator[_Neighborhood]:
    axes = problem.axes
    windows = [axis.windows() for axis in axes]
    for token in np.ndindex(*problem.spatial):
        spans = [
            np.arange(begins[i], ends[i]) for i, (begins, ends) in zip(token, windows, strict=True)
        ]
        keys = [
            i % axis.dilation + span * axis.dilation
            for i, axis, span in zip(token, axes, spans, strict=True)
        ]
        bias = [
            span - i // axis.dilation + axis.kernel_size - 1
            for i, axis, span in zip(token, axes, spans, strict=True)
        ]
        everything = slice(None)
        yield _Neighborhood(
            query=(everything, *token),
            keys=(everything, *np.ix_(*keys)),
            slots=(..., *(slice(0, len(span)) for span in spans)),
            bias=(everything, *np.ix_(*bias)),
        )


def _by_head(problem: Problem, array: np.ndarray) -> np.ndarray:
    """Give each query head its key/value head: the heads axis is the last but one."""
    return np.repeat(array, problem.head_group, axis=-2)


def _to_kv_heads(problem: Problem, array: np.ndarray) -> np.ndarray:
    """Add up the query heads of each key/value head."""
    *lead, _, channels = array.shape
    grouped = array.reshape(*lead, problem.kv_heads, problem.head_group, channels)
    summed: np.ndarray = grouped.sum(-2)
    return summed


def _flat(array: np.ndarray, lead: int, trail: int = 0) -> np.ndarray:
    """Merge the window axes, those between the first `lead` and the last `trail`, into one."""
    shape = array.shape
    return array.reshape(*shape[:lead], -1, *shape[len(shape) - trail :])


def qk(
    problem: Problem,
    scale: float,
    q: np.ndarray,
    k: np.ndarray,
    bias: np.ndarray | None = None,
    precision: Precision = EXACT,
) -> np.ndarray:
    """Scaled scores ``[batch, *spatial, heads, prod(kernel_size)]``, -inf in empty slots."""
    q, k = precision.operand(q), _by_head(problem, precision.operand(k))
    scores = np.full((*q.shape[:-1], *problem.kernel_size), -np.inf, q.dtype)
    for near in _neighborhoods(problem):
        products = np.einsum("nhd,n...hd->nh...", q[near.query], k[near.keys]) * q.dtype.type(scale)
        if bias is not None:
            products = products + precision.wide(bias)[near.bias]
        scores[near.query][near.slots] = products
    return scores.reshape(*q.shape[:-1], problem.window)


def qk_backward(
    problem: Problem,
    scale: float,
    dscores: np.ndarray,
    q: np.ndarray,
    k: np.ndarray,
    precision: Precision = EXACT,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gradients of :func:`qk` for q, k and the bias."""
    q, k = precision.operand(q), _by_head(problem, precision.operand(k))
    unrounded = precision.wide(dscores).reshape(*dscores.shape[:-1], *problem.kernel_size)
    rounded = precision.rounded(unrounded)
    dq, dk, dbias = np.zeros_like(q), np.zeros_like(k), np.zeros(problem.bias_shape, q.dtype)
    for near in _neighborhoods(problem):
        slots = rounded[near.query][near.slots]
        dq[near.query] = (
            np.einsum("nhw,nwhd->nhd", _flat(slots, 2), _flat(k[near.keys], 1, 2)) * scale
        )
        dk[near.keys] += np.einsum("nh...,nhd->n...hd", slots, q[near.query]) * scale
        dbias[near.bias] += unrounded[near.query][near.slots].sum(0)
    return dq, _to_kv_heads(problem, dk), dbias


def av(
    problem: Problem, weights: np.ndarray, v: np.ndarray, precision: Precision = EXACT
) -> np.ndarray:
    """Values under the weights of each window, ``[batch, *spatial, heads, value_dim]``."""
    v = _by_head(problem, precision.operand(v))
    shaped = precision.rounded(weights).reshape(*weights.shape[:-1], *problem.kernel_size)
    out = np.empty((*weights.shape[:-1], problem.value_dim), v.dtype)
    for near in _neighborhoods(problem):
        slots = shaped[near.query][near.slots]
        out[near.query] = np.einsum("nhw,nwhd->nhd", _flat(slots, 2), _flat(v[near.keys], 1, 2))
    return out


def av_backward(
    problem: Problem,
    dout: np.ndarray,
    weights: np.ndarray,
    v: np.ndarray,
    precision: Precision = EXACT,
) -> tuple[np.ndarray, np.ndarray]:
    """Gradients of :func:`av` for the weights (zero in empty slots) and v."""
    dout, v = precision.operand(dout), _by_head(problem, precision.operand(v))
    shaped = precision.rounded(weights).reshape(*weights.shape[:-1], *problem.kernel_size)
    dweights, dv = np.zeros_like(shaped), np.zeros_like(v)
    for near in _neighborhoods(problem):
        dweights[near.query][near.slots] = np.einsum(
            "nhd,n...hd->nh...", dout[near.query], v[near.keys]
        )
        dv[near.keys] += np.einsum(
            "nh...,nhd->n...hd", shaped[near.query][near.slots], dout[near.query]
        )
    return dweights.reshape(weights.shape), _to_kv_heads(problem, dv)


def forward(
    problem: Problem,
    scale: float,
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    bias: np.ndarray | None = None,
    precision: Precision = EXACT,
) -> tuple[np.ndarray, np.ndarray]:
    """Output and log-sum-exp ``[batch, *spatial, heads]``."""
    scores = qk(problem, scale, q, k, bias, precision)
    largest = scores.max(-1, keepdims=True)
    exponentials = np.exp(scores - largest)
    sums = exponentials.sum(-1, keepdims=True)
    out = av(problem, exponentials, v, precision) / sums
    return out, (largest + np.log(sums))[..., 0]


def softmax_backward(
    weights: np.ndarray,
    dweights: np.ndarray,
    dout: np.ndarray,
    out: np.ndarray,
    dlse: np.ndarray | None,
) -> np.ndarray:
    """Gradient of the scores: ``P * (dP - rowsum(dO * O) + dlse)``."""
    delta = (dout * out).sum(-1, keepdims=True)
    if dlse is not None:
        delta = delta - dlse[..., None]
    dscores: np.ndarray = weights * (dweights - delta)
    return dscores


def backward(
    problem: Problem,
    scale: float,
    dout: np.ndarray,
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    bias: np.ndarray | None = None,
    dlse: np.ndarray | None = None,
    precision: Precision = EXACT,
    saved: tuple[np.ndarray, np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Gradients of :func:`forward` for q, k, v and the bias.

    `saved` is the output and log-sum-exp that a kernel is handed, rounded as they were stored;
    without it both are computed.
    """
    out, lse = forward(problem, scale, q, k, v, bias, precision) if saved is None else saved
    out, lse = precision.wide(out), precision.wide(lse)
    weights = np.exp(qk(problem, scale, q, k, bias, precision) - lse[..., None])
    dweights, dv = av_backward(problem, dout, weights, v, precision)
    wide_dlse = None if dlse is None else precision.wide(dlse)
    dscores = softmax_backward(weights, dweights, precision.wide(dout), out, wide_dlse)
    dq, dk, dbias = qk_backward(problem, scale, dscores, q, k, precision)
    return dq, dk, dv, dbias
