"""Where arrays are and how they are laid out changes no bit of a result."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from cupyna import naive
from cupyna.problem import Problem
from cupyna.testing import (
    Inputs,
    expected_av,
    expected_backward,
    expected_forward,
    expected_qk,
    expected_qk_backward,
    inputs,
)
from cupyna.testing.expected import stored_forward

from .libraries import each_gpu_library, full, get, put

PROBLEM = Problem(
    2, (10, 12), 4, 2, 32, 24, "float16", (5, 4), (1, 2), (2, 1), (False, True), has_bias=True
)
WINDOW = {"stride": (1, 2), "dilation": (2, 1), "is_causal": (False, True)}


def run(arrays: dict[str, Any]) -> dict[str, Any]:
    """Forward, backward and the scores alone."""
    q, k, v, bias = (arrays[name] for name in ("q", "k", "v", "bias"))
    options = {**WINDOW, "bias": bias}
    out, lse = naive.neighborhood_attention(q, k, v, (5, 4), return_lse=True, **options)
    gradients = naive.neighborhood_attention_backward(
        arrays["dout"],
        q,
        k,
        v,
        arrays["out"],
        arrays["lse"],
        (5, 4),
        dlse=arrays["dlse"],
        **options,
    )
    scores = naive.na_qk(q, k, (5, 4), **options)
    named = zip(("dq", "dk", "dv", "dbias"), gradients, strict=True)
    return {"out": out, "lse": lse, "scores": scores, **dict(named)}


def arguments(library: str, given: Inputs) -> dict[str, Any]:
    out, lse = stored_forward(PROBLEM, given)
    arrays = {name: getattr(given, name) for name in ("q", "k", "v", "bias", "dout", "dlse")}
    return {name: put(library, a) for name, a in (arrays | {"out": out, "lse": lse}).items()}


def check(results: dict[str, Any], given: Inputs) -> None:
    expected = expected_forward(PROBLEM, given) | expected_backward(PROBLEM, given, with_dlse=True)
    expected["scores"] = expected_qk(PROBLEM, given)
    assert expected.keys() == results.keys()
    for name, result in results.items():
        expected[name].check(get(result))


def bits(results: dict[str, Any]) -> dict[str, bytes]:
    return {name: get(result).tobytes() for name, result in results.items()}


def layouts(array: Any) -> Iterator[Any]:
    """The same numbers in memory of other shapes."""
    wide = full_like(array, (*array.shape[:-1], 2 * array.shape[-1] + 1))
    strided = wide[..., 1::2]
    strided[...] = array
    yield strided
    # One element off any alignment, rows dense.
    flat = full_like(array, (array.size if isinstance(array.size, int) else array.numel(),), 1)
    shifted = flat[1:].reshape(array.shape)
    shifted[...] = array
    yield shifted
    # Aligned, with room between rows.
    roomy = full_like(array, (*array.shape[:-1], array.shape[-1] + 16))[..., : array.shape[-1]]
    roomy[...] = array
    yield roomy


def full_like(array: Any, shape: tuple[int, ...], more: int = 0) -> Any:
    library = type(array).__module__.partition(".")[0]
    dtype = str(array.dtype).removeprefix("torch.")
    return full(library, (*shape[:-1], shape[-1] + more), dtype, float("nan"))


@each_gpu_library
def test_strided_and_misaligned_arrays(library: str) -> None:
    given = inputs(PROBLEM)
    arrays = arguments(library, given)
    for views in zip(*map(layouts, arrays.values()), strict=True):
        check(run(dict(zip(arrays, views, strict=True))), given)


@each_gpu_library
def test_broadcast_and_transposed_views(library: str) -> None:
    given = inputs(PROBLEM)
    given = dataclasses.replace(given, k=np.repeat(given.k[:, :, :, :1], 2, axis=3))
    arrays = arguments(library, given)
    one = arrays["k"][:, :, :, :1]
    if library == "torch":
        shared = one.expand(arrays["k"].shape)
        turned = arrays["q"].permute(3, 4, 2, 1, 0).contiguous().permute(4, 3, 2, 0, 1)
    else:
        import cupy

        shared = cupy.broadcast_to(one, arrays["k"].shape)
        turned = cupy.ascontiguousarray(arrays["q"].transpose(3, 4, 2, 1, 0))
        turned = turned.transpose(4, 3, 2, 0, 1)
    check(run({**arrays, "k": shared, "q": turned}), given)


@each_gpu_library
def test_weights_of_any_layout(library: str) -> None:
    given = inputs(PROBLEM)
    shape = (*given.q.shape[:-1], PROBLEM.window)
    weights = np.random.default_rng(1).standard_normal(shape, np.float32).astype(np.float16)
    empty = np.isneginf(expected_qk(PROBLEM, given).exact)
    clean = np.where(empty, 0, weights)
    arrays = arguments(library, given)
    q, k, v = (arrays[name] for name in ("q", "k", "v"))
    for stored in layouts(put(library, weights)):
        out = naive.na_av(stored, v, (5, 4), **WINDOW)
        expected_av(PROBLEM, given, clean).check(get(out))
        gradients = naive.na_qk_backward(stored, q, k, (5, 4), scale=given.scale, **WINDOW)
        wanted = expected_qk_backward(PROBLEM, given, clean)
        for name, gradient in zip(("dq", "dk"), gradients, strict=True):
            wanted[name].check(get(gradient))


@each_gpu_library
def test_every_run_gives_the_same_bits(library: str) -> None:
    arrays = arguments(library, inputs(PROBLEM))
    expected = bits(run(arrays))
    for _ in range(10):
        assert bits(run(arrays)) == expected


@each_gpu_library
def test_out_is_written_where_it_is(library: str) -> None:
    arrays = arguments(library, inputs(PROBLEM))
    expected = get(run(arrays)["out"])
    wide = full(library, (*expected.shape[:-1], 2 * expected.shape[-1]), "float16", 7.0)
    out = wide[..., ::2]
    options = {**WINDOW, "bias": arrays["bias"]}
    result = naive.neighborhood_attention(
        arrays["q"], arrays["k"], arrays["v"], (5, 4), out=out, **options
    )
    assert result is out
    np.testing.assert_array_equal(get(wide)[..., ::2], expected)
    assert (get(wide)[..., 1::2] == 7.0).all()


@pytest.mark.gpu
def test_cupy_streams() -> None:
    import cupy

    arrays = arguments("cupy", inputs(PROBLEM))
    expected = bits(run(arrays))
    stream = cupy.cuda.Stream(non_blocking=True)
    late = {name: cupy.zeros_like(array) for name, array in arrays.items()}
    cupy.cuda.Device().synchronize()
    with stream:
        busy = cupy.ones((4096, 4096), np.float32)
        for _ in range(10):
            busy = busy @ busy * 0
        # Whoever does not wait for this stream reads zeros.
        for name, array in arrays.items():
            late[name][...] = array
        found = bits(run(late))
    assert found == expected


@pytest.mark.gpu
@pytest.mark.torch
def test_torch_streams_and_graphs() -> None:
    import torch

    arrays = arguments("torch", inputs(PROBLEM))
    expected = bits(run(arrays))
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(10_000_000)
        late = {name: array.clone() for name, array in arrays.items()}
        results = run(late)
    stream.synchronize()
    assert bits(results) == expected

    graph = torch.cuda.CUDAGraph()
    held = {name: torch.zeros_like(array) for name, array in arrays.items()}
    with torch.cuda.graph(graph):
        captured = run(held)
    for name, array in arrays.items():
        held[name].copy_(array)
    graph.replay()
    assert bits(captured) == expected


@pytest.mark.gpu
def test_cupy_graphs() -> None:
    import cupy

    arrays = arguments("cupy", inputs(PROBLEM))
    expected = get(run(arrays)["out"])
    out = cupy.zeros_like(arrays["out"])
    options = {**WINDOW, "bias": arrays["bias"]}
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        q, k, v = (arrays[name] for name in ("q", "k", "v"))
        # Workspace of the captured call comes from the pool, which is full enough by then.
        naive.neighborhood_attention(q, k, v, (5, 4), out=out, **options)
        out[...] = 0
        stream.begin_capture()
        naive.neighborhood_attention(q, k, v, (5, 4), out=out, **options)
        graph = stream.end_capture()
        graph.launch(stream)
        found = out.get()
    np.testing.assert_array_equal(found, expected)


@pytest.mark.gpu
def test_another_device_than_the_current_one() -> None:
    import cupy

    if cupy.cuda.runtime.getDeviceCount() < 2:
        pytest.skip("one GPU")
    given = inputs(PROBLEM)
    expected = bits(run(arguments("cupy", given)))
    with cupy.cuda.Device(1):
        arrays = arguments("cupy", given)
    results = run(arrays)
    assert all(array.device.id == 1 for array in results.values())
    assert bits(results) == expected
