"""Where the device sources are, and what they contain."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

__all__ = ["PACKAGE", "Sources", "installed_sources"]

PACKAGE = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Sources:
    """A tree of device sources, which is also the one include directory.

    Parameters
    ----------
    root : Path
    """

    root: Path

    @cached_property
    def digest(self) -> str:
        """Digest of every source and header.

        A header may be included by any kernel: one changed line makes every cubin stale, which
        costs less than a list of dependencies that is wrong once.
        """
        digest = hashlib.sha256()
        files = [path for path in self.root.rglob("*") if path.suffix in (".cu", ".cuh")]
        for path in sorted(files, key=lambda path: path.relative_to(self.root).as_posix()):
            # A checkout with converted line ends holds the same sources.
            text = path.read_bytes().replace(b"\r\n", b"\n")
            digest.update(f"{path.relative_to(self.root).as_posix()}:{len(text)}:".encode())
            digest.update(text)
        return digest.hexdigest()


@cache
def installed_sources() -> Sources:
    """Find the device sources of this installation, or of the checkout it runs from."""
    packaged = PACKAGE / "_cuda_src"
    return Sources(packaged if packaged.is_dir() else PACKAGE.parent / "cuda_src")
