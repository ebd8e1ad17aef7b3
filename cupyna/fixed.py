"""The public functions with their method fixed, for the modules named after the methods."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable
from importlib import import_module
from typing import Any

from . import api, operations, ranked
from .problem import Method

__all__ = ["declare_kernels", "fix_method"]


def declare_kernels() -> None:
    """Declare the CuPy modules of all kernels, where CuPy is installed; no driver is needed."""
    try:
        import_module("cupyna.kernels.modules")
    except ImportError as error:
        logging.getLogger("cupyna").debug("no CUDA kernels: %s", error)


def fix_method(name: str, method: Method) -> Callable[..., Any]:
    """The public function `name` as one that always runs `method`.

    Its signature and docstring are the public function's, without the keyword `method`.
    """
    public = getattr(ranked, name) if name in ranked.__all__ else getattr(api, name)
    # Public functions of single products have no keyword for a method, the operations do.
    function = public if name in ranked.__all__ else getattr(operations, name)

    @functools.wraps(public)
    def fixed(*args: Any, **kwargs: Any) -> Any:
        if "method" in kwargs:
            raise TypeError(f"cupyna.{method}.{name} takes no keyword 'method': it is {method!r}")
        return function(*args, **kwargs, method=method)

    signature = inspect.signature(public)
    kept = [p for p in signature.parameters.values() if p.name != "method"]
    fixed.__signature__ = signature.replace(parameters=kept)  # type: ignore[attr-defined]
    fixed.__module__ = f"cupyna.{method}"
    fixed.__doc__ = f"{inspect.getdoc(public)}\n\nThe method is {method!r}.\n"
    return fixed
