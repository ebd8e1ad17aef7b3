"""Compiled kernels on disk: one file for each key, published whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from .compiler import Compiled
from .resources import Resources

__all__ = [
    "Record",
    "cache_directory",
    "lock",
    "publish",
    "read_record",
    "writable_directory",
    "write_whole",
]

_ELF = b"\x7fELF"

# What ends a file of the cache: the length of the record before it, and a mark.
_TRAILER = struct.Struct("<Q8s")
_MAGIC = b"cupyna 1"

# A compile takes well under a second; a lock held longer is one that a file system lost.
_LOCK_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of one cubin, kept with it.

    Parameters
    ----------
    sha256 : str
        Of the cubin.
    size_bytes : int
    compiler : str
    resources : Resources
    """

    sha256: str
    size_bytes: int
    compiler: str
    resources: Resources

    @classmethod
    def of(cls, compiled: Compiled, compiler: str) -> Record:
        """Describe a cubin that was just compiled."""
        digest = hashlib.sha256(compiled.cubin).hexdigest()
        return cls(digest, len(compiled.cubin), compiler, compiled.resources)

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Record:
        """Read what `to_json` gave."""
        resources = Resources(**stored["resources"])
        return cls(**{**stored, "resources": resources})

    def to_json(self) -> dict[str, Any]:
        """Give the record as plain objects."""
        return asdict(self)

    def matches(self, content: bytes) -> bool:
        """Whether these bytes are the recorded cubin."""
        return (
            content.startswith(_ELF)
            and len(content) == self.size_bytes
            and hashlib.sha256(content).hexdigest() == self.sha256
        )

    def matches_file(self, cubin: Path) -> bool:
        """Whether the file at `cubin` is the recorded one, to the byte."""
        try:
            return self.matches(cubin.read_bytes())
        except OSError:
            return False


@cache
def cache_directory() -> Path:
    """Directory of kernels compiled on this machine: ``CUPYNA_CACHE_DIR``, or the user's cache."""
    chosen = os.environ.get("CUPYNA_CACHE_DIR")
    if chosen:
        return Path(chosen)
    from platformdirs import user_cache_path

    return user_cache_path("cupyna", appauthor=False)


@cache
def writable_directory(preferred: Path) -> Path:
    """Give `preferred`, or with one warning a temporary directory if it cannot be written."""
    try:
        preferred.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=preferred):
            return preferred
    except OSError as error:
        warnings.warn(
            f"the kernel cache {preferred} cannot be written ({error.strerror}): kernels are "
            "compiled again in every process; set CUPYNA_CACHE_DIR to a directory that can",
            RuntimeWarning,
            stacklevel=2,
        )
        return Path(_temporary_directory().name)


@cache
def _temporary_directory() -> tempfile.TemporaryDirectory[str]:
    # Kept until the interpreter ends, which removes it.
    return tempfile.TemporaryDirectory(prefix="cupyna-")


def publish(compiled: Compiled, compiler: str, cubin: Path) -> Record:
    """Write a cubin so that no reader ever sees half of it.

    Its record follows it in the same file, where the driver, which reads an ELF file by its
    headers, does not look: two files could be of two different writers.
    """
    record = Record.of(compiled, compiler)
    described = json.dumps(record.to_json()).encode()
    write_whole(cubin, compiled.cubin + described + _TRAILER.pack(len(described), _MAGIC))
    return record


def read_record(cubin: Path) -> Record | None:
    """Read the record of a published cubin; None unless the file is whole."""
    try:
        content = cubin.read_bytes()
        length, magic = _TRAILER.unpack(content[-_TRAILER.size :])
        end = len(content) - _TRAILER.size
        record = Record.from_json(json.loads(content[end - length : end]))
    except (OSError, ValueError, TypeError, KeyError, struct.error):
        return None
    is_whole = magic == _MAGIC and record.matches(content[: end - length])
    return record if is_whole else None


@contextmanager
def lock(cubin: Path) -> Iterator[None]:
    """Hold the lock of one key, so that one of many processes compiles it.

    Where a file system has no locks the block runs without: compiling twice is slow, never wrong.
    """
    import filelock

    held = filelock.FileLock(cubin.with_suffix(".lock"), timeout=_LOCK_SECONDS)
    try:
        held.acquire()
    except (OSError, NotImplementedError):
        yield
        return
    try:
        yield
    finally:
        held.release()


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old content or the new, and never a part."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        # Temporary files are private; a cache may be shared.
        temporary.chmod(0o644)
        try:
            temporary.replace(path)
        except PermissionError:
            # Windows does not replace a file that another process reads, and then holds the same.
            if not path.exists():
                raise
    finally:
        temporary.unlink(missing_ok=True)
