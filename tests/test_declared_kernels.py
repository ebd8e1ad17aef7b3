"""The method modules declare the kernels of CuPy; the package itself does not."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import sys
{block}
import cupyna
assert "cupyna.kernels.modules" not in sys.modules
import cupyna.{method}
print("cupyna.kernels.modules" in sys.modules)
"""


def run(method: str, block: str = "") -> str:
    program = PROGRAM.format(method=method, block=block)
    return subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.mark.parametrize("method", ["naive", "gemm", "fused"])
def test_a_method_declares_its_kernels_where_cupy_is(method: str) -> None:
    assert run(method) == "True"


def test_without_cupy_the_modules_serve_the_cpu() -> None:
    assert run("naive", block="sys.modules['cupy'] = None") == "False"
