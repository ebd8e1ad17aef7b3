"""The small-window kernels on a GPU against the oracle, whatever the cost model holds of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cupyna import fused
from cupyna.backends.window import CudaWindow
from cupyna.kernels.device import device_spec
from cupyna.kernels.window import costs
from cupyna.kernels.window.costs import WindowChoice, window_choices
from cupyna.kernels.window.shapes import (
    WINDOW_FORWARD_SHAPES,
    WINDOW_GRADIENT_SHAPES,
    WindowShape,
)
from cupyna.problem import DeviceSpec, Problem
from cupyna.testing import (
    Inputs,
    expected_backward,
    expected_forward,
    inputs,
    problems,
    stored_forward,
)
from cupyna.testing.cases import small_problems
from cupyna.testing.sanitize import only

from .libraries import each_gpu_library, get, guarded, put

DTYPES = ("float16", "bfloat16")
MOST_CHANNELS = 128
NAMED = {
    name: problem
    for name, problem in small_problems(DTYPES)
    if problem.head_dim % 8 == 0 and problem.value_dim % 8 == 0 and not problem.has_bias
    if max(problem.head_dim, problem.value_dim) <= MOST_CHANNELS
}
named_problems = pytest.mark.parametrize("problem", NAMED.values(), ids=NAMED.keys())
head_dims = st.sampled_from([8, 16, 24, 32, 40, 64, 72, 128])


def choices(
    problem: Problem, device: DeviceSpec, of: Sequence[WindowShape] = WINDOW_FORWARD_SHAPES
) -> list[WindowChoice]:
    """Every way to run a problem, the cheapest first."""
    shapes = [shape for shape in of if shape.serves(problem)]
    if not shapes:
        return []
    shape = min(shapes, key=lambda one: one.head_dim)
    return sorted(window_choices(problem, device, shape), key=lambda choice: choice.time_us)


def picked(problem: Problem, pick: int) -> WindowChoice:
    found = choices(problem, device_spec(0))
    assert found
    return found[pick % len(found)]


def attend(
    monkeypatch: pytest.MonkeyPatch,
    library: str,
    problem: Problem,
    given: Inputs,
    chosen: WindowChoice,
) -> tuple[np.ndarray, np.ndarray]:
    q, k, v = (put(library, a) for a in (given.q, given.k, given.v))
    with only(CudaWindow()), monkeypatch.context() as patch, guarded(library):
        patch.setattr(costs, "window_forward_choice", lambda *_: chosen)
        out, lse = fused.neighborhood_attention(
            q, k, v, problem.kernel_size,
            stride=problem.stride, dilation=problem.dilation, is_causal=problem.is_causal,
            scale=given.scale, return_lse=True,
        )  # fmt: skip
    return get(out), get(lse)


def check(problem: Problem, given: Inputs, found: tuple[np.ndarray, np.ndarray]) -> None:
    # Weights are rounded to the inputs' type before they meet the values.
    expected = expected_forward(problem, given, weights=problem.dtype)
    expected["out"].check(found[0])
    expected["lse"].check(found[1])


def passes(problem: Problem, pick: int) -> tuple[WindowChoice, ...]:
    """Tilings of the two passes of backward; none where no shape serves."""
    found = [
        choices(problem, device_spec(0), [s for s in WINDOW_GRADIENT_SHAPES if s.side == side])
        for side in ("query", "key")
    ]
    if not all(found):
        return ()
    return tuple(tilings[pick % len(tilings)] for tilings in found)


def differentiate(
    monkeypatch: pytest.MonkeyPatch,
    library: str,
    problem: Problem,
    given: Inputs,
    stored: tuple[np.ndarray, np.ndarray],
    chosen: tuple[WindowChoice, ...],
) -> list[np.ndarray]:
    arrays = (given.dout, given.q, given.k, given.v, *stored)
    with only(CudaWindow()), monkeypatch.context() as patch, guarded(library):
        patch.setattr(costs, "window_gradient_choices", lambda *_: chosen)
        found = fused.neighborhood_attention_backward(
            *(put(library, a) for a in arrays), problem.kernel_size,
            stride=problem.stride, dilation=problem.dilation, is_causal=problem.is_causal,
            scale=given.scale, dlse=put(library, given.dlse),
        )  # fmt: skip
    return [get(gradient) for gradient in found[:3]]


def check_gradients(
    monkeypatch: pytest.MonkeyPatch, library: str, problem: Problem, given: Inputs, pick: int
) -> None:
    expected = expected_backward(problem, given, with_dlse=True, weights=problem.dtype)
    stored = stored_forward(problem, given)
    gradients = differentiate(monkeypatch, library, problem, given, stored, passes(problem, pick))
    for name, gradient in zip(("dq", "dk", "dv"), gradients, strict=True):
        expected[name].check(gradient)


@each_gpu_library
@named_problems
def test_gradients_of_named_problems(
    library: str, problem: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    if passes(problem, 0):
        check_gradients(monkeypatch, library, problem, inputs(problem), 0)


@each_gpu_library
@named_problems
def test_named_problems(library: str, problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    given = inputs(problem)
    check(problem, given, attend(monkeypatch, library, problem, given, picked(problem, 0)))


@pytest.mark.gpu
@given(
    problem=problems(dtypes=DTYPES, max_tokens=400),
    channels=st.tuples(head_dims, head_dims),
    scale=st.sampled_from([None, 0.0, -0.7, 2.0]),
    pick=st.integers(0, 2**16),
    seed=st.integers(0, 2**16),
)
def test_any_problem(
    problem: Problem, channels: tuple[int, int], scale: float | None, pick: int, seed: int
) -> None:
    problem = replace(problem, head_dim=channels[0], value_dim=channels[1], has_bias=False)
    assume(choices(problem, device_spec(0)))
    given = inputs(problem, seed)
    given = given if scale is None else replace(given, scale=scale)
    with pytest.MonkeyPatch.context() as patch:
        check(problem, given, attend(patch, "cupy", problem, given, picked(problem, pick)))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("head_dim", [32, 64, 128])
def test_every_run_gives_the_same_bits(
    dtype: str, head_dim: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = Problem(
        2, (40, 33), 4, 2, head_dim, head_dim, dtype, (5, 8), (1, 3), (2, 1), (False, True)
    )  # fmt: skip
    given = inputs(problem)
    run = partial(attend, monkeypatch, "cupy", problem, given, picked(problem, 0))
    first = run()
    check(problem, given, first)
    for _ in range(50):
        for a, b in zip(first, run(), strict=True):
            np.testing.assert_array_equal(a.view(np.uint8), b.view(np.uint8))


@pytest.mark.gpu
@given(
    problem=problems(dtypes=DTYPES, max_tokens=400),
    channels=st.tuples(head_dims, head_dims),
    scale=st.sampled_from([None, 0.0, -0.7, 2.0]),
    pick=st.integers(0, 2**16),
    seed=st.integers(0, 2**16),
)
def test_gradients_of_any_problem(
    problem: Problem, channels: tuple[int, int], scale: float | None, pick: int, seed: int
) -> None:
    problem = replace(
        problem, kv_heads=problem.heads, head_dim=channels[0], value_dim=channels[1], has_bias=False
    )
    assume(passes(problem, pick))
    given = inputs(problem, seed)
    given = given if scale is None else replace(given, scale=scale)
    with pytest.MonkeyPatch.context() as patch:
        check_gradients(patch, "cupy", problem, given, pick)


@pytest.mark.gpu
@pytest.mark.parametrize("head_dim", [32, 64, 128])
def test_every_run_gives_the_same_gradients(head_dim: int, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = Problem(
        2, (40, 33), 4, 4, head_dim, head_dim, "float16", (5, 8), (1, 3), (2, 1), (False, True)
    )  # fmt: skip
    given = inputs(problem)
    run = partial(
        differentiate, monkeypatch, "cupy", problem, given,
        stored_forward(problem, given), passes(problem, 0),
    )  # fmt: skip
    first = run()
    for _ in range(50):
        for a, b in zip(first, run(), strict=True):
            np.testing.assert_array_equal(a.view(np.uint8), b.view(np.uint8))
