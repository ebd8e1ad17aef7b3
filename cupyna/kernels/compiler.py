"""Source + row + architecture -> cubin and its resources, with either of two compilers.

The NVRTC wheel is the usual one: 58 MB, no host compiler, no GPU. ``CUPYNA_NVCC=/path/to/nvcc``
chooses an nvcc instead. Both get one list of flags, so kernels built ahead of time and kernels
compiled on first use are the same.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from .nvcc import Nvcc
from .nvrtc import Nvrtc, find_nvrtc
from .resources import Resources, complaints, parse_report
from .sources import Sources
from .variant import Variant

__all__ = [
    "FLAGS",
    "INSTALL_COMMAND",
    "Compiled",
    "Compiler",
    "CompilerMissingError",
    "compile_variant",
    "find_compiler",
]

FLAGS = ("-std=c++17", "--ptxas-options=-v")

INSTALL_COMMAND = 'pip install "nvidia-cuda-nvrtc>=13.4,<14"'


class CompilerMissingError(RuntimeError):
    """No compiler of device code is installed."""


class Compiler(Protocol):
    """Something that turns one source file into one cubin."""

    @property
    def identity(self) -> str:
        """Name and version; cubins of different compilers never share a key."""

    def compile(
        self, source: Path, arch: str, options: tuple[str, ...], scratch: Path
    ) -> tuple[bytes, str]:
        """Return the cubin and the log; RuntimeError with the log if the source is wrong.

        `scratch` is a directory that outlives the call, for headers the compiler unpacks.
        """


@dataclass(frozen=True, slots=True)
class Compiled:
    """One compiled kernel."""

    cubin: bytes
    resources: Resources


def find_compiler() -> Compiler:
    """Find the compiler to use, without loading it.

    Raises
    ------
    CompilerMissingError
        If there is none, or only one that is too old.
    """
    nvcc = os.environ.get("CUPYNA_NVCC")
    if nvcc:
        program = shutil.which(nvcc)
        if program is None:
            raise CompilerMissingError(f"CUPYNA_NVCC names {nvcc!r}, which is no program here")
        return Nvcc(program)
    found = find_nvrtc()
    if isinstance(found, Nvrtc):
        return found
    raise CompilerMissingError(f"{found}; install one with: {INSTALL_COMMAND}")


def compile_variant(
    compiler: Compiler, sources: Sources, variant: Variant, arch: str, scratch: Path
) -> Compiled:
    """Compile one kernel for one architecture. Needs no GPU.

    Parameters
    ----------
    compiler : Compiler
    sources : Sources
    variant : Variant
    arch : str
        ``"sm_90a"``, for example.
    scratch : Path
        Directory for headers that the compiler unpacks once.

    Raises
    ------
    RuntimeError
        With the compiler's log if the source is wrong, if registers spill, or if the assembler
        serializes WGMMA or ignores ``setmaxnreg``.
    """
    defines = tuple(f"-D{define}" for define in variant.define_list)
    options = (*FLAGS, *defines, f"-I{sources.root}")
    label = f"{variant.symbol} for {arch}"
    try:
        cubin, log = compiler.compile(sources.root / variant.source, arch, options, scratch)
    except RuntimeError as error:
        raise RuntimeError(f"compiling {label} failed:\n{error}") from None
    resources = parse_report(log)
    faults = complaints(log, resources)
    if faults:
        raise RuntimeError(f"{label} compiles, but with {'; '.join(faults)}:\n{log}")
    return Compiled(cubin, resources)
