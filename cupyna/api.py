"""The public functions. Arrays are ``[batch, *spatial, heads, head_dim]`` in all of them.

Arrays may be of NumPy, CuPy, torch or any library with DLPack; results are of the same kind, on
the same device, computed on the caller's current stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from . import operations
from .explanation import Explanation

__all__ = [
    "explain",
    "na_av",
    "na_av_backward",
    "na_qk",
    "na_qk_backward",
    "neighborhood_attention",
    "neighborhood_attention_backward",
]

Ints = int | Sequence[int]
Bools = bool | Sequence[bool]


def neighborhood_attention(
    q: Any,
    k: Any,
    v: Any,
    kernel_size: Ints,
    *,
    stride: Ints = 1,
    dilation: Ints = 1,
    is_causal: Bools = False,
    scale: float | None = None,
    bias: Any = None,
    method: str = "auto",
    allow_tf32: bool = False,
    deterministic: bool = False,
    tune: bool = False,
    return_lse: bool = False,
    out: Any = None,
) -> Any:
    """Attention of every token to the window of tokens around it.

    ``out = softmax(scale * q k^T + bias) v``, over the ``kernel_size`` box of keys around each
    query on a grid of one, two or three axes.

    Parameters
    ----------
    q : array, shape [batch, *spatial, heads, head_dim]
        Queries: float16, bfloat16, float32 or float64.
    k : array, shape [batch, *spatial, kv_heads, head_dim]
        Keys; `heads` is a multiple of `kv_heads`.
    v : array, shape [batch, *spatial, kv_heads, value_dim]
        Values.
    kernel_size : int or sequence of int
        Keys in a window, along every axis or along each.
    stride : int or sequence of int, optional
        Neighboring queries that share one window; ``stride = kernel_size`` is blocked attention.
    dilation : int or sequence of int, optional
        Distance between neighbors in tokens; ``kernel_size * dilation`` is at most the axis
        length.
    is_causal : bool or sequence of bool, optional
        Whether a query sees no key after itself along the axis.
    scale : float, optional
        Factor of the scores; ``head_dim ** -0.5`` by default.
    bias : array, shape [heads, 2 * kernel_size[0] - 1, ...], optional
        Added to the scores by relative position: entry ``key - query + kernel_size - 1`` of each
        axis, in units of the dilation.
    method : {"auto", "naive", "gemm", "fused"}, optional
        How to compute it; :func:`explain` tells what ``"auto"`` would do.
    allow_tf32 : bool, optional
        Let tensor cores round float32 inputs to TF32.
    deterministic : bool, optional
        Ask for the same bits in every run.
    tune : bool, optional
        Measure the candidates once on this machine and remember the fastest, where a method has
        any: fused on CUDA.
    return_lse : bool, optional
        Also return the log-sum-exp of the scores.
    out : array, shape [batch, *spatial, heads, value_dim], optional
        Where to store the result; it may not share memory with an input.

    Returns
    -------
    out : array, shape [batch, *spatial, heads, value_dim]
        Of the inputs' kind and dtype.
    lse : array, shape [batch, *spatial, heads]
        Natural logarithm, float32 (float64 for float64 inputs); only with `return_lse`.

    Raises
    ------
    TypeError
        If an argument is no array, or of another library or dtype than the others.
    ValueError
        If shapes, devices or options do not fit, or no backend of `method` supports them.

    See Also
    --------
    neighborhood_attention_backward : Its gradients.
    na_qk, na_av : Its two products, with the attention weights in between.

    Notes
    -----
    Along each axis, dilation splits tokens into groups ``i % dilation``, in which token ``i`` has
    position ``p = i // dilation``. With ``n`` the length of the group and ``w`` the kernel size,
    a window that is not causal begins at ``clip(leader - w // 2, 0, n - w)`` for
    ``leader = min(p // stride * stride + stride // 2, n - 1)``: it is shifted inward at a border
    and always holds ``w`` keys. A causal one ends at ``p`` and begins at
    ``max(leader - w + 1, 0)`` for ``leader = min(p // stride * stride + stride - 1, n - 1)``: it
    shrinks where the axis begins. The windows are those of [1]_ and [2]_.

    A NaN or infinity in `k` or `v` may reach every query of a tile whose key box holds it.

    References
    ----------
    .. [1] A. Hassani, W.-M. Hwu, H. Shi, "Faster Neighborhood Attention: Reducing the O(n^2) Cost
       of Self Attention at the Threadblock Level", NeurIPS 2024.
    .. [2] A. Hassani et al., "Generalized Neighborhood Attention: Multi-dimensional Sparse
       Attention at the Speed of Light", 2025.

    Examples
    --------
    >>> import numpy as np
    >>> from cupyna import neighborhood_attention
    >>> q = k = v = np.ones((1, 8, 8, 2, 4), np.float32)  # an 8x8 grid, 2 heads of 4 channels
    >>> out, lse = neighborhood_attention(q, k, v, 3, return_lse=True)
    >>> out.shape, lse.shape
    ((1, 8, 8, 2, 4), (1, 8, 8, 2))
    """
    return operations.neighborhood_attention(
        q, k, v, kernel_size,
        stride=stride, dilation=dilation, is_causal=is_causal, scale=scale, bias=bias,
        method=method, allow_tf32=allow_tf32, deterministic=deterministic, tune=tune,
        return_lse=return_lse, out=out,
    )  # fmt: skip


def neighborhood_attention_backward(
    dout: Any,
    q: Any,
    k: Any,
    v: Any,
    out: Any,
    lse: Any,
    kernel_size: Ints,
    *,
    dlse: Any = None,
    stride: Ints = 1,
    dilation: Ints = 1,
    is_causal: Bools = False,
    scale: float | None = None,
    bias: Any = None,
    method: str = "auto",
    allow_tf32: bool = False,
    deterministic: bool = False,
    tune: bool = False,
) -> tuple[Any, ...]:
    """Gradients of :func:`neighborhood_attention`.

    Parameters
    ----------
    dout : array, shape [batch, *spatial, heads, value_dim]
        Gradient of the output.
    q, k, v : array
        As in the forward call.
    out : array, shape [batch, *spatial, heads, value_dim]
        The forward call's output.
    lse : array, shape [batch, *spatial, heads]
        The forward call's log-sum-exp.
    kernel_size : int or sequence of int
        As in the forward call.
    dlse : array, shape [batch, *spatial, heads], optional
        Gradient of the log-sum-exp, where it was used.
    stride, dilation, is_causal, scale, bias, method, allow_tf32, deterministic, tune
        As in :func:`neighborhood_attention`.

    Returns
    -------
    dq, dk, dv : array
        Of the shapes of `q`, `k` and `v`.
    dbias : array
        Of the shape of `bias`; only where a bias is given.

    Raises
    ------
    TypeError, ValueError
        As :func:`neighborhood_attention`.

    Notes
    -----
    With weights ``P = exp(scores - lse)``: ``dV = P^T dO``,
    ``dS = P * (dO V^T - rowsum(dO * O) + dlse)``, ``dQ = scale * dS K``, ``dK = scale * dS^T Q``,
    and `dbias` sums `dS` by relative position. The transposes run over the inverse neighborhood:
    the queries that see a key, which are not the keys that its own query sees.

    Examples
    --------
    >>> import numpy as np
    >>> from cupyna import neighborhood_attention, neighborhood_attention_backward
    >>> q = k = v = np.ones((1, 8, 2, 4), np.float32)
    >>> out, lse = neighborhood_attention(q, k, v, 3, return_lse=True)
    >>> dq, dk, dv = neighborhood_attention_backward(np.ones_like(out), q, k, v, out, lse, 3)
    >>> float(dv.sum()) == out.size
    True
    """
    gradients: tuple[Any, ...] = operations.neighborhood_attention_backward(
        dout, q, k, v, out, lse, kernel_size,
        dlse=dlse, stride=stride, dilation=dilation, is_causal=is_causal, scale=scale, bias=bias,
        method=method, allow_tf32=allow_tf32, deterministic=deterministic, tune=tune,
    )  # fmt: skip
    return gradients


def na_qk(
    q: Any,
    k: Any,
    kernel_size: Ints,
    *,
    stride: Ints = 1,
    dilation: Ints = 1,
    is_causal: Bools = False,
    scale: float | None = None,
    bias: Any = None,
) -> Any:
    """Attention scores of every query with the keys of its window, before the softmax.

    Parameters
    ----------
    q, k, kernel_size, stride, dilation, is_causal, scale, bias
        As in :func:`neighborhood_attention`.

    Returns
    -------
    scores : array, shape [batch, *spatial, heads, prod(kernel_size)]
        ``scale * q k^T + bias``, in q's dtype. Along each axis slot ``j`` is the key ``j`` places
        after the window's first; -inf where a causal window has no key.

    Raises
    ------
    TypeError, ValueError
        As :func:`neighborhood_attention`.

    Examples
    --------
    >>> import numpy as np
    >>> from cupyna import na_qk
    >>> q = k = np.ones((1, 4, 1, 1))
    >>> na_qk(q, k, 2, is_causal=True)[0, :, 0]
    array([[  1., -inf],
           [  1.,   1.],
           [  1.,   1.],
           [  1.,   1.]])
    """
    return operations.na_qk(
        q, k, kernel_size,
        stride=stride, dilation=dilation, is_causal=is_causal, scale=scale, bias=bias,
    )  # fmt: skip


def na_qk_backward(
    dscores: Any,
    q: Any,
    k: Any,
    kernel_size: Ints,
    *,
    stride: Ints = 1,
    dilation: Ints = 1,
    is_causal: Bools = False,
    scale: float | None = None,
    bias: Any = None,
) -> tuple[Any, ...]:
    """Gradients of :func:`na_qk`.

    Parameters
    ----------
    dscores : array, shape [batch, *spatial, heads, prod(kernel_size)]
        Gradient of the scores; what stands in slots without a key is ignored.
    q, k, kernel_size, stride, dilation, is_causal, scale, bias
        As in the forward call.

    Returns
    -------
    dq, dk : array
        Of the shapes of `q` and `k`.
    dbias : array
        Of the shape of `bias`; only where a bias is given.

    Raises
    ------
    TypeError, ValueError
        As :func:`neighborhood_attention`.
    """
    gradients: tuple[Any, ...] = operations.na_qk_backward(
        dscores, q, k, kernel_size,
        stride=stride, dilation=dilation, is_causal=is_causal, scale=scale, bias=bias,
    )  # fmt: skip
    return gradients


def na_av(
    weights: Any,
    v: Any,
    kernel_size: Ints,
    *,
    stride: Ints = 1,
    dilation: Ints = 1,
    is_causal: Bools = False,
) -> Any:
    """Values of every window, summed under its weights.

    Parameters
    ----------
    weights : array, shape [batch, *spatial, heads, prod(kernel_size)]
        Probabilities, usually the softmax of :func:`na_qk` along the last axis; what stands in
        slots without a key is ignored.
    v : array, shape [batch, *spatial, kv_heads, value_dim]
        Values.
    kernel_size, stride, dilation, is_causal
        As in :func:`neighborhood_attention`.

    Returns
    -------
    out : array, shape [batch, *spatial, heads, value_dim]

    Raises
    ------
    TypeError, ValueError
        As :func:`neighborhood_attention`.

    Examples
    --------
    >>> import numpy as np
    >>> from cupyna import na_av
    >>> v = np.arange(4.0).reshape(1, 4, 1, 1)
    >>> na_av(np.full((1, 4, 1, 3), 1 / 3), v, 3).ravel()
    array([1., 1., 2., 2.])
    """
    return operations.na_av(
        weights, v, kernel_size, stride=stride, dilation=dilation, is_causal=is_causal
    )


def na_av_backward(
    dout: Any,
    weights: Any,
    v: Any,
    kernel_size: Ints,
    *,
    stride: Ints = 1,
    dilation: Ints = 1,
    is_causal: Bools = False,
) -> tuple[Any, Any]:
    """Gradients of :func:`na_av`.

    Parameters
    ----------
    dout : array, shape [batch, *spatial, heads, value_dim]
        Gradient of the output.
    weights, v, kernel_size, stride, dilation, is_causal
        As in the forward call.

    Returns
    -------
    dweights : array
        Of the shape of `weights`; zero in slots without a key.
    dv : array
        Of the shape of `v`.

    Raises
    ------
    TypeError, ValueError
        As :func:`neighborhood_attention`.
    """
    dweights, dv = operations.na_av_backward(
        dout, weights, v, kernel_size, stride=stride, dilation=dilation, is_causal=is_causal
    )
    return dweights, dv


def explain(
    q: Any,
    k: Any,
    v: Any,
    kernel_size: Ints,
    *,
    stride: Ints = 1,
    dilation: Ints = 1,
    is_causal: Bools = False,
    scale: float | None = None,
    bias: Any = None,
    method: str = "auto",
    allow_tf32: bool = False,
    deterministic: bool = False,
    tune: bool = False,
    return_lse: bool = False,
    out: Any = None,
) -> Explanation:
    """What :func:`neighborhood_attention` would run for the same arguments, and why nothing else.

    Parameters
    ----------
    q, k, v, kernel_size, stride, dilation, is_causal, scale, bias
        As in :func:`neighborhood_attention`.
    method, allow_tf32, deterministic, tune, return_lse, out
        Likewise; nothing is computed and nothing written.

    Returns
    -------
    Explanation
        Every backend's answer for forward and backward: its tiles, workspace and expected time,
        or its reasons to refuse. ``print(explain(...))`` shows it as text.

    Raises
    ------
    TypeError, ValueError
        As :func:`neighborhood_attention`, but not where no backend supports the call.

    Examples
    --------
    >>> import numpy as np
    >>> from cupyna import explain
    >>> q = np.ones((1, 64, 64, 4, 32), np.float32)
    >>> explain(q, q, q, 7).selected.method
    'fused'
    """
    return operations.explain(
        q, k, v, kernel_size,
        stride=stride, dilation=dilation, is_causal=is_causal, scale=scale, bias=bias,
        method=method, allow_tf32=allow_tf32, deterministic=deterministic, tune=tune,
        return_lse=return_lse, out=out,
    )  # fmt: skip
