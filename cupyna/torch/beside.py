"""Attention to keys beside the windows: by kernels of its own, or else apart and merged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from . import direct, merging
from .options import CallOptions

__all__ = ["attend", "attend_backward", "merged"]

Tensor = Any


def attend(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, more_k: Tensor, more_v: Tensor,
    options: CallOptions,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Output and log-sum-exp, without gradients."""
    found = direct.attend_beside(q, k, v, bias, more_k, more_v, options)
    if found is not None:
        return found
    return merged(direct.attend, (q, k, v, bias, more_k, more_v), options, True)


def attend_backward(
    dout: Tensor, dlse: Tensor | None, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None,
    more_k: Tensor, more_v: Tensor, out: Tensor, lse: Tensor, options: CallOptions,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Gradients for q, k, v, the bias (empty where there is none), `more_k` and `more_v`.

    Given the output and the log-sum-exp of all keys, backward of the windows is that of attention
    without others, by whichever kernels are the fastest; the others add to it.
    """
    dout, q, k, v, out = direct.readable((dout, q, k, v, out))
    dq, dk, dv, dbias = direct.attend_backward(dout, dlse, q, k, v, bias, out, lse, options)
    found = direct.attend_beside_backward(
        dout, dlse, q, k, v, bias, more_k, more_v, out, lse, dq, options
    )
    if found is None:
        added, *of_more = merging.attend_all_backward(
            dout, dlse, q, more_k, more_v, out, lse, options.scale
        )
        whole = (dq + added, *of_more)
        dq, dmore_k, dmore_v = (gradient.to(q.dtype).contiguous() for gradient in whole)
    else:
        dq, dmore_k, dmore_v = found
    return dq, dk, dv, dbias, dmore_k, dmore_v


def merged(attend: Any, tensors: Sequence[Any], *rest: Any) -> tuple[Tensor, Tensor]:
    """The same of ``attend(q, k, v, bias, options, ...)`` and of the others apart."""
    q, k, v, bias, more_k, more_v = tensors
    nearby = attend(q, k, v, bias, *rest)
    return merging.merge((nearby, merging.attend_all(q, more_k, more_v, rest[0].scale)))
