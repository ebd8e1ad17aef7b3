"""The NVRTC wheel as the compiler, by ctypes.

The wheel is found through the `nvidia` namespace package, hence on `sys.path`: in the isolated
environment of a package build it is nowhere else.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["MINIMUM", "Nvrtc", "find_nvrtc"]

# 13.4 is the first that brings the headers of half precision; 13.0 doubles some register counts.
MINIMUM = (13, 4)


@dataclass(frozen=True, slots=True)
class Nvrtc:
    """NVRTC of one directory.

    Parameters
    ----------
    library : Path
        ``libnvrtc.so.13``.
    version : str
        Version of the wheel.
    """

    library: Path
    version: str

    @property
    def identity(self) -> str:
        """Name and version, such as ``nvrtc 13.5.37``."""
        return f"nvrtc {self.version}"

    def compile(
        self, source: Path, arch: str, options: tuple[str, ...], scratch: Path
    ) -> tuple[bytes, str]:
        """Compile `source` for `arch`; see `cupyna.kernels.compiler.Compiler`."""
        headers = scratch / f"nvrtc-headers-{self.version}"
        arguments = (f"-arch={arch}", f"--use-bundled-headers={headers}", *options)
        nvrtc = _load(self.library)
        program = ctypes.c_void_p()
        # The real path as the program's name lets the source include relative to itself.
        created = nvrtc.nvrtcCreateProgram(
            ctypes.byref(program), source.read_bytes(), str(source).encode(), 0, None, None
        )
        _check(nvrtc, created)
        try:
            encoded = (ctypes.c_char_p * len(arguments))(*(text.encode() for text in arguments))
            result = nvrtc.nvrtcCompileProgram(program, len(arguments), encoded)
            log = _output(nvrtc, "nvrtcGetProgramLog", program).decode(errors="replace")
            log = log.rstrip("\0")
            if result:
                raise RuntimeError(log if log else _message(nvrtc, result))
            return _output(nvrtc, "nvrtcGetCUBIN", program), log
        finally:
            nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def find_nvrtc() -> Nvrtc | str:
    """Find the newest NVRTC wheel on `sys.path`, or say why there is none to use."""
    found = [
        Nvrtc(library, _version(library, location))
        for location in _namespace()
        for library in sorted(location.glob("*/lib/libnvrtc.so.*"))
        if "alt" not in library.name
    ]
    if not found:
        return "the NVRTC wheel is not installed"
    newest = max(found, key=lambda nvrtc: _numbers(nvrtc.version))
    if _numbers(newest.version)[:2] < MINIMUM:
        minimum = ".".join(map(str, MINIMUM))
        return f"the NVRTC wheel is version {newest.version}, and {minimum} or newer is needed"
    return newest


def _namespace() -> list[Path]:
    spec = importlib.util.find_spec("nvidia")
    if spec is None or spec.submodule_search_locations is None:
        return []
    return [Path(location) for location in spec.submodule_search_locations]


def _version(library: Path, location: Path) -> str:
    wheels = importlib.metadata.distributions(name="nvidia-cuda-nvrtc", path=[str(location.parent)])
    for wheel in wheels:
        return wheel.version
    # Unpacked by hand: the file beside it names major and minor.
    builtins = sorted(library.parent.glob("libnvrtc-builtins.so.*"))
    return builtins[-1].name.partition(".so.")[2] if builtins else "0"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


@cache
def _load(library: Path) -> Any:
    # NVRTC opens its built-in functions by name only, and finds them if they are loaded already.
    for builtins in library.parent.glob("libnvrtc-builtins.so.*"):
        if "alt" not in builtins.name:
            ctypes.CDLL(str(builtins), mode=ctypes.RTLD_GLOBAL)
    nvrtc = ctypes.CDLL(str(library))
    nvrtc.nvrtcGetErrorString.restype = ctypes.c_char_p
    return nvrtc


def _output(nvrtc: Any, getter: str, program: ctypes.c_void_p) -> bytes:
    size = ctypes.c_size_t()
    _check(nvrtc, getattr(nvrtc, f"{getter}Size")(program, ctypes.byref(size)))
    buffer = ctypes.create_string_buffer(size.value)
    _check(nvrtc, getattr(nvrtc, getter)(program, buffer))
    return buffer.raw


def _check(nvrtc: Any, result: int) -> None:
    if result:
        raise RuntimeError(_message(nvrtc, result))


def _message(nvrtc: Any, result: int) -> str:
    text: bytes = nvrtc.nvrtcGetErrorString(result)
    return f"NVRTC: {text.decode()}"
