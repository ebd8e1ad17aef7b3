"""Every operation of the gemm method on a GPU against the oracle."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cupyna import gemm
from cupyna.backends import gemm as backend
from cupyna.dispatch import _ordered, select
from cupyna.kernels.device import device_spec
from cupyna.problem import Operation, Problem
from cupyna.testing import (
    Inputs,
    expected_av,
    expected_av_backward,
    expected_backward,
    expected_forward,
    expected_qk,
    expected_qk_backward,
    inputs,
    problems,
)
from cupyna.testing.cases import small_problems
from cupyna.testing.expected import stored_forward

from .libraries import each_gpu_library, get, guarded, put

DTYPES = ("float16", "bfloat16", "float32", "float64")


def larger_problems() -> dict[str, Problem]:
    """Several tiles, several slabs of a box, several chunks of a warp."""
    found = {}
    for dtype in DTYPES:
        wide = Problem(1, (700,), 2, 1, 24, 40, dtype, (333,), (1,), (1,), (False,))
        found[f"line-{dtype}"] = wide
        found[f"causal-line-{dtype}"] = replace(wide, is_causal=(True,), stride=(50,))
        plane = Problem(
            1, (38, 45), 1, 1, 64, 64, dtype, (13, 17), (1, 1), (1, 1), (False, False)
        )  # fmt: skip
        found[f"plane-{dtype}"] = plane
        found[f"strided-plane-{dtype}"] = replace(
            plane, stride=(4, 3), dilation=(1, 2), is_causal=(True, False)
        )
        found[f"volume-{dtype}"] = Problem(
            1, (9, 12, 13), 1, 1, 32, 32, dtype, (5, 7, 9), (1, 2, 1), (1,) * 3,
            (False, False, True),
        )  # fmt: skip
    return found


def dilated_problems() -> dict[str, Problem]:
    """Several dilation groups in a tile, groups of two lengths, and rows of gradients."""
    found = {}
    for dtype in DTYPES[:3]:
        line = Problem(2, (150,), 4, 2, 64, 64, dtype, (7,), (1,), (20,), (False,))
        found[f"groups-{dtype}"] = line
        found[f"causal-groups-{dtype}"] = replace(
            line, head_dim=32, value_dim=32, stride=(3,), is_causal=(True,)
        )
        found[f"groups-of-a-plane-{dtype}"] = Problem(
            1, (23, 26), 2, 1, 128, 128, dtype, (3, 3), (1, 2), (7, 8), (False, True)
        )
        found[f"rows-{dtype}"] = replace(line, value_dim=32, kernel_size=(75,), dilation=(2,))
    return found


NAMED = dict(small_problems(DTYPES)) | larger_problems() | dilated_problems()
named_problems = pytest.mark.parametrize("problem", NAMED.values(), ids=NAMED.keys())


def stored(problem: Problem) -> str | None:
    """Weights wait in the inputs' type."""
    return problem.dtype if problem.item_bytes == 2 else None


