"""The arrays of a call to a backend, by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Self, TypeVar

__all__ = ["BackwardArrays", "BackwardBesideArrays", "ForwardArrays", "ForwardBesideArrays"]

Array = TypeVar("Array")  # of NumPy, or what stands for an array on a GPU


class _Named:
    """Arrays as fields; those that a call does not have are None."""

    __slots__ = ()
    __match_args__: ClassVar[tuple[str, ...]]  # names of fields, as dataclasses leave them

    @classmethod
    def of(cls, views: Mapping[str, Any]) -> Self:
        """Those of a call among named arrays."""
        return cls(*map(views.get, cls.__match_args__))


@dataclass(frozen=True, slots=True)
class ForwardArrays(_Named, Generic[Array]):
    """What forward reads, and the output and log-sum-exp that it writes.

    Parameters
    ----------
    q, k, v : array
        ``[batch, *spatial, heads, channels]``; `k` and `v` have ``kv_heads``.
    bias : array or None
        ``[heads, *distances]``
    out : array
        ``[batch, *spatial, heads, value_dim]``
    lse : array or None
        ``[batch, *spatial, heads]``, of the accumulator's type.
    """

    q: Array
    k: Array
    v: Array
    bias: Array | None
    out: Array
    lse: Array | None


@dataclass(frozen=True, slots=True)
class BackwardArrays(_Named, Generic[Array]):
    """What backward reads, and the gradients that it writes.

    Parameters
    ----------
    q, k, v, bias, out, lse : array
        As forward had and gave them.
    dout : array
        Gradient for the output.
    dlse : array or None
        Gradient for the log-sum-exp.
    dq, dk, dv : array
    dbias : array or None
        None where there is no bias.
    """

    q: Array
    k: Array
    v: Array
    bias: Array | None
    out: Array
    lse: Array
    dout: Array
    dlse: Array | None
    dq: Array
    dk: Array
    dv: Array
    dbias: Array | None


@dataclass(frozen=True, slots=True)
class ForwardBesideArrays(ForwardArrays[Array]):
    """Forward where every query sees more keys than those of its window.

    Parameters
    ----------
    q, k, v, bias, out, lse : array
        As of :class:`ForwardArrays`.
    more_k, more_v : array
        ``[batch, tokens, kv_heads, channels]``
    """

    more_k: Array
    more_v: Array


@dataclass(frozen=True, slots=True)
class BackwardBesideArrays(_Named, Generic[Array]):
    """What keys beside the windows add to backward of the windows.

    Parameters
    ----------
    q : array
    more_k, more_v : array
        ``[batch, tokens, kv_heads, channels]``
    out, lse : array
        Of all keys.
    dout : array
    dlse : array or None
    window_dq : array
        What the windows give to the gradient for `q`.
    dq : array
        That and more, written.
    key_sums, value_sums : array
        Written: ``[slices, batch, tokens, kv_heads, channels]`` of the accumulator's type, whose
        sums over slices are the gradients for `more_k` and `more_v`.
    """

    q: Array
    more_k: Array
    more_v: Array
    out: Array
    lse: Array
    dout: Array
    dlse: Array | None
    window_dq: Array
    dq: Array
    key_sums: Array
    value_sums: Array
