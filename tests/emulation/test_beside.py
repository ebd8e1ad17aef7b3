"""Backward of keys beside the windows: what they add to queries, and their own gradients."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("cupy")

from cupyna.arrays.host import host_dtype
from cupyna.backends.fused import CudaFused
from cupyna.execution import Execution
from cupyna.kernels import launch, loader
from cupyna.kernels.fused.beside import beside_choice
from cupyna.operands import BackwardBesideArrays
from cupyna.problem import Problem
from cupyna.testing import assert_within_rounding

from .emulator import H200, Emulator, Memory, described

SCALE = -0.3  # a scale may be negative

# spatial, heads, kv_heads, head_dim, value_dim, tokens, multiprocessors
CASES = {
    "one token": ((40,), 2, 2, 32, 32, 1, 132),
    "a tile of keys and one more": ((9, 11), 4, 2, 64, 40, 65, 132),
    "slices along two axes": ((5, 3, 70), 2, 1, 24, 24, 7, 2),
    "many channels": ((130,), 1, 1, 128, 128, 17, 1),
    "fewer multiprocessors than slices": ((20, 18), 3, 3, 32, 32, 20, 1),
}


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Emulator:
    compiler = shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    return Emulator(compiler, tmp_path_factory.mktemp("emulation"))


def drawn(problem: Problem, tokens: int) -> dict[str, np.ndarray]:
    """Arrays of a call in float64, as its dtype holds them."""
    rng = np.random.default_rng(0)
    queries = (problem.batch, *problem.spatial, problem.heads)
    keys = (problem.batch, tokens, problem.kv_heads)
    shapes = {
        "dout": (*queries, problem.value_dim),
        "q": (*queries, problem.head_dim),
        "more_k": (*keys, problem.head_dim),
        "more_v": (*keys, problem.value_dim),
        "out": (*queries, problem.value_dim),
        "dlse": queries,
        "window_dq": (*queries, problem.head_dim),
    }
    arrays = {name: rng.standard_normal(shape) + 0.25 for name, shape in shapes.items()}
    for name in ("dout", "q", "more_k", "more_v", "out", "window_dq"):
        arrays[name] = arrays[name].astype(host_dtype(problem.dtype)).astype(np.float64)
    scores = scores_of(problem, arrays["q"], arrays["more_k"])
    # The windows' keys weigh about as much as these.
    lse = np.log(2 * np.exp(scores).sum(-1))
    arrays |= {"lse": lse, "dlse": arrays["dlse"]}
    return {
        name: a.astype(np.float32).astype(np.float64) if name in ("lse", "dlse") else a
        for name, a in arrays.items()
    }


def scores_of(problem: Problem, rows: np.ndarray, more: np.ndarray) -> np.ndarray:
    return SCALE * products_of(problem, rows, more)


def products_of(problem: Problem, rows: np.ndarray, more: np.ndarray) -> np.ndarray:
    return np.einsum("n...hd,nthd->n...ht", rows, np.repeat(more, problem.head_group, axis=2))


def formula(
    problem: Problem, arrays: dict[str, np.ndarray], stored: Any = np.float64, sign: int = 1
) -> dict[str, np.ndarray]:
    """The gradients, with weights and their gradients stored as given.

    With a negative `sign` nothing cancels: all are sums of absolute values.
    """
    weights = np.exp(scores_of(problem, arrays["q"], arrays["more_k"]) - arrays["lse"][..., None])
    if sign < 0:
        arrays = {name: np.abs(array) for name, array in arrays.items()}
    dweights = products_of(problem, arrays["dout"], arrays["more_v"])
    delta = (arrays["dout"] * arrays["out"]).sum(-1) - sign * arrays["dlse"]
    dscores = weights * (dweights - sign * delta[..., None])
    weights, dscores = (a.astype(stored).astype(np.float64) for a in (weights, dscores))
    scale = SCALE if sign > 0 else -SCALE
    keys = np.repeat(arrays["more_k"], problem.head_group, axis=2)
    added = scale * np.einsum("n...ht,nthd->n...hd", dscores, keys)
    return {
        "dq": arrays["window_dq"] + added.astype(stored),
        "dk": scale * summed(problem, dscores, arrays["q"]),
        "dv": summed(problem, weights, arrays["dout"]),
    }


def summed(problem: Problem, weights: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Sums over queries, and over the query heads of each key/value head."""
    flat = (array.reshape(problem.batch, -1, *array.shape[-2:]) for array in (weights, rows))
    heads = np.einsum("nqht,nqhd->nthd", *flat)
    shape = (*heads.shape[:2], problem.kv_heads, problem.head_group, heads.shape[-1])
    total: np.ndarray = heads.reshape(shape).sum(-2)
    return total


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_gradients(
    case: Any, dtype: str, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "load", emulator.load)
    monkeypatch.setattr(launch, "launch", emulator.launch)
    spatial, heads, kv_heads, head_dim, value_dim, tokens, processors = case
    ones = (1,) * len(spatial)
    problem = Problem(
        2, spatial, heads, kv_heads, head_dim, value_dim, dtype,
        (2,) * len(spatial), ones, ones, (False,) * len(spatial),
    )  # fmt: skip
    device = replace(H200, processors=processors)
    backend, memory = CudaFused(), Memory()
    slices = backend.slices_beside(problem, tokens, device)
    assert slices is not None
    arrays = drawn(problem, tokens)
    storage = host_dtype(dtype)
    placed = {
        name: memory.put(a.astype(np.float32 if name in ("lse", "dlse") else storage))
        for name, a in arrays.items()
    }
    dq = memory.empty(placed["q"].shape, storage)
    sums = [
        memory.empty((slices, 2, tokens, kv_heads, channels), np.float32)
        for channels in (head_dim, value_dim)
    ]
    execution = Execution(device, 0, memory.workspace)
    key_sums, value_sums = sums
    views = {**placed, "dq": dq, "key_sums": key_sums, "value_sums": value_sums}
    named = BackwardBesideArrays.of({name: described(array) for name, array in views.items()})
    backend.backward_beside(problem, SCALE, execution, named)
    exact, rounded = formula(problem, arrays), formula(problem, arrays, storage)
    sizes = formula(problem, arrays, sign=-1)
    # An error of a score is a relative error of its weight.
    size = np.abs(scores_of(problem, np.abs(arrays["q"]), np.abs(arrays["more_k"]))).max() + 1
    for name, found in (("dq", dq), ("dk", sums[0].sum(0)), ("dv", sums[1].sum(0))):
        assert_within_rounding(
            found.astype(storage), exact[name], rounded[name], sizes[name] * size, dtype, name
        )


def test_slices_cover_the_grid_once() -> None:
    for spatial in ((1,), (4096,), (7, 7), (200, 3), (5, 6, 7), (33, 65, 2)):
        ones = (1,) * len(spatial)
        problem = Problem(
            1, spatial, 4, 2, 64, 64, "float16", ones, ones, ones, (False,) * len(spatial)
        )
        for tokens in (1, 64, 300):
            for processors in (1, 7, 132):
                choice = beside_choice(problem, tokens, replace(H200, processors=processors))
                assert choice is not None
                assert choice.key_tiles == -(-tokens // choice.keys.shape.rows)
                for length, (extent, count) in zip(spatial, choice.slices, strict=True):
                    assert (count - 1) * extent < length <= count * extent


def test_more_channels_than_a_kernel_has() -> None:
    problem = Problem(1, (9,), 1, 1, 136, 8, "float16", (3,), (1,), (1,), (False,))
    assert CudaFused().slices_beside(problem, 4, H200) is None
