"""One problem to measure."""

from __future__ import annotations

from dataclasses import dataclass

from ..problem import Problem

__all__ = ["Row"]


@dataclass(frozen=True, slots=True)
class Row:
    """One problem to measure, in whatever dtype.

    Parameters
    ----------
    suite, name : str
    batch, heads, head_dim : int
    spatial, kernel_size : tuple of int
    stride, dilation : tuple of int, optional
        1 along every axis by default.
    is_causal : tuple of bool, optional
    sinks : int, optional
        Tokens beside the grid that every query sees; they are no part of the problem.
    kv_heads : int, optional
        As many as there are heads by default.
    """

    suite: str
    name: str
    batch: int
    heads: int
    head_dim: int
    spatial: tuple[int, ...]
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    is_causal: tuple[bool, ...] = ()
    sinks: int = 0
    kv_heads: int | None = None

    def problem(self, dtype: str) -> Problem:
        """The row as a problem."""
        ones = (1,) * len(self.spatial)
        return Problem(
            batch=self.batch,
            spatial=self.spatial,
            heads=self.heads,
            kv_heads=self.heads if self.kv_heads is None else self.kv_heads,
            head_dim=self.head_dim,
            value_dim=self.head_dim,
            dtype=dtype,
            kernel_size=self.kernel_size,
            stride=self.stride or ones,
            dilation=self.dilation or ones,
            is_causal=self.is_causal or (False,) * len(ones),
        )