@pytest.fixture(autouse=True, scope="module")
def _on_tensor_cores() -> Iterator[None]:
    """The method's own kernels run what is so small that others are faster, too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backend, "slower_than_plain", lambda *_: ())
        _ordered.cache_clear()
        yield
    _ordered.cache_clear()


def refuses(problem: Problem, operation: Operation) -> bool:
    reasons = backend.CudaGemm().refusals(problem, operation, device_spec(0))
    # Long rows of wide types do not fit shared memory; nothing else is refused.
    assert all("too long" in reason for reason in reasons)
    return bool(reasons)


def keywords(problem: Problem) -> dict[str, Any]:
    return {
        "stride": problem.stride,
        "dilation": problem.dilation,
        "is_causal": problem.is_causal,
    }


def check_forward(library: str, problem: Problem, given: Inputs) -> None:
    q, k, v, bias = (put(library, a) for a in (given.q, given.k, given.v, given.bias))
    with guarded(library):
        out, lse = gemm.neighborhood_attention(
            q, k, v, problem.kernel_size,
            bias=bias, scale=given.scale, return_lse=True, **keywords(problem),
        )  # fmt: skip
    for name, expected in expected_forward(problem, given, stored(problem)).items():
        expected.check(get({"out": out, "lse": lse}[name]))


def check_backward(library: str, problem: Problem, given: Inputs, with_dlse: bool) -> None:
    q, k, v, bias, dout = (
        put(library, a) for a in (given.q, given.k, given.v, given.bias, given.dout)
    )
    before = (put(library, a) for a in stored_forward(problem, given))
    dlse = put(library, given.dlse) if with_dlse else None
    with guarded(library):
        gradients = gemm.neighborhood_attention_backward(
            dout, q, k, v, *before, problem.kernel_size,
            dlse=dlse, bias=bias, scale=given.scale, **keywords(problem),
        )  # fmt: skip
    expected = expected_backward(problem, given, with_dlse, stored(problem))
    for gradient, wanted in zip(gradients, expected.values(), strict=True):
        wanted.check(get(gradient))


def check_products(library: str, problem: Problem, given: Inputs) -> None:
    q, k, v, bias, dout = (
        put(library, a) for a in (given.q, given.k, given.v, given.bias, given.dout)
    )
    window, options = problem.kernel_size, keywords(problem)
    with guarded(library):
        scores = get(gemm.na_qk(q, k, window, bias=bias, scale=given.scale, **options))
    expected_qk(problem, given).check(scores)

    empty = np.isneginf(scores)
    weights = np.where(empty, 0, np.exp(np.clip(scores.astype(np.float32), -8, 8) / 4)).astype(
        given.q.dtype
    )
    # Whatever stands in empty slots has no effect, NaN included.
    noisy = put(library, np.where(empty, np.nan, weights).astype(given.q.dtype))
    with guarded(library):
        out = gemm.na_av(noisy, v, window, **options)
        dweights, dv = gemm.na_av_backward(dout, noisy, v, window, **options)
    expected_av(problem, given, weights).check(get(out))
    expected = expected_av_backward(problem, given, weights)
    expected["dweights"].check(get(dweights))
    expected["dv"].check(get(dv))

    dscores = np.where(empty, np.nan, weights - 1).astype(given.q.dtype)
    with guarded(library):
        gradients = gemm.na_qk_backward(
            put(library, dscores), q, k, window, bias=bias, scale=given.scale, **options
        )
    clean = np.where(empty, 0, dscores)
    wanted = expected_qk_backward(problem, given, clean).values()
    for gradient, expect in zip(gradients, wanted, strict=True):
        expect.check(get(gradient))


@each_gpu_library
@named_problems
def test_forward_of_named_problems(library: str, problem: Problem) -> None:
    if not refuses(problem, "forward"):
        check_forward(library, problem, inputs(problem))


@each_gpu_library
@named_problems
def test_backward_of_named_problems(library: str, problem: Problem) -> None:
    if not refuses(problem, "backward"):
        check_backward(library, problem, inputs(problem), with_dlse=problem.has_bias)


@each_gpu_library
@named_problems
def test_products_of_named_problems(library: str, problem: Problem) -> None:
    if not refuses(problem, "qk"):
        check_products(library, problem, inputs(problem))


any_problem = given(
    problem=problems(max_tokens=343, max_head_dim=40),
    seed=st.integers(0, 2**16),
    with_dlse=st.booleans(),
    scale=st.sampled_from([None, 0.0, -0.7, 2.0]),
)


@pytest.mark.gpu
@any_problem
def test_any_problem(problem: Problem, seed: int, with_dlse: bool, scale: float | None) -> None:
    given = inputs(problem, seed)
    given = given if scale is None else replace(given, scale=scale)
    check_forward("cupy", problem, given)
    check_backward("cupy", problem, given, with_dlse)
    check_products("cupy", problem, given)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_run_gives_the_same_bits(dtype: str) -> None:
    problem = Problem(
        2, (40, 33), 4, 2, 64, 64, dtype, (9, 12), (1, 3), (2, 1), (False, True)
    )  # fmt: skip
    given = inputs(problem)
    arrays = [put("cupy", a) for a in (given.q, given.k, given.v, given.dout)]

    def run() -> list[bytes]:
        q, k, v, dout = arrays
        options = keywords(problem)
        out, lse = gemm.neighborhood_attention(q, k, v, (9, 12), return_lse=True, **options)
        gradients = gemm.neighborhood_attention_backward(
            dout, q, k, v, out, lse, (9, 12), **options
        )
        return [get(a).tobytes() for a in (out, lse, *gradients)]

    first = run()
    for _ in range(20):
        assert run() == first


@pytest.mark.gpu
def test_plain_tf32_is_asked_for() -> None:
    problem = larger_problems()["plane-float32"]
    given = inputs(problem)
    q, k, v = (put("cupy", a) for a in (given.q, given.k, given.v))
    exact = expected_forward(problem, given)["out"].exact
    errors = {
        allowed: float(np.abs(get(gemm.na2d(q, k, v, (13, 17), allow_tf32=allowed)) - exact).max())
        for allowed in (False, True)
    }
    # TF32 keeps 11 bits of a factor.
    assert errors[False] * 20 < errors[True] < 0.02


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
def test_layouts_that_no_vector_moves(dtype: str) -> None:
    import cupy

    problem = Problem(
        1, (11, 13), 4, 2, 32, 24, dtype, (5, 4), (1, 2), (2, 1), (False, True), has_bias=True
    )  # fmt: skip
    given = inputs(problem)

    def strided(array: np.ndarray) -> Any:
        wide = cupy.zeros((*array.shape[:-1], 2 * array.shape[-1] + 1), array.dtype)
        part = wide[..., 1::2]
        part[...] = cupy.asarray(array)
        return part

    q, k, v = map(strided, (given.q, given.k, given.v))
    bias = cupy.asarray(given.bias)
    out = cupy.zeros((*given.q.shape[:-1], 2 * 24), given.q.dtype)[..., ::2]
    options = {**keywords(problem), "bias": bias, "scale": given.scale}
    assert gemm.neighborhood_attention(q, k, v, (5, 4), out=out, **options) is out
    expected_forward(problem, given, stored(problem))["out"].check(get(out))
    before = map(strided, stored_forward(problem, given))
    gradients = gemm.neighborhood_attention_backward(
        strided(given.dout), q, k, v, *before, (5, 4), dlse=strided(given.dlse), **options
    )
    wanted = expected_backward(problem, given, True, stored(problem)).values()
    for gradient, expected in zip(gradients, wanted, strict=True):
        expected.check(get(gradient))
    scores = get(gemm.na_qk(q, k, (5, 4), **options))
    weights = np.where(np.isneginf(scores), 0, 0.25).astype(scores.dtype)
    av = gemm.na_av(strided(weights), v, (5, 4), **keywords(problem))
    expected_av(problem, given, weights).check(get(av))


@pytest.mark.gpu
def test_plain_products_serve_what_tensor_cores_do_slower(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = Problem(1, (140,), 2, 2, 32, 32, "float16", (7,), (1,), (20,), (False,))
    monkeypatch.setattr(backend, "slower_than_plain", lambda *_: ("is slower",))
    _ordered.cache_clear()
    found = select(problem, "forward", device_spec(0), "gemm")
    assert found.name == "cuda-gemm-plain"
    check_forward("cupy", problem, inputs(problem))
    _ordered.cache_clear()
