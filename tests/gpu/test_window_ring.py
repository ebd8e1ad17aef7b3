"""The small-window forward on Hopper against the oracle, whatever the cost model holds of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cupyna import fused
from cupyna.backends.hopper_window import CudaHopperWindow
from cupyna.kernels.device import device_spec
from cupyna.kernels.window import ring_costs
from cupyna.kernels.window.ring_costs import window_ring_choices
from cupyna.problem import Problem
from cupyna.profiling.gpus import GPUS
from cupyna.testing import Inputs, expected_forward, inputs, problems
from cupyna.testing.cases import small_problems

from .libraries import each_gpu_library, get, guarded, put

DTYPES = ("float16", "bfloat16")
H200 = GPUS["H200"].spec
LARGE = {
    "13x13": Problem(
        2, (64, 64), 3, 3, 64, 64, "float16", (13, 13), (1, 1), (1, 1), (False, False)
    ),
    "7x7-shared-heads": Problem(
        3, (57, 50), 4, 2, 32, 24, "bfloat16", (7, 7), (1, 2), (2, 1), (False, True)
    ),
    "5x5x5": Problem(
        2, (17, 18, 19), 3, 3, 32, 32, "float16", (5, 5, 5), (1,) * 3, (1,) * 3, (False,) * 3
    ),
}
NAMED = {
    name: problem
    for name, problem in (*small_problems(DTYPES), *LARGE.items())
    if problem.head_dim % 8 == 0 and problem.value_dim % 8 == 0 and not problem.has_bias
    if any(window_ring_choices(problem, H200))
}


def attend(
    monkeypatch: pytest.MonkeyPatch, library: str, problem: Problem, given: Inputs, pick: int
) -> tuple[np.ndarray, np.ndarray]:
    if device_spec(0).compute_capability != (9, 0):
        pytest.skip("needs a Hopper GPU")
    found = list(window_ring_choices(problem, device_spec(0)))
    chosen = replace(found[pick % len(found)], time_us=-1e6)
    q, k, v = (put(library, a) for a in (given.q, given.k, given.v))
    with monkeypatch.context() as patch, guarded(library):
        patch.setattr(ring_costs, "window_ring_choice", lambda *_: chosen)
        assert CudaHopperWindow().refusals(problem, "forward", device_spec(0)) == ()
        out, lse = fused.neighborhood_attention(
            q, k, v, problem.kernel_size,
            stride=problem.stride, dilation=problem.dilation, is_causal=problem.is_causal,
            scale=given.scale, return_lse=True,
        )  # fmt: skip
    return get(out), get(lse)


def check(problem: Problem, given: Inputs, found: tuple[np.ndarray, np.ndarray]) -> None:
    expected = expected_forward(problem, given, weights=problem.dtype)
    expected["out"].check(found[0])
    expected["lse"].check(found[1])


@each_gpu_library
@pytest.mark.parametrize("problem", NAMED.values(), ids=NAMED.keys())
def test_named_problems(library: str, problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    given = inputs(problem)
    check(problem, given, attend(monkeypatch, library, problem, given, 0))


@pytest.mark.gpu
@given(
    problem=problems(dtypes=DTYPES, max_tokens=400),
    channels=st.tuples(*[st.sampled_from([8, 24, 32, 40, 64])] * 2),
    scale=st.sampled_from([None, 0.0, -0.7, 2.0]),
    pick=st.integers(0, 2**16),
    seed=st.integers(0, 2**16),
)
def test_any_problem(
    problem: Problem, channels: tuple[int, int], scale: float | None, pick: int, seed: int
) -> None:
    problem = replace(problem, head_dim=channels[0], value_dim=channels[1], has_bias=False)
    assume(any(window_ring_choices(problem, device_spec(0))))
    given = inputs(problem, seed)
    given = given if scale is None else replace(given, scale=scale)
    with pytest.MonkeyPatch.context() as patch:
        check(problem, given, attend(patch, "cupy", problem, given, pick))


@pytest.mark.gpu
def test_large_scores_raise_the_shift(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores that grow along the grid pass what weights were lowered by again and again."""
    problem = LARGE["13x13"]
    given = inputs(problem)
    growth = np.linspace(0, 40, 64, dtype=np.float32)[None, :, None, None, None]
    given = replace(given, k=(given.k.astype(np.float32) * growth).astype(given.k.dtype))
    check(problem, given, attend(monkeypatch, "cupy", problem, given, 0))


@pytest.mark.gpu
def test_every_run_gives_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = LARGE["7x7-shared-heads"]
    given = inputs(problem)
    first = attend(monkeypatch, "cupy", problem, given, 0)
    for _ in range(30):
        for a, b in zip(first, attend(monkeypatch, "cupy", problem, given, 0), strict=True):
            np.testing.assert_array_equal(a.view(np.uint8), b.view(np.uint8))
