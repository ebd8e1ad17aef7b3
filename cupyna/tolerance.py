"""The one tolerance rule: an honest kernel errs about as much as its own rounding does.

``error(actual) <= 2 error(emulated) + 4 eps(dtype) max|exact| + 4 eps(accumulator) max(magnitude)``

in the largest and in the root-mean-square difference from the exact result. `emulated` is the same
maths rounded where the kernel rounds. `magnitude` is the sum of the absolute values of the terms
that the result is a sum of: where terms cancel (the gradient of a softmax over one key is zero, as
a difference of two equal sums) the order of summation shows, and no emulation can foresee it.
NaN and infinity must stand in the same places. There is no other tolerance in the project, and
none at call sites.

The oracle itself runs in float64, so rounding in float64 cannot be seen beside it. There the maths
is emulated in float32, and its error scaled by the ratio of the two epsilons.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .arrays.host import host_dtype
from .reference import Precision

__all__ = ["Deviation", "assert_within_rounding", "deviation", "emulation"]

_FLOAT32_TO_FLOAT64 = float(np.finfo(np.float64).eps / np.finfo(np.float32).eps)


def emulation(dtype: str, weights: str | None = None, allow_tf32: bool = False) -> Precision:
    """How a kernel for inputs of `dtype` rounds; it stores weights as `weights`, if not wider."""
    if allow_tf32 and dtype == "float32":
        return Precision("float32", "tf32", "tf32")
    stored = "float32" if weights in (None, "float64") else weights
    return Precision("float32", stored, "float32")


@dataclass(frozen=True, slots=True)
class Deviation:
    """How far a result is from the exact one, and how far it may be.

    Parameters
    ----------
    largest, largest_allowed, rms, rms_allowed : float
        In the result's own units; zero where there is nothing to compare.
    scale : float
        Largest exact value.
    complaint : str
        Why the result is wrong; empty where it is right.
    """

    largest: float = 0.0
    largest_allowed: float = 0.0
    rms: float = 0.0
    rms_allowed: float = 0.0
    scale: float = 0.0
    complaint: str = ""


def assert_within_rounding(
    actual: np.ndarray,
    exact: np.ndarray,
    emulated: np.ndarray,
    magnitude: np.ndarray,
    dtype: str,
    name: str = "result",
) -> None:
    """Check a result under the tolerance rule.

    Parameters
    ----------
    actual : ndarray
        What the code under test computed.
    exact : ndarray of float64
        The oracle's result for the same inputs.
    emulated : ndarray
        The oracle's result with a kernel's :class:`~cupyna.reference.Precision`.
    magnitude : ndarray
        Sum of the absolute values of the terms of each result.
    dtype : str
        Element type of `actual` as the user sees it.
    name : str
        How messages call the result.

    Raises
    ------
    AssertionError
        If shapes differ, NaN or infinity stand elsewhere, or the error is larger than allowed.
    """
    complaint = deviation(actual, exact, emulated, magnitude, dtype, name).complaint
    assert not complaint, complaint


def deviation(
    actual: np.ndarray,
    exact: np.ndarray,
    emulated: np.ndarray,
    magnitude: np.ndarray,
    dtype: str,
    name: str = "result",
) -> Deviation:
    """Measure a result by the tolerance rule; parameters as :func:`assert_within_rounding`."""
    import ml_dtypes

    storage = host_dtype(dtype)
    if actual.shape != exact.shape:
        return Deviation(complaint=f"{name}: shape {actual.shape}, expected {exact.shape}")
    if actual.dtype != storage:
        return Deviation(complaint=f"{name}: dtype {actual.dtype}, expected {storage}")
    if exact.size == 0:
        return Deviation()
    got, finite = actual.astype(np.float64), np.isfinite(exact)
    if dtype == "float64":
        difference = np.subtract(emulated, exact, where=finite, out=np.zeros_like(exact))
        rounded = exact + difference * _FLOAT32_TO_FLOAT64
    else:
        # Stored like the actual one: the last rounding is part of the error.
        rounded = emulated.astype(storage).astype(np.float64)
    for what, test in (("NaN", np.isnan), ("+inf", np.isposinf), ("-inf", np.isneginf)):
        wrong = test(got) != test(exact)
        if wrong.any():
            first = tuple(int(i) for i in np.argwhere(wrong)[0])
            count = np.count_nonzero(wrong)
            return Deviation(
                complaint=f"{name}: {what} misplaced in {count} of {wrong.size} elements, "
                f"first at {first}"
            )
    if not finite.any():
        return Deviation()
    error = np.abs(got[finite] - exact[finite])
    honest = np.abs(rounded[finite] - exact[finite])
    accumulator = np.float64 if dtype == "float64" else np.float32
    finfo: Any = ml_dtypes.finfo
    scale = float(np.abs(exact[finite]).max())
    slack = 4 * float(finfo(storage).eps) * scale
    slack += 4 * float(np.finfo(accumulator).eps) * float(magnitude.max())
    sizes = []
    complaint = ""
    for what, measure in (("largest", np.max), ("RMS", lambda x: np.sqrt(np.mean(np.square(x))))):
        found, allowed = float(measure(error)), 2 * float(measure(honest)) + slack
        sizes += [found, allowed]
        if not complaint and not found <= allowed:
            complaint = (
                f"{name}: {what} error {found:.3e} exceeds {allowed:.3e} (rounding alone gives "
                f"{float(measure(honest)):.3e}); worst at "
                f"{tuple(int(i) for i in np.argwhere(finite)[int(error.argmax())])}"
            )
    largest, largest_allowed, rms, rms_allowed = sizes
    return Deviation(largest, largest_allowed, rms, rms_allowed, scale, complaint)
