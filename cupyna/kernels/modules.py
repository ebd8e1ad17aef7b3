"""One CuPy module for each cubin, declared when this file is imported.

A path is known before its file exists and the driver reads the file at the first `get_function`, so
importing this needs CuPy and neither a driver nor a compiled kernel.
"""

from __future__ import annotations

from pathlib import Path

import cupy

from .manifest import targets
from .store import default_store
from .variant import Variant

__all__ = ["MODULES", "ready_module"]

_STORE = default_store()

MODULES: dict[Path, cupy.RawModule] = {
    path: cupy.RawModule(path=str(path))
    for variant, arch in targets()
    for path in (_STORE.path(variant, arch),)
}


def ready_module(
    variant: Variant, arch: str, compute_capability: tuple[int, int]
) -> cupy.RawModule:
    """Give the module of a row, after its cubin exists; see `Store.ensure` for errors."""
    path = _STORE.ensure(variant, arch, compute_capability)
    # A cache that cannot be written moves its files elsewhere.
    module = MODULES.get(path)
    return cupy.RawModule(path=str(path)) if module is None else module
