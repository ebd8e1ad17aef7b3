"""An nvcc of the user's choice as the compiler."""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

__all__ = ["Nvcc"]


@dataclass(frozen=True)
class Nvcc:
    """The CUDA toolkit's compiler driver.

    Parameters
    ----------
    path : str
    """

    path: str

    @cached_property
    def identity(self) -> str:
        """Name and version, such as ``nvcc 13.0.88``."""
        printed = subprocess.run(
            [self.path, "--version"], capture_output=True, text=True, check=True
        ).stdout
        found = re.search(r"\bV(\d+(?:\.\d+)+)", printed)
        return f"nvcc {found[1] if found else printed.strip()}"

    def compile(
        self,
        source: Path,
        arch: str,
        options: tuple[str, ...],
        scratch: Path,
    ) -> tuple[bytes, str]:
        """Compile `source` for `arch`; see `cupyna.kernels.compiler.Compiler`."""
        target = f"arch={arch.replace('sm_', 'compute_')},code={arch}"
        with tempfile.TemporaryDirectory(prefix="cupyna-nvcc-") as directory:
            output = Path(directory) / "kernel.cubin"
            command = [self.path, "-cubin", "-gencode", target, *options, "-o", str(output)]
            done = subprocess.run(
                [*command, str(source)], capture_output=True, text=True, check=False
            )
            log = done.stdout + done.stderr
            if done.returncode:
                raise RuntimeError(log)
            return output.read_bytes(), log
