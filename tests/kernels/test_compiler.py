"""Source + row + architecture -> cubin, by the real compilers."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cupyna.kernels import nvrtc as nvrtc_module
from cupyna.kernels.compiler import (
    Compiler,
    CompilerMissingError,
    compile_variant,
    find_compiler,
)
from cupyna.kernels.nvcc import Nvcc
from cupyna.kernels.nvrtc import Nvrtc
from cupyna.kernels.sources import Sources
from cupyna.kernels.variant import ARCHITECTURES, Variant

ROOT = Path(__file__).resolve().parents[2]

SPILLING = """
extern "C" __global__ void __launch_bounds__(1024, 2) CUPYNA_SYMBOL(float* x) {
  float kept[160];
#pragma unroll
  for (int i = 0; i < 160; ++i) kept[i] = x[i * 1024 + threadIdx.x];
  __syncthreads();
#pragma unroll
  for (int i = 0; i < 160; ++i) x[i * 1024 + threadIdx.x] = kept[159 - i];
}
"""


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_each_architecture_compiles_without_a_gpu(
    arch: str, compiler: Compiler, sources: Sources, tiny: Variant, scratch: Path
) -> None:
    compiled = compile_variant(compiler, sources, tiny, arch, scratch)
    assert compiled.cubin.startswith(b"\x7fELF")
    assert tiny.symbol.encode() in compiled.cubin
    assert compiled.resources.smem_bytes >= 128 * 4
    assert 0 < compiled.resources.registers < 64
    assert compiled.resources.spill_bytes == 0


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_each_dtype_names_a_type_of_the_device(
    dtype: str, compiler: Compiler, sources: Sources, tiny: Variant, scratch: Path
) -> None:
    row = dataclasses.replace(tiny, dtype=dtype)
    compiled = compile_variant(compiler, sources, row, "sm_90", scratch)
    item = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}[dtype]
    # From sm_90 on the system keeps 1024 bytes of each block's shared memory for itself.
    assert compiled.resources.smem_bytes in (128 * item, 128 * item + 1024)


def test_a_cubin_depends_on_content_and_not_on_place(
    compiler: Compiler, sources: Sources, tiny: Variant, scratch: Path, tmp_path: Path
) -> None:
    elsewhere = Sources(tmp_path / "elsewhere")
    shutil.copytree(sources.root, elsewhere.root)
    here = compile_variant(compiler, sources, tiny, "sm_80", scratch)
    there = compile_variant(compiler, elsewhere, tiny, "sm_80", scratch)
    assert here == there
    assert sources.digest == elsewhere.digest


def test_a_wrong_source_raises_with_the_log(
    compiler: Compiler, sources: Sources, tiny: Variant, scratch: Path
) -> None:
    (sources.root / tiny.source).write_text("#include <absent_header.h>\n")
    with pytest.raises(RuntimeError, match=r"(?s)cupyna_tiny_float32_2d.*absent_header\.h"):
        compile_variant(compiler, sources, tiny, "sm_80", scratch)


def test_spills_fail_the_build(
    compiler: Compiler, sources: Sources, tiny: Variant, scratch: Path
) -> None:
    (sources.root / tiny.source).write_text(SPILLING)
    with pytest.raises(RuntimeError, match=r"for sm_80 .* \d+ bytes of register spills"):
        compile_variant(compiler, sources, tiny, "sm_80", scratch)


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc on the path")
def test_nvcc_is_used_where_it_is_asked_for(
    sources: Sources, tiny: Variant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = shutil.which("nvcc")
    assert path is not None
    monkeypatch.setenv("CUPYNA_NVCC", path)
    chosen = find_compiler()
    assert isinstance(chosen, Nvcc)
    assert chosen.identity.startswith("nvcc ")
    compiled = compile_variant(chosen, sources, tiny, "sm_90a", tmp_path)
    assert compiled.cubin.startswith(b"\x7fELF")
    (sources.root / tiny.source).write_text("not C++\n")
    with pytest.raises(RuntimeError, match="error"):
        compile_variant(chosen, sources, tiny, "sm_90a", tmp_path)


def test_an_nvcc_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUPYNA_NVCC", "/absent/nvcc")
    with pytest.raises(
        CompilerMissingError, match="CUPYNA_NVCC names '/absent/nvcc', which is no program"
    ):
        find_compiler()


def _wheel(site: Path, version: str) -> Path:
    library = site / "nvidia" / "cu13" / "lib" / "libnvrtc.so.13"
    library.parent.mkdir(parents=True)
    library.write_bytes(b"")
    information = site / f"nvidia_cuda_nvrtc-{version}.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: nvidia-cuda-nvrtc\nVersion: {version}\n"
    )
    return library


def test_the_newest_wheel_is_chosen_and_an_old_one_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUPYNA_NVCC", raising=False)
    old, new = tmp_path / "old", tmp_path / "new"
    _wheel(old, "13.0.88")
    library = _wheel(new, "13.10.2")
    monkeypatch.setattr(nvrtc_module, "_namespace", lambda: [old / "nvidia", new / "nvidia"])
    assert find_compiler() == Nvrtc(library, "13.10.2")
    monkeypatch.setattr(nvrtc_module, "_namespace", lambda: [old / "nvidia"])
    with pytest.raises(CompilerMissingError, match=r"13\.0\.88, and 13\.4 .*pip install"):
        find_compiler()
    monkeypatch.setattr(nvrtc_module, "_namespace", list)
    with pytest.raises(CompilerMissingError, match=r"not installed.*pip install"):
        find_compiler()


def test_the_wheel_is_found_where_only_the_path_knows_it(compiler: Compiler) -> None:
    """As in the isolated environment of a package build: no site-packages, only `sys.path`."""
    if not isinstance(compiler, Nvrtc):
        pytest.skip("needs the NVRTC wheel")
    script = (
        "import sys; sys.path[:0] = sys.argv[1:]\n"
        "from cupyna.kernels.nvrtc import find_nvrtc; print(find_nvrtc().identity)"
    )
    site = compiler.library.parents[3]
    command = [sys.executable, "-I", "-S", "-c", script, str(ROOT), str(site)]
    environment = {key: value for key, value in os.environ.items() if key != "CUPYNA_NVCC"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == compiler.identity
