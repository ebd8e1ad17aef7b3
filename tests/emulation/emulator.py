"""Kernels of the portable family on a CPU: their own sources, compiled for the host.

Every thread of a block is a fiber. Of the device sources only ``ptx/`` is replaced, by functions
that do on the host what those instructions do. What is tested is all else: tiles, masks, the walk,
copies that arrive late, and every index.
"""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cupyna.arrays import DeviceArray
from cupyna.execution import Execution
from cupyna.kernels.sources import installed_sources
from cupyna.kernels.variant import Variant
from cupyna.profiling.gpus import GPUS

HERE = Path(__file__).parent
H200 = GPUS["H200"].spec
_ALIGNMENT = 512

_ARGUMENT = re.compile(r"CUPYNA_SYMBOL\(const __grid_constant__ (\S+) params\)")

# Dynamic shared memory is given by the host; all other is static.
_DYNAMIC = re.compile(r"extern __shared__ (?:__align__\(\d+\) )?([\w ]+) (\w+)\[\];")
_GIVEN = r"\1* const \2 = reinterpret_cast<\1*>(emulation::memory);"


class Memory:
    """Host arrays as aligned as those of a GPU's pool, kept alive as long as this is."""

    def __init__(self) -> None:
        self._kept: list[np.ndarray] = []

    def empty(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """An array full of NaN."""
        count = int(np.prod(shape)) * np.dtype(dtype).itemsize
        raw = np.full(count + _ALIGNMENT, 0xFF, np.uint8)
        self._kept.append(raw)
        begin = -raw.ctypes.data % _ALIGNMENT
        return raw[begin : begin + count].view(dtype).reshape(shape)

    def put(self, array: np.ndarray) -> np.ndarray:
        placed = self.empty(array.shape, array.dtype)
        placed[...] = array
        return placed

    def workspace(self, shape: tuple[int, ...], dtype: str) -> DeviceArray:
        return described(self.empty(shape, dtype))


def described(array: np.ndarray) -> DeviceArray:
    """As a backend is handed an array."""
    strides = tuple(stride // array.itemsize for stride in array.strides)
    return DeviceArray(array.ctypes.data, array.shape, strides, str(array.dtype), 0)


def execution(memory: Memory) -> Execution:
    return Execution(H200, 0, memory.workspace)


@dataclass(frozen=True)
class Kernel:
    """What stands in for a loaded kernel."""

    run: Callable[..., bytes | None]


class Emulator:
    """Compiles variants for the host, each once, and runs launches of them.

    Parameters
    ----------
    compiler : str
        A C++ compiler of the host.
    directory : Path
        Of the sources as they are compiled, and of the libraries.
    """

    def __init__(self, compiler: str, directory: Path) -> None:
        self._compiler, self._directory = compiler, directory
        self._sources = directory / "cuda_src"
        shutil.copytree(installed_sources().root, self._sources)
        for path in self._sources.rglob("*.cu*"):
            path.write_text(_DYNAMIC.sub(_GIVEN, path.read_text()))
        shutil.rmtree(self._sources / "ptx")
        shutil.copytree(HERE / "ptx", self._sources / "ptx")
        self._kernels: dict[Variant, Kernel] = {}

    def load(self, variant: Variant, device: int) -> Kernel:
        """In place of `cupyna.kernels.loader.load`."""
        if variant not in self._kernels:
            self._kernels[variant] = Kernel(self._compiled(variant))
        return self._kernels[variant]

    @staticmethod
    def launch(
        kernel: Kernel,
        grid: tuple[int, ...],
        block: tuple[int, ...],
        smem_bytes: int,
        stream: int,
        params: np.ndarray,
    ) -> None:
        """In place of `cupyna.kernels.launch.launch`.

        Raises
        ------
        RuntimeError
            If a thread reaches outside of shared memory or waits for ever.
        """
        extents = (ctypes.c_int * 3)(*grid, *(1,) * (3 - len(grid)))
        failure = kernel.run(ctypes.c_void_p(params.ctypes.data), extents, block[0], smem_bytes)
        if failure is not None:
            raise RuntimeError(failure.decode())

    def _compiled(self, variant: Variant) -> Callable[..., bytes | None]:
        source = self._sources / variant.source
        (struct,) = _ARGUMENT.findall(source.read_text())
        library = self._directory / f"{variant.symbol}.so"
        defines = (*variant.define_list, f'CUPYNA_SOURCE="{source}"', f"CUPYNA_PARAMS={struct}")
        subprocess.run(
            [
                *(self._compiler, "-std=c++17", "-O2", "-w", "-shared", "-fPIC"),
                "-fno-strict-aliasing",  # 16 bytes are moved whatever they hold
                *(f"-D{define}" for define in defines),
                *("-I", HERE / "include", HERE / "block.cpp", "-o", library),
            ],
            check=True,
        )
        run = ctypes.CDLL(str(library)).run
        run.restype = ctypes.c_char_p
        found: Callable[..., bytes | None] = run
        return found
