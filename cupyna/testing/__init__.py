"""What the project's tests are made of, for property tests of your own.

>>> from cupyna.testing import problems, inputs, expected_forward
>>> # @given(problem=problems()): expected_forward(problem, inputs(problem))["out"].check(my_out)
"""

from ..tolerance import assert_within_rounding, emulation
from .expected import (
    Expected,
    expected_av,
    expected_av_backward,
    expected_backward,
    expected_forward,
    expected_qk,
    expected_qk_backward,
    stored_forward,
)
from .strategies import Inputs, axes, inputs, problems

__all__ = [
    "Expected",
    "Inputs",
    "assert_within_rounding",
    "axes",
    "emulation",
    "expected_av",
    "expected_av_backward",
    "expected_backward",
    "expected_forward",
    "expected_qk",
    "expected_qk_backward",
    "inputs",
    "problems",
    "stored_forward",
]
