"""Attention to keys beside the windows: in one pass where a kernel can, else in two and merged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from . import direct, merging
from .options import CallOptions

__all__ = ["attend", "merged"]

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


def merged(attend: Any, tensors: Sequence[Any], *rest: Any) -> tuple[Tensor, Tensor]:
    """The same of ``attend(q, k, v, bias, options, ...)`` and of the others apart."""
    q, k, v, bias, more_k, more_v = tensors
    nearby = attend(q, k, v, bias, *rest)
    return merging.merge((nearby, merging.attend_all(q, more_k, more_v, rest[0].scale)))
