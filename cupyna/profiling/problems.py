"""The problems that `cupyna bench` knows, one row each, and the suites they belong to.

The paper does not list the sizes it measured; the sweep is our own, fixed before any kernel was
tuned: every window at several grid sizes, with three head sizes, undilated and dilated as far as
the grid allows. Heads and batch follow from a budget of tokens and channels, so that every problem
of the sweep has inputs of the same size.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from functools import cache

from .random_problems import random_rows
from .row import Row

__all__ = ["SUITES", "Row", "find", "rows"]

# Tokens of all batch entries, and channels of all heads, in the sweep.
_TOKENS = 32768
_CHANNELS = 512

_SWEEP = {
    "paper-1d": (((1024,), (4096,), (16384,)), (7, 31, 127, 511)),
    "paper-2d": (((32, 32), (64, 64), (128, 128)), (3, 7, 13, 31, 63)),
    "paper-3d": (((16, 16, 16), (32, 32, 32)), (3, 5, 7, 11)),
}
_HEAD_DIMS = (32, 64, 128)


def _cases() -> Iterator[Row]:
    video = (30, 48, 80)
    for name, batch, heads, head_dim, spatial, kernel_size, stride, dilation in (
        ("A", 1, 24, 128, (32768,), (2048,), 1, 1),
        ("B", 1, 24, 128, (256, 256), (80, 80), 1, 1),
        ("B strided", 1, 24, 128, (256, 256), (80, 80), (16, 16), 1),
        ("C", 1, 24, 128, video, (18, 24, 24), 1, 1),
        ("C strided", 1, 24, 128, video, (18, 24, 24), (16, 8, 8), 1),
        ("D", 64, 4, 32, (56, 56), (7, 7), 1, 1),
        ("E", 16, 16, 64, (64, 64), (13, 13), 1, 1),
        ("F1", 8, 8, 64, (4096,), (63,), 1, 1),
        ("F2", 4, 16, 64, (16384,), (127,), 1, 1),
        ("F3", 1, 24, 128, (32768,), (511,), 1, 1),
        ("G1", 2, 8, 32, (32, 32, 32), (5, 5, 5), 1, 1),
        ("H", 32, 4, 32, (112, 112), (7, 7), 1, 8),
    ):
        yield Row(
            "cases", name, batch, heads, head_dim, spatial, kernel_size,
            stride=stride if isinstance(stride, tuple) else (), dilation=(dilation,) * len(spatial),
        )  # fmt: skip


def _dense() -> Iterator[Row]:
    for head_dim, exponent in itertools.product((64, 128, 256), range(12, 16)):
        tokens = 1 << exponent
        name = f"{tokens} tokens, head_dim {head_dim}"
        yield Row("dense", name, 1, 16, head_dim, (tokens,), (tokens,))


def _sweep(suite: str) -> Iterator[Row]:
    grids, sizes = _SWEEP[suite]
    for spatial, size, head_dim in itertools.product(grids, sizes, _HEAD_DIMS):
        length = min(spatial)
        # No dilation fits a window longer than its axis; the set also drops a second dilation of 1.
        for dilation in sorted({1, length // size} if size <= length else ()):
            grid = "x".join(map(str, spatial))
            gap = f", dilation {dilation}" if dilation > 1 else ""
            yield Row(
                suite,
                f"{grid}, window {size}, head_dim {head_dim}{gap}",
                max(1, _TOKENS // math.prod(spatial)),
                _CHANNELS // head_dim,
                head_dim,
                spatial,
                (size,) * len(spatial),
                dilation=(dilation,) * len(spatial),
            )


def _line(name: str, tokens: int, window: int, head_dim: int = 64) -> Row:
    """A sequence under a sliding window, 8 heads."""
    return Row("scaling", name, 1, 8, head_dim, (tokens,), (window,))


def _scaling() -> Iterator[Row]:
    """One of tokens, window and head_dim grows, and all else stays."""
    for exponent in range(10, 25):
        yield _line(f"tokens {1 << exponent}", 1 << exponent, 127)
    for exponent in range(5, 11):
        side = 1 << exponent
        yield Row("scaling", f"image {side}x{side}", 1, 8, 64, (side, side), (13, 13))
    for window in (3, 7, 15, 31, 63, 127, 255, 511, 1023, 2047, 4095, 8191, 16383):
        yield _line(f"window {window}", 16384, window)
    for head_dim in (8, 16, 32, 64, 96, 128, 192, 256):
        yield _line(f"head_dim {head_dim}", 16384, 127, head_dim)


def _longest() -> Iterator[Row]:
    """A sequence that doubles until nothing fits."""
    for exponent in range(16, 26):
        yield Row("longest", f"context {1 << exponent}", 1, 8, 64, (1 << exponent,), (2047,))


def _patterns() -> Iterator[Row]:
    """One window, and what stride, dilation and causality make of it."""
    for name, stride, dilation, is_causal, sinks in (
        ("sliding", 1, 1, False, 0),
        ("strided", 128, 1, False, 0),
        ("blocked", 1024, 1, False, 0),
        ("dilated", 1, 8, False, 0),
        ("causal", 1, 1, True, 0),
        ("causal with 4 sinks", 1, 1, True, 4),
    ):
        yield Row(
            "patterns", f"sequence, {name}", 1, 16, 64, (16384,), (1024,),
            (stride,), (dilation,), (is_causal,), sinks,
        )  # fmt: skip
    for name, stride, dilation, is_causal in (
        ("sliding", 1, 1, False),
        ("strided", 4, 1, False),
        ("blocked", 16, 1, False),
        ("dilated", 1, 8, False),
        ("causal in one axis", 1, 1, True),
    ):
        yield Row(
            "patterns", f"image, {name}", 1, 16, 64, (128, 128), (16, 16),
            (stride,) * 2, (dilation,) * 2, (is_causal, False),
        )  # fmt: skip


SUITES = {
    "cases": "twelve problems of all kinds, from long sequences and video to image models",
    "dense": "windows as large as the grid: self-attention",
    "paper-1d": "the sweep of windows, grids, head sizes and dilations in one dimension",
    "paper-2d": "the same in two dimensions",
    "paper-3d": "the same in three dimensions",
    "scaling": "tokens, window and head_dim, each growing alone",
    "longest": "a sequence that doubles until it does not fit in memory",
    "patterns": "blocked, strided, dilated and causal windows beside sliding ones",
    "kernels": "the three sweeps, to hold methods to each of their kernels",
    "random": "150 problems of any size and option, which nothing was tuned for",
}


@cache
def rows(suite: str) -> tuple[Row, ...]:
    """The problems of a suite.

    Raises
    ------
    ValueError
        If there is no such suite.
    """
    if suite not in SUITES:
        raise ValueError(f"suite must be one of {', '.join(SUITES)}, got {suite!r}")
    if suite in _SWEEP:
        return tuple(_sweep(suite))
    if suite == "kernels":
        return tuple(replace(row, suite=suite) for swept in _SWEEP for row in rows(swept))
    others = {
        "cases": _cases, "dense": _dense, "scaling": _scaling, "longest": _longest,
        "patterns": _patterns, "random": random_rows,
    }  # fmt: skip
    return tuple(others[suite]())


def find(name: str) -> Row:
    """The problem of a name, whatever its suite.

    Raises
    ------
    ValueError
        If there is no such problem.
    """
    for suite in SUITES:
        for row in rows(suite):
            if row.name == name:
                return row
    raise ValueError(f"no problem is called {name!r}; `cupyna bench --list` names them all")
