"""What the project's tests are made of, for property tests of your own."""

from .strategies import Inputs, axes, inputs, problems
from .tolerance import assert_within_rounding

__all__ = ["Inputs", "assert_within_rounding", "axes", "inputs", "problems"]
