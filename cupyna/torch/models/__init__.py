"""Whole models: the image classifiers NAT and DiNAT in their published layouts."""

from collections.abc import Callable
from functools import partial
from typing import Any

from .layouts import LAYOUTS, Layout
from .nat import NAT

__all__ = ["LAYOUTS", "NAT", "Layout", *LAYOUTS]


def __getattr__(name: str) -> Callable[..., NAT]:
    """A function for each layout, ``nat_mini(**options)``, that makes the model."""
    if name not in LAYOUTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return partial(NAT, LAYOUTS[name])


def __dir__() -> list[Any]:
    return __all__
