"""`tune=True` on a GPU: measured once, right every time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cupyna import fused
from cupyna.kernels import cache, tuning
from cupyna.kernels.fused import tuning as fused_tuning
from cupyna.problem import Problem
from cupyna.testing import expected_backward, expected_forward, inputs, stored_forward

from .libraries import each_gpu_library, get, put

# What the general kernels alone serve: they are what is tuned.
PROBLEMS = [
    Problem(1, (40, 108), 4, 2, 64, 64, dtype, (38, 12), (1, 3), (1, 9), (False, True))
    for dtype in ("float16", "float32")
]  # fmt: skip


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("CUPYNA_CACHE_DIR", str(tmp_path))
    cache.cache_directory.cache_clear()
    fused_tuning._known.clear()
    yield tmp_path / "tuned"
    cache.cache_directory.cache_clear()
    fused_tuning._known.clear()


def refuse(*arguments: Any) -> float:
    raise AssertionError("measured again")


@each_gpu_library
@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.dtype)
def test_results_are_right_and_measured_once(
    library: str, problem: Problem, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = inputs(problem)
    q, k, v, dout = (put(library, a) for a in (given.q, given.k, given.v, given.dout))
    before = [put(library, a) for a in stored_forward(problem, given)]
    options = {
        "kernel_size": problem.kernel_size, "stride": problem.stride,
        "dilation": problem.dilation, "is_causal": problem.is_causal,
        "scale": given.scale, "tune": True,
    }  # fmt: skip
    weights = problem.dtype if problem.item_bytes == 2 else None
    for _ in range(2):
        out = fused.neighborhood_attention(q, k, v, **options)
        gradients = fused.neighborhood_attention_backward(dout, q, k, v, *before, **options)
        expected_forward(problem, given, weights)["out"].check(get(out))
        expected = expected_backward(problem, given, weights=weights)
        for name, gradient in zip(("dq", "dk", "dv"), gradients, strict=False):
            expected[name].check(get(gradient))
        assert len(list(folder.iterdir())) == 2
        fused_tuning._known.clear()
        monkeypatch.setattr(tuning, "repeated_us", refuse)


@pytest.mark.gpu
@pytest.mark.torch
def test_torch_prepares_a_tuned_call_and_captures_an_untuned_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from cupyna.torch import neighborhood_attention

    q, k, v = (torch.randn(1, 20, 24, 2, 64, device="cuda", dtype=torch.float16) for _ in "qkv")
    usual = neighborhood_attention(q, k, v, 5)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = neighborhood_attention(q, k, v, 5, tune=True)
    graph.replay()
    assert not folder.exists()
    torch.testing.assert_close(captured, usual, rtol=0, atol=0)
    first = neighborhood_attention(q, k, v, 5, tune=True)
    assert len(list(folder.iterdir())) == 1
    monkeypatch.setattr(tuning, "repeated_us", refuse)
    for _ in range(3):
        np.testing.assert_array_equal(
            neighborhood_attention(q, k, v, 5, tune=True).cpu().numpy(), first.cpu().numpy()
        )
