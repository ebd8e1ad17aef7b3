"""Whose array is this? Told without importing any library."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from .host import NUMPY
from .library import Library

__all__ = ["library_of"]


def library_of(array: Any, argument: str) -> Library:
    """The library that `array` belongs to; no library is imported to find out.

    Raises
    ------
    TypeError
        If `array` is no array, or of a library without DLPack.
    """
    if isinstance(array, np.ndarray):
        return NUMPY
    if _is_instance(array, "cupy", "ndarray"):
        from .cupy import CUPY

        return CUPY
    if _is_instance(array, "torch", "Tensor"):
        from .torch import TORCH

        return TORCH
    if hasattr(array, "__dlpack__") and hasattr(array, "__dlpack_device__"):
        from .dlpack import DlpackLibrary

        return DlpackLibrary.of(array, argument)
    raise TypeError(
        f"{argument} must be an array (NumPy, CuPy, torch, or any library with DLPack), "
        f"got {type(array).__module__}.{type(array).__qualname__}"
    )


def _is_instance(array: Any, module: str, name: str) -> bool:
    """isinstance() that never imports: an array of a library exists only once it is imported."""
    loaded = sys.modules.get(module)
    kind = getattr(loaded, name, None)
    return kind is not None and isinstance(array, kind)
