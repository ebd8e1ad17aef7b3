"""Modules are declared at import, without a driver and without a file."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("cupy")

ROOT = Path(__file__).resolve().parents[2]

DECLARE = """
import sys
from cupyna.kernels import manifest
from cupyna.kernels.variant import Variant

manifest.VARIANTS = (
    Variant("tiny", "float32", 2, threads=128),
    Variant("tiny", "float16", 2, threads=128, hopper=True),
)
from cupyna.kernels.modules import MODULES

import cupy
from cupyna.kernels.store import default_store

assert len(MODULES) == 5, MODULES
for path, module in MODULES.items():
    assert isinstance(module, cupy.RawModule)
    assert module.file_path == str(path)
    assert not path.exists()
for row, arch in manifest.targets():
    assert default_store().path(row, arch) in MODULES
"""

LAZY = """
import sys
import cupyna
unwanted = {"cupy", "cupyna.kernels.modules", "cupyna.kernels.launch", "filelock", "platformdirs"}
assert not unwanted & set(sys.modules), unwanted & set(sys.modules)
"""


@pytest.mark.parametrize("script", [DECLARE, LAZY], ids=["declared", "lazy"])
def test_modules_are_declared_when_their_file_is_imported(script: str, tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "CUPYNA_CACHE_DIR": str(tmp_path / "cache"),
        # No device and, where this hides it, no driver either.
        "CUDA_VISIBLE_DEVICES": "",
    }
    command = [sys.executable, "-W", "error", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "cache").exists()
