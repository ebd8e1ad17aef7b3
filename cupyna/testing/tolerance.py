"""The one tolerance rule: an honest kernel errs about as much as its own rounding does.

``error(actual) <= 2 * error(emulated) + 4 * eps(dtype) * max|exact|``

in the largest and in the root-mean-square difference from the exact result, where `emulated` is
the same maths rounded where the kernel rounds. NaN and infinity must stand in the same places.
There is no other tolerance in the project, and none at call sites.
"""

from __future__ import annotations

import numpy as np

from ..arrays.host import host_dtype

__all__ = ["assert_within_rounding"]


def assert_within_rounding(
    actual: np.ndarray, exact: np.ndarray, emulated: np.ndarray, dtype: str, name: str = "result"
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
    dtype : str
        Element type of `actual` as the user sees it.
    name : str
        How messages call the result.

    Raises
    ------
    AssertionError
        If shapes differ, NaN or infinity stand elsewhere, or the error is larger than allowed.
    """
    import ml_dtypes

    storage = host_dtype(dtype)
    assert actual.shape == exact.shape, f"{name}: shape {actual.shape}, expected {exact.shape}"
    assert actual.dtype == storage, f"{name}: dtype {actual.dtype}, expected {storage}"
    if exact.size == 0:
        return
    got = actual.astype(np.float64)
    # The emulated result is stored like the actual one: the last rounding is part of the error.
    rounded = emulated.astype(storage).astype(np.float64)
    for what, test in (("NaN", np.isnan), ("+inf", np.isposinf), ("-inf", np.isneginf)):
        wrong = test(got) != test(exact)
        assert not wrong.any(), (
            f"{name}: {what} misplaced in {np.count_nonzero(wrong)} of {wrong.size} elements, "
            f"first at {tuple(int(i) for i in np.argwhere(wrong)[0])}"
        )
    finite = np.isfinite(exact)
    if not finite.any():
        return
    error = np.abs(got - exact, where=finite, out=np.zeros_like(got))
    honest = np.abs(rounded - exact, where=finite, out=np.zeros_like(got))
    slack = 4 * float(ml_dtypes.finfo(storage).eps) * float(np.abs(exact[finite]).max())
    for what, measure in (("largest", np.max), ("RMS", lambda x: np.sqrt(np.mean(np.square(x))))):
        found, allowed = float(measure(error)), 2 * float(measure(honest)) + slack
        assert found <= allowed, (
            f"{name}: {what} error {found:.3e} exceeds {allowed:.3e} (rounding alone gives "
            f"{float(measure(honest)):.3e}); worst at "
            f"{tuple(int(i) for i in np.unravel_index(int(error.argmax()), error.shape))}"
        )
