"""What this machine has: GPUs, driver, packages, compiler, kernels."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import subprocess
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from .manifest import targets
from .store import default_store

__all__ = ["Gpu", "Machine", "examine", "gpus", "parse_gpus"]


@dataclass(frozen=True, slots=True)
class Gpu:
    """One NVIDIA GPU as its driver describes it."""

    name: str
    compute_capability: tuple[int, int]
    driver: str


@dataclass(frozen=True, slots=True)
class Machine:
    """Everything that decides what runs here.

    Parameters
    ----------
    python, numpy : str
        Versions.
    cupy, torch : str
        Versions, empty where not installed.
    cupy_error : str
        Why CuPy is installed and cannot be imported.
    gpus : tuple of Gpu
    compiler : str
        Identity, empty where there is none.
    compiler_refusal : str
        Why there is none.
    shipped : tuple of (str, int)
        Architectures with the number of shipped cubins that are of these sources.
    wanted : tuple of (str, int)
        Architectures with the number of kernels that the manifest has for them.
    shipped_is_stale : bool
        Whether there are shipped cubins of other sources.
    cache : Path
    """

    python: str
    numpy: str
    cupy: str = ""
    cupy_error: str = ""
    torch: str = ""
    gpus: tuple[Gpu, ...] = ()
    compiler: str = ""
    compiler_refusal: str = ""
    shipped: tuple[tuple[str, int], ...] = ()
    wanted: tuple[tuple[str, int], ...] = ()
    shipped_is_stale: bool = False
    cache: Path = Path()


def gpus() -> tuple[Gpu, ...]:
    """List the NVIDIA GPUs of this machine.

    The driver's own tool is asked: it needs no CuPy, and it also describes a GPU or a driver
    that is too old for CuPy.
    """
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ()
    fields = "--query-gpu=name,compute_cap,driver_version"
    try:
        printed = subprocess.run(
            [tool, fields, "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return parse_gpus(printed.stdout) if printed.returncode == 0 else ()


def parse_gpus(printed: str) -> tuple[Gpu, ...]:
    """Read lines of ``name, compute capability, driver``."""
    found = []
    for line in printed.splitlines():
        name, separator, rest = line.rpartition(",")
        name, second, capability = name.rpartition(",")
        major, point, minor = capability.strip().partition(".")
        if separator and second and point and major.isdigit() and minor.isdigit():
            found.append(Gpu(name.strip(), (int(major), int(minor)), rest.strip()))
    return tuple(found)


def examine() -> Machine:
    """Look at this machine."""
    store = default_store()
    devices = gpus()
    cupy, cupy_error = _cupy()
    wanted = Counter(arch for _, arch in targets())
    shipped = Counter(arch for variant, arch in targets() if store.ships(variant, arch))
    return Machine(
        python=platform.python_version(),
        numpy=_version("numpy"),
        cupy=cupy,
        cupy_error=cupy_error,
        torch=_version("torch"),
        gpus=devices,
        compiler="" if store.compiler is None else store.compiler.identity,
        compiler_refusal=store.refusal,
        shipped=tuple(sorted(shipped.items())),
        wanted=tuple(sorted(wanted.items())),
        shipped_is_stale=bool(store.index) and not shipped,
        cache=store.cache,
    )


def _cupy() -> tuple[str, str]:
    # CuPy goes by another distribution name for each CUDA version, so only an import can tell.
    try:
        import cupy
    except ModuleNotFoundError:
        return "", ""
    except Exception as error:  # whatever a broken installation raises is the finding
        return "", f"{type(error).__name__}: {error}"
    return str(cupy.__version__), ""


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""
