"""The options of a call as operators take them: plain numbers, one entry for each axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from ..arguments import Options

__all__ = ["CallOptions"]


class CallOptions(NamedTuple):
    """Everything about a call but its tensors, in the order of the operators' arguments.

    It can be a key of a dictionary, and an argument of an operator.
    """

    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    is_causal: tuple[bool, ...]
    scale: float | None = None
    method: str = "auto"
    allow_tf32: bool = False
    deterministic: bool = False
    tune: bool = False

    @classmethod
    def of(
        cls,
        rank: int,
        kernel_size: Any,
        stride: Any = 1,
        dilation: Any = 1,
        is_causal: Any = False,
        scale: Any = None,
        method: Any = "auto",
        allow_tf32: Any = False,
        deterministic: Any = False,
        tune: Any = False,
    ) -> CallOptions:
        """Spread what a user gave over the axes.

        torch's own switch ``torch.use_deterministic_algorithms`` asks for determinism too.
        """
        return cls(
            _per_axis(kernel_size, rank),
            _per_axis(stride, rank),
            _per_axis(dilation, rank),
            _per_axis(is_causal, rank),
            scale,
            method,
            allow_tf32,
            deterministic or torch.are_deterministic_algorithms_enabled(),
            tune,
        )

    @classmethod
    def from_operator(cls, fields: Sequence[Any]) -> CallOptions:
        """From the arguments of an operator, whose sequences are lists."""
        return cls._make(tuple(field) if isinstance(field, list) else field for field in fields)

    def window(self) -> dict[str, tuple[Any, ...]]:
        """The fields that say which keys a query sees."""
        return {
            "kernel_size": self.kernel_size,
            "stride": self.stride,
            "dilation": self.dilation,
            "is_causal": self.is_causal,
        }

    def parsed(self) -> Options:
        """As the argument checks take them."""
        return Options(*self)


def _per_axis(value: Any, rank: int) -> tuple[Any, ...]:
    if type(value) is tuple:
        return value
    return tuple(value) if isinstance(value, list) else (value,) * rank
