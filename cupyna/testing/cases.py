"""Small problems that between them reach every branch of the GPU kernels."""

from __future__ import annotations

from collections.abc import Iterator

from ..problem import Problem

__all__ = ["small_problems"]


def small_problems(dtypes: tuple[str, ...]) -> Iterator[tuple[str, Problem]]:
    """Named problems, each small enough for the oracle and for a checking tool."""
    for dtype in dtypes:
        yield f"1d-{dtype}", _line(19, 5, dtype)
        yield f"1d-long-{dtype}", _line(91, 67, dtype, stride=3, is_causal=True, has_bias=True)
        yield f"1d-longest-{dtype}", _line(300, 300, dtype, head_dim=4, has_bias=True)
        yield f"2d-{dtype}", _grid((9, 11), (3, 4), dtype, head_dim=32)
        yield (
            f"2d-options-{dtype}",
            _grid(
                (11, 13), (3, 5), dtype,
                stride=(2, 1), dilation=(3, 2), is_causal=(False, True),
                heads=6, kv_heads=2, value_dim=24, has_bias=True,
            ),
        )  # fmt: skip
        yield (
            f"2d-wide-stride-{dtype}",
            _grid((12, 10), (6, 7), dtype, stride=(6, 4), is_causal=(True, False), has_bias=True),
        )
        yield f"3d-{dtype}", _grid((5, 6, 7), (3, 3, 3), dtype, has_bias=True)
        yield (
            f"3d-options-{dtype}",
            _grid(
                (4, 5, 9), (2, 5, 3), dtype,
                stride=(1, 2, 3), dilation=(2, 1, 3), is_causal=(True, False, True),
                heads=2, kv_heads=1, head_dim=20,
            ),
        )  # fmt: skip
        for head_dim in (1, 3, 40, 96, 128, 264):
            yield f"head-dim-{head_dim}-{dtype}", _line(9, 4, dtype, head_dim=head_dim)
        yield f"one-token-{dtype}", _grid((1, 1), (1, 1), dtype)


def _line(
    length: int,
    kernel_size: int,
    dtype: str,
    stride: int = 1,
    is_causal: bool = False,
    head_dim: int = 16,
    has_bias: bool = False,
) -> Problem:
    return Problem(
        2, (length,), 2, 2, head_dim, head_dim, dtype,
        (kernel_size,), (stride,), (1,), (is_causal,), has_bias=has_bias,
    )  # fmt: skip


def _grid(
    spatial: tuple[int, ...],
    kernel_size: tuple[int, ...],
    dtype: str,
    stride: tuple[int, ...] | None = None,
    dilation: tuple[int, ...] | None = None,
    is_causal: tuple[bool, ...] | None = None,
    heads: int = 2,
    kv_heads: int = 2,
    head_dim: int = 16,
    value_dim: int | None = None,
    has_bias: bool = False,
) -> Problem:
    ones = (1,) * len(spatial)
    return Problem(
        1, spatial, heads, kv_heads, head_dim, head_dim if value_dim is None else value_dim, dtype,
        kernel_size,
        ones if stride is None else stride,
        ones if dilation is None else dilation,
        (False,) * len(spatial) if is_causal is None else is_causal,
        has_bias=has_bias,
    )  # fmt: skip
