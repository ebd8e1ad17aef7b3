"""Problems that overflow what is 32 bits wide, or one axis of a launch."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from cupyna import naive
from cupyna.problem import Problem
from cupyna.testing import Inputs, expected_backward, expected_forward
from cupyna.testing.expected import Expected

pytestmark = [pytest.mark.gpu, pytest.mark.slow]

# Tokens of the part that is compared, and those of them that no other token's window touches.
TAIL, OWN = 200, 60


def last(expected: Expected, count: int) -> Expected:
    """The last tokens of an expected result."""
    cut = {name: getattr(expected, name)[:, -count:] for name in ("exact", "emulated", "magnitude")}
    return dataclasses.replace(expected, **cut)


def test_arrays_and_weights_of_more_than_2_31_elements() -> None:
    import cupy

    window, head_dim = 64, 64
    length = 2**31 // head_dim + 4096
    shape = (1, length, 1, head_dim)
    generator = cupy.random.default_rng(0)
    unit = generator.standard_normal((1 << 24) + 77, dtype=np.float32).astype(np.float16)

    def draw(offset: int) -> cupy.ndarray:
        array = cupy.empty(shape, np.float16)
        flat = array.reshape(-1)
        for begin in range(0, flat.size, unit.size):
            part = flat[begin : begin + unit.size]
            part[...] = cupy.roll(unit, offset)[: part.size]
        return array

    q, k, v, dout = map(draw, (0, 1001, 2002, 3003))
    assert q.size > 2**31 and length * window > 2**31
    out, lse = naive.na1d(q, k, v, window, return_lse=True)

    problem = Problem(
        1, (TAIL,), 1, 1, head_dim, head_dim, "float16", (window,), (1,), (1,), (False,)
    )
    tail = [array[:, -TAIL:].get() for array in (q, k, v, dout)]
    given = Inputs(*tail[:3], None, tail[3], np.zeros((1, TAIL, 1), np.float32), head_dim**-0.5)
    expected = expected_forward(problem, given)
    last(expected["out"], OWN).check(out[:, -OWN:].get())
    last(expected["lse"], OWN).check(lse[:, -OWN:].get())
    gradients = naive.neighborhood_attention_backward(dout, q, k, v, out, lse, window)
    for gradient, wanted in zip(gradients, expected_backward(problem, given).values(), strict=True):
        last(wanted, OWN).check(gradient[:, -OWN:].get())
    del q, k, v, dout, out, lse, gradients
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
