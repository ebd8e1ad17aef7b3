"""Hypothesis strategies over the whole option space, for these tests and for users' own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from ..arrays.host import host_dtype
from ..geometry import Axis
from ..problem import Problem

__all__ = ["Inputs", "axes", "inputs", "problems"]

DTYPES = ("float16", "bfloat16", "float32", "float64")


@st.composite
def axes(draw: st.DrawFn, max_length: int = 24) -> Axis:
    """One axis with a valid window."""
    length = draw(st.integers(1, max_length))
    kernel_size = draw(st.integers(1, length))
    return Axis(
        length=length,
        kernel_size=kernel_size,
        stride=draw(st.integers(1, kernel_size)),
        dilation=draw(st.integers(1, length // kernel_size)),
        is_causal=draw(st.booleans()),
    )


@st.composite
def problems(
    draw: st.DrawFn,
    ranks: tuple[int, ...] = (1, 2, 3),
    dtypes: tuple[str, ...] = DTYPES,
    max_tokens: int = 256,
    max_head_dim: int = 20,
) -> Problem:
    """A problem of any rank, option and dtype, small enough for the oracle."""
    rank = draw(st.sampled_from(ranks))
    max_length = max(2, round(max_tokens ** (1 / rank)))
    grid = [draw(axes(max_length)) for _ in range(rank)]
    kv_heads = draw(st.integers(1, 2))
    head_dim = draw(st.integers(1, max_head_dim))
    return Problem(
        batch=draw(st.integers(1, 2)),
        spatial=tuple(axis.length for axis in grid),
        heads=kv_heads * draw(st.integers(1, 3)),
        kv_heads=kv_heads,
        head_dim=head_dim,
        value_dim=draw(st.one_of(st.just(head_dim), st.integers(1, max_head_dim))),
        dtype=draw(st.sampled_from(dtypes)),
        kernel_size=tuple(axis.kernel_size for axis in grid),
        stride=tuple(axis.stride for axis in grid),
        dilation=tuple(axis.dilation for axis in grid),
        is_causal=tuple(axis.is_causal for axis in grid),
        has_bias=draw(st.booleans()),
    )


@dataclass(frozen=True, slots=True)
class Inputs:
    """Arrays of one problem, in its dtype; `dlse` and `scale` as the operations take them."""

    q: np.ndarray
    k: np.ndarray
    v: np.ndarray
    bias: np.ndarray | None
    dout: np.ndarray
    dlse: np.ndarray
    scale: float


def inputs(problem: Problem, seed: int = 0) -> Inputs:
    """Reproducible random arrays for a problem; their mean is not zero, so lost terms show."""
    generator = np.random.default_rng(seed)
    storage = host_dtype(problem.dtype)

    def draw(*shape: int) -> np.ndarray:
        # Exact in float32, so that an emulation in float32 starts from the same numbers.
        return (generator.standard_normal(shape, np.float32) + np.float32(0.5)).astype(storage)

    grid = (problem.batch, *problem.spatial)
    return Inputs(
        q=draw(*grid, problem.heads, problem.head_dim),
        k=draw(*grid, problem.kv_heads, problem.head_dim),
        v=draw(*grid, problem.kv_heads, problem.value_dim),
        bias=draw(*problem.bias_shape) if problem.has_bias else None,
        dout=draw(*grid, problem.heads, problem.value_dim),
        dlse=draw(*grid, problem.heads).astype(host_dtype(problem.accumulator)),
        scale=problem.head_dim**-0.5,
    )
