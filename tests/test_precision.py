"""How the oracle rounds where it stands for a kernel."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cupyna.problem import Problem
from cupyna.testing import expected_backward, expected_forward, inputs
from cupyna.tolerance import emulation

PROBLEM = Problem(1, (9, 8), 2, 1, 24, 16, "float32", (3, 5), (1, 1), (1, 1), (False, True))


@pytest.mark.parametrize(
    ("value", "rounded"),
    [
        (1 + 2.0**-10, 1 + 2.0**-10),
        (1 + 2.0**-11, 1 + 2.0**-10),  # a tie
        (-1 - 2.0**-11, -1 - 2.0**-10),
        (1 + 2.0**-11 - 2.0**-20, 1),
        (3 - 2.0**-20, 3),
        (2.0**-100, 2.0**-100),
        (0.0, 0.0),
        (np.inf, np.inf),
    ],
)
def test_tf32_keeps_ten_bits(value: float, rounded: float) -> None:
    precision = emulation("float32", allow_tf32=True)
    for rounds in (precision.operand, precision.rounded):
        found = rounds(np.array([value], np.float64))
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, np.float32(rounded))


def test_only_float32_is_rounded_to_tf32() -> None:
    for dtype in ("float16", "bfloat16", "float64"):
        assert emulation(dtype, allow_tf32=True) == emulation(dtype)


def test_tf32_shows_in_every_result() -> None:
    given = inputs(PROBLEM)
    for expect in (expected_forward, expected_backward):
        plain, tf32 = expect(PROBLEM, given), expect(replace(PROBLEM, allow_tf32=True), given)
        for name, of_tf32 in tf32.items():
            np.testing.assert_array_equal(of_tf32.exact, plain[name].exact)
            errors = [np.abs(e.emulated - e.exact).max() for e in (plain[name], of_tf32)]
            size = np.abs(of_tf32.exact).max()
            assert errors[0] < 2e-5 * size
            assert 1e-5 * size < errors[1] < 2e-2 * size
