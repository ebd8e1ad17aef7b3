"""The installed package: what importing it costs, and what travels in it."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest

import cupyna

PACKAGE = Path(cupyna.__file__).parent
CHECKOUT = Path(__file__).resolve().parents[1]


def run_fresh(code: str) -> str:
    """What a new interpreter prints, with the same cupyna as this one."""
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(
        command, cwd=PACKAGE.parent, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_it_imports_numpy_only():
    code = """
import sys, numpy
before = set(sys.modules)
import cupyna
new = {name.partition(".")[0] for name in set(sys.modules) - before}
print(sorted(new - set(sys.stdlib_module_names) - {"cupyna"}))
"""
    assert run_fresh(code).strip() == "[]"


def test_importing_it_is_quick():
    code = """
import numpy, time
start = time.perf_counter()
import cupyna
print(time.perf_counter() - start)
"""
    assert min(float(run_fresh(code)) for _ in range(3)) < 0.15  # seconds after NumPy


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_forking_before_the_first_call_works():
    code = """
import os
import numpy as np
import cupyna
q = np.ones((1, 16, 16, 2, 8), np.float32)
def works():
    return bool(np.allclose(cupyna.neighborhood_attention(q, q, q, 5), 1))
child = os.fork()
if child == 0:
    os._exit(0 if works() else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), works())
"""
    assert run_fresh(code).split() == ["0", "True"]


def test_type_information_travels():
    assert (PACKAGE / "py.typed").is_file()


def test_device_sources_travel():
    installed = PACKAGE / "_cuda_src"
    if not installed.is_dir():  # in a checkout they lie beside the package
        installed = PACKAGE.parent / "cuda_src"
    assert _sources(installed) == _sources(CHECKOUT / "cuda_src")


def _sources(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.suffix in (".cu", ".cuh")
    }


def test_the_versions_agree():
    assert cupyna.__version__
    try:
        installed = importlib.metadata.version("cupyna")
    except importlib.metadata.PackageNotFoundError:
        return  # a checkout that nobody installed
    assert installed == cupyna.__version__


def test_every_public_name_is_there_and_documented():
    for name in cupyna.__all__:
        documented = getattr(cupyna, name)
        assert name.startswith("__") or documented.__doc__, name
