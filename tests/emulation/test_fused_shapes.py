"""Shapes of the fused kernels against the oracle, whichever is picked.

All of forward, and in float32 both passes of backward.
"""

from __future__ import annotations

import pytest

pytest.importorskip("cupy")

from cupyna.kernels.fused import heuristics
from cupyna.kernels.fused.shapes import FORWARD_SHAPES, GRADIENT_SHAPES, FusedShape
from cupyna.problem import Problem
from cupyna.testing import inputs

from .emulator import H200
from .test_kernels import (
    BACKENDS,
    _on_the_host,
    check_backward,
    check_forward,
    emulator,
)

__all__ = ["_on_the_host", "emulator"]  # fixtures

_DTYPES = {2: "float16", 4: "float32"}
SHAPES = [
    pytest.param(shape, id=shape.row(_DTYPES[shape.item_bytes]).symbol.removeprefix("cupyna_"))
    for shape in (*FORWARD_SHAPES, *GRADIENT_SHAPES)
    if shape.head_dim <= 128 and (shape.item_bytes == 4 or shape.direction == "forward")
]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape(shape: FusedShape, monkeypatch: pytest.MonkeyPatch) -> None:
    channels = shape.head_dim - 8  # the last chunks are past the end of a row
    dtype = _DTYPES[shape.item_bytes]
    problem = Problem(
        1, (13, 11), 2, 2, channels, channels, dtype, (5, 7), (1, 2), (1, 1), (True, False)
    )
    one = heuristics.cheapest_tiling(problem, H200, [shape])
    if shape.direction == "forward":
        monkeypatch.setattr(heuristics, "fused_forward_choice", lambda *_: one)
        check_forward(BACKENDS["fused"][0], problem)
    else:
        query, key = heuristics.fused_gradient_choices(problem, H200)
        passes = (one, key) if shape.side == "query" else (query, one)
        monkeypatch.setattr(heuristics, "fused_gradient_choices", lambda *_: passes)
        check_backward(BACKENDS["fused"][0], problem, inputs(problem))
