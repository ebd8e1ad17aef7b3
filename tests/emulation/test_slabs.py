"""The gemm kernels where boxes are many slabs, of which tables are kept or laid again."""

from __future__ import annotations

import pytest

pytest.importorskip("cupy")

from cupyna.kernels.gemm import heuristics, products, schedule
from cupyna.kernels.gemm.heuristics import gemm_plan
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


@pytest.mark.parametrize(
    "problem",
    [
        # Tables keep the columns of all slabs, for both planes.
        Problem(2, (70,), 2, 1, 64, 64, "float32", (41,), (1,), (1,), (False,)),
        # They lay them again: there are too many of them, or too many slabs.
        Problem(1, (9, 14), 2, 2, 32, 32, "float16", (7, 9), (1, 2), (1, 1), (False, True)),
        Problem(1, (560,), 2, 2, 32, 32, "float16", (540,), (1,), (1,), (False,)),
    ],
    ids=["kept", "columns", "slabs"],
)
def test_boxes_of_many_slabs(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heuristics, "_SLAB_ROWS", (16,))
    monkeypatch.setattr(products, "_planes_of_block", lambda *_: 2)
    cached = (gemm_plan, schedule.schedule, schedule.gradient_plan)
    for function in cached:
        function.cache_clear()
    backend = BACKENDS["gemm"][0]
    assert gemm_plan(problem, H200, "forward", problem.head_dim).cut.slabs >= 5
    check_forward(backend, problem)
    check_backward(backend, problem, inputs(problem))
    for function in cached:
        function.cache_clear()
