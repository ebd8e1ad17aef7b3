"""Neighborhood attention for NumPy, CuPy and torch arrays.

Every token of a grid attends to the window of tokens around it. Three methods compute it, in
:mod:`cupyna.naive`, :mod:`cupyna.gemm` and :mod:`cupyna.fused`; the functions here choose.
Importing this package imports NumPy and nothing else.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from . import fused, gemm, naive
    from .api import (
        explain,
        na_av,
        na_av_backward,
        na_qk,
        na_qk_backward,
        neighborhood_attention,
        neighborhood_attention_backward,
    )
    from .explanation import Explanation
    from .ranked import na1d, na2d, na3d

_MODULE_OF_NAME = {
    "Explanation": ".explanation",
    "explain": ".api",
    "na1d": ".ranked",
    "na2d": ".ranked",
    "na3d": ".ranked",
    "na_av": ".api",
    "na_av_backward": ".api",
    "na_qk": ".api",
    "na_qk_backward": ".api",
    "neighborhood_attention": ".api",
    "neighborhood_attention_backward": ".api",
}
_MODULES = ("fused", "gemm", "naive")

__all__ = [
    "Explanation",
    "__version__",
    "explain",
    "fused",
    "gemm",
    "na1d",
    "na2d",
    "na3d",
    "na_av",
    "na_av_backward",
    "na_qk",
    "na_qk_backward",
    "naive",
    "neighborhood_attention",
    "neighborhood_attention_backward",
]


def __getattr__(name: str) -> Any:
    """Import what is asked for, when it is asked for."""
    if name in _MODULES:
        return import_module(f".{name}", __name__)
    if name in _MODULE_OF_NAME:
        return getattr(import_module(_MODULE_OF_NAME[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
