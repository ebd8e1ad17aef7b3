"""Where the cubin of a row is: shipped, compiled before, or compiled now.

A file's name holds a digest of all that decides its content, so its path is known before it exists,
a stale file is simply not looked for, and no two versions ever meet.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from .cache import (
    Record,
    cache_directory,
    lock,
    publish,
    read_record,
    writable_directory,
)
from .compiler import FLAGS, Compiler, CompilerMissingError, compile_variant, find_compiler
from .sources import PACKAGE, Sources, installed_sources
from .variant import Variant

__all__ = ["INDEX_NAME", "SHIPPED", "Store", "cubin_name", "default_store"]

SHIPPED = PACKAGE / "_cubin"
INDEX_NAME = "manifest.json"


def cubin_name(variant: Variant, arch: str, compiler: str, source_digest: str) -> str:
    """File name of one cubin: readable, then a digest of everything that decides its content."""
    decides = [variant.define_list, FLAGS, arch, compiler, source_digest]
    key = hashlib.sha256(json.dumps(decides).encode()).hexdigest()
    return f"{variant.symbol}.{arch}.{key[:16]}.cubin"


@dataclass(frozen=True)
class Store:
    """The cubins of one installation.

    Parameters
    ----------
    sources : Sources
    shipped : Path
        Directory of cubins built ahead of time, with their index.
    cache : Path
        Directory of cubins compiled on first use.
    compiler : Compiler, optional
        None where none is installed; `refusal` then says why.
    refusal : str
    """

    sources: Sources
    shipped: Path
    cache: Path
    compiler: Compiler | None
    refusal: str = ""

    @cached_property
    def index(self) -> dict[str, Any]:
        """Index of the shipped cubins, empty where there are none."""
        try:
            loaded: dict[str, Any] = json.loads((self.shipped / INDEX_NAME).read_text("utf-8"))
        except FileNotFoundError:
            return {}
        except ValueError:
            warnings.warn(
                f"the index {self.shipped / INDEX_NAME} cannot be read, so shipped kernels are "
                "not used",
                RuntimeWarning,
                stacklevel=2,
            )
            return {}
        return loaded

    def ships(self, variant: Variant, arch: str) -> bool:
        """Whether a shipped cubin of these very sources and flags serves the row."""
        return self._shipped_name(variant, arch) is not None

    def path(self, variant: Variant, arch: str) -> Path:
        """Path of a cubin, whether or not the file exists yet."""
        shipped = self._shipped_name(variant, arch)
        if shipped is not None:
            return self.shipped / shipped
        compiler = "none" if self.compiler is None else self.compiler.identity
        return self.cache / cubin_name(variant, arch, compiler, self.sources.digest)

    def record(self, variant: Variant, arch: str) -> Record | None:
        """What is known of a cubin, read and verified; None if it is not there."""
        shipped = self._shipped_name(variant, arch)
        if shipped is None:
            return read_record(self.path(variant, arch))
        record = Record.from_json(self.index["cubins"][shipped])
        return record if record.matches_file(self.shipped / shipped) else None

    def ensure(
        self, variant: Variant, arch: str, compute_capability: tuple[int, int] | None = None
    ) -> Path:
        """Give the path of a cubin that exists and is whole, compiling it if need be.

        Parameters
        ----------
        variant : Variant
        arch : str
        compute_capability : (int, int), optional
            Of the device that needs it, for the message.

        Returns
        -------
        Path
            `path` of the same row, except where that cannot be written.

        Raises
        ------
        CompilerMissingError
            If it has to be compiled and no compiler is installed.
        RuntimeError
            If it does not compile.
        """
        path = self.path(variant, arch)
        if self.record(variant, arch) is not None:
            return path
        if path.parent == self.shipped:
            warnings.warn(
                f"the shipped kernel {path} is damaged or missing", RuntimeWarning, stacklevel=2
            )
        if self.compiler is None:
            needs = (
                f"compute capability {_dotted(compute_capability)}, " if compute_capability else ""
            )
            raise CompilerMissingError(
                f"{variant.symbol} has no compiled kernel for {needs}architecture {arch}, and it "
                f"cannot be compiled here: {self.refusal}"
            )
        directory = writable_directory(self.cache)
        name = cubin_name(variant, arch, self.compiler.identity, self.sources.digest)
        cubin = directory / name
        with lock(cubin):
            # Another process may have published it while this one waited.
            if read_record(cubin) is None:
                compiled = compile_variant(self.compiler, self.sources, variant, arch, directory)
                publish(compiled, self.compiler.identity, cubin)
        return cubin

    def _shipped_name(self, variant: Variant, arch: str) -> str | None:
        if not self.index:
            return None
        name = cubin_name(variant, arch, self.index["compiler"], self.sources.digest)
        return name if name in self.index["cubins"] else None


def _dotted(compute_capability: tuple[int, int]) -> str:
    return ".".join(map(str, compute_capability))


@cache
def default_store() -> Store:
    """Give the store of this installation, as the environment was at the first call."""
    try:
        compiler, refusal = find_compiler(), ""
    except CompilerMissingError as error:
        compiler, refusal = None, str(error)
    return Store(installed_sources(), SHIPPED, cache_directory(), compiler, refusal)
