"""Every shape of the fused kernels in float32 against the oracle, whichever is picked."""

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

SHAPES = [
    pytest.param(shape, id=shape.row("float32").symbol.removeprefix("cupyna_fused_"))
    for shape in (*FORWARD_SHAPES, *GRADIENT_SHAPES)
    if shape.item_bytes == 4 and shape.head_dim <= 128
]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape(shape: FusedShape, monkeypatch: pytest.MonkeyPatch) -> None:
    channels = shape.head_dim - 8  # the last chunks are past the end of a row
    problem = Problem(
        1, (13, 11), 2, 2, channels, channels, "float32", (5, 7), (1, 2), (1, 1), (True, False)
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
