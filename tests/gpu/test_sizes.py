"""Problems that overflow what is 32 bits wide, or one axis of a launch."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from cupyna import fused, naive
from cupyna.problem import Problem
from cupyna.testing import Inputs, expected_backward, expected_forward
from cupyna.testing.expected import Expected

pytestmark = [pytest.mark.gpu, pytest.mark.slow]

# Tokens of the parts that are compared, those in their middle that no border of a part touches, and
# those at the end of the last one.
PART, MIDDLE, OWN = 400, 60, 60
WINDOW, HEAD_DIM = 64, 64


def cut(expected: Expected, tokens: slice) -> Expected:
    """Some tokens of an expected result."""
    parts = {
        name: getattr(expected, name)[:, tokens] for name in ("exact", "emulated", "magnitude")
    }
    return dataclasses.replace(expected, **parts)


def draw(length: int) -> list[Any]:
    """Queries, keys, values and a gradient of the output, of one head."""
    import cupy

    generator = cupy.random.default_rng(0)
    unit = generator.standard_normal((1 << 24) + 77, dtype=np.float32).astype(np.float16)
    arrays = []
    for offset in (0, 1001, 2002, 3003):
        array = cupy.empty((1, length, 1, HEAD_DIM), np.float16)
        flat, rolled = array.reshape(-1), cupy.roll(unit, offset)
        for begin in range(0, flat.size, unit.size):
            part = flat[begin : begin + unit.size]
            part[...] = rolled[: part.size]
        arrays.append(array)
    return arrays


@pytest.mark.parametrize(
    ("method", "has_bias", "gigabytes"),
    [(naive, False, 75), (fused, True, 45), (fused, False, 55)],
    ids=["naive", "fused in two passes", "fused in one pass"],
)
def test_arrays_and_weights_of_more_than_2_31_elements(
    method: Any, has_bias: bool, gigabytes: int
) -> None:
    import cupy

    cupy.get_default_memory_pool().free_all_blocks()
    if cupy.cuda.runtime.memGetInfo()[0] < gigabytes << 30:
        pytest.skip(f"needs {gigabytes} GiB of device memory")
    length = 2**31 // HEAD_DIM + 4096
    q, k, v, dout = draw(length)
    assert q.size > 2**31 and length * WINDOW > 2**31
    # A bias is served by the portable kernels alone, and by two passes.
    bias = cupy.linspace(-1, 1, 2 * WINDOW - 1, dtype=np.float16)[None] if has_bias else None
    out, lse = method.na1d(q, k, v, WINDOW, bias=bias, return_lse=True)
    gradients = method.neighborhood_attention_backward(dout, q, k, v, out, lse, WINDOW, bias=bias)
    found = dict(zip(("out", "lse", "dq", "dk", "dv"), (out, lse, *gradients[:3]), strict=True))
    assert all(np.isfinite(of_bias.get()).all() for of_bias in gradients[3:])

    # The first tokens, those on both sides of element 2^31, and the last.
    middle = slice((PART - MIDDLE) // 2, (PART + MIDDLE) // 2)
    samples = {
        0: slice(OWN),
        2**31 // HEAD_DIM - PART // 2: middle,
        length - PART: slice(PART - OWN, PART),
    }
    problem = Problem(
        1, (PART,), 1, 1, HEAD_DIM, HEAD_DIM, "float16", (WINDOW,), (1,), (1,), (False,), has_bias
    )
    weights = "float16" if method is fused else None
    host_bias = None if bias is None else bias.get()
    for begin, own in samples.items():
        parts = [array[:, begin : begin + PART].get() for array in (q, k, v, dout)]
        no_dlse = np.zeros((1, PART, 1), np.float32)
        given = Inputs(*parts[:3], host_bias, parts[3], no_dlse, HEAD_DIM**-0.5)
        expected = {
            **expected_forward(problem, given, weights),
            **expected_backward(problem, given, weights=weights),
        }
        for name, array in found.items():
            cut(expected[name], own).check(array[:, begin : begin + PART][:, own].get())
    del q, k, v, dout, out, lse, gradients, found, array
    cupy.get_default_memory_pool().free_all_blocks()


def test_more_heads_than_a_grid_has_rows() -> None:
    import cupy

    problem = Problem(
        300, (5,), 300, 300, 4, 4, "float32", (3,), (1,), (1,), (False,), has_bias=True
    )
    generator = cupy.random.default_rng(0)
    shape = (300, 5, 300, 4)
    q, k, v, dout = (generator.standard_normal(shape, dtype=np.float32) for _ in range(4))
    bias = generator.standard_normal((300, 5), dtype=np.float32)
    out, lse = naive.na1d(q, k, v, 3, bias=bias, return_lse=True)
    dq, dk, dv, _ = naive.neighborhood_attention_backward(dout, q, k, v, out, lse, 3, bias=bias)
    one = dataclasses.replace(problem, batch=1, heads=1, kv_heads=1)
    for batch, head in ((0, 0), (218, 135), (299, 299)):
        parts = [a[batch : batch + 1, :, head : head + 1].get() for a in (q, k, v, dout)]
        given = Inputs(
            *parts[:3], bias[head : head + 1].get(), parts[3], np.zeros((1, 5, 1), np.float32), 0.5
        )
        expected = {**expected_forward(one, given), **expected_backward(one, given)}
        found = {"out": out, "lse": lse, "dq": dq, "dk": dk, "dv": dv}
        for name, array in found.items():
            expected[name].check(array[batch : batch + 1, :, head : head + 1].get())
