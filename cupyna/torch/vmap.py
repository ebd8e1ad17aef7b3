"""Rules for `torch.vmap`: the mapped axis becomes part of the batch.

A bias of its own for each mapped entry, or a gradient of one, cannot be a part of it: there one
call follows the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from . import ops

__all__ = ["register"]

Tensor = Any
Axes = Sequence[int | None]
Rule = Callable[..., tuple[Any, Any]]

# Place of the bias among the arguments.
_BIAS = {
    "attention": 3, "attention_beside": 3, "attention_backward": 5, "attention_beside_backward": 5,
}  # fmt: skip


def _fold(tensor: Tensor | None, axis: int | None, size: int) -> Tensor | None:
    """``[mapped, batch, ...]`` as one batch; a tensor that is not mapped is repeated."""
    if tensor is None:
        return None
    whole = tensor.expand(size, *tensor.shape) if axis is None else tensor.movedim(axis, 0)
    return whole.flatten(0, 1)


def _unfold(tensor: Tensor, size: int) -> Tensor:
    return tensor.unflatten(0, (size, tensor.shape[0] // size))


def _product_rule(call: Callable[..., Any]) -> Rule:
    """The rule of a product: two tensors, both with a batch."""

    def rule(info: Any, axes: Axes, a: Tensor, b: Tensor, *rest: Any) -> tuple[Any, Any]:
        size = info.batch_size
        found = call(_fold(a, axes[0], size), _fold(b, axes[1], size), *rest)
        return _unfold(found, size), 0

    return rule


def _attention_rule(name: str, call: Callable[..., Any]) -> Rule:
    place = _BIAS[name]

    def rule(info: Any, axes: Axes, *arguments: Any) -> tuple[Any, Any]:
        size, bias = info.batch_size, arguments[place]
        of_bias = axes[place] is not None or (bias is not None and name.endswith("backward"))
        if of_bias:
            pairs = list(zip(arguments, axes, strict=True))
            each = [
                call(*(a.select(axis, i) if isinstance(axis, int) else a for a, axis in pairs))
                for i in range(size)
            ]
            stacked = tuple(torch.stack(parts) for parts in zip(*each, strict=True))
            return stacked, (0,) * len(stacked)
        folded = [
            _fold(a, axis, size) if (isinstance(a, torch.Tensor) and i != place) else a
            for i, (a, axis) in enumerate(zip(arguments, axes, strict=True))
        ]
        found = call(*folded)
        # The gradient of no bias is empty, and the same for all.
        return (
            tuple(_unfold(one, size) if one.ndim > 1 else one for one in found),
            tuple(0 if one.ndim > 1 else None for one in found),
        )

    return rule


def register() -> None:
    """Give every operator its rule."""
    for name in _BIAS:
        rule = _attention_rule(name, getattr(ops, name))
        torch.library.register_vmap(f"cupyna::{name}", rule, lib=ops.LIBRARY)
    for name in ("scores", "values", "values_transposed"):
        rule = _product_rule(getattr(ops, name))
        torch.library.register_vmap(f"cupyna::{name}", rule, lib=ops.LIBRARY)
