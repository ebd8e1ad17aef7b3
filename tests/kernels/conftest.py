"""Stores of a tiny kernel; most of them compile nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from cupyna.kernels import cache
from cupyna.kernels.compiler import Compiler, CompilerMissingError, find_compiler
from cupyna.kernels.sources import Sources
from cupyna.kernels.store import Store
from cupyna.kernels.variant import Variant

from .fakes import TINY, CountingCompiler


@pytest.fixture
def tiny() -> Variant:
    return Variant("tiny", "float32", 2, threads=128, defines=(("SCALE", 3),))


@pytest.fixture
def sources(tmp_path: Path) -> Sources:
    root = tmp_path / "src"
    (root / "kernels").mkdir(parents=True)
    (root / "common").mkdir()
    (root / "common" / "two.cuh").write_text("#pragma once\nconstexpr int two = 2;\n")
    (root / "kernels" / "tiny.cu").write_text(TINY)
    return Sources(root)


@pytest.fixture
def counting(tmp_path: Path) -> CountingCompiler:
    return CountingCompiler(tmp_path / "ledger")


@pytest.fixture
def store(tmp_path: Path, sources: Sources, counting: CountingCompiler) -> Store:
    return Store(sources, tmp_path / "shipped", tmp_path / "cache", counting)


@pytest.fixture(scope="session")
def compiler() -> Compiler:
    try:
        return find_compiler()
    except CompilerMissingError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One directory for the compiler's headers: unpacking them is the slow part."""
    return tmp_path_factory.mktemp("scratch")


@pytest.fixture(autouse=True)
def _forget_directories() -> None:
    cache.cache_directory.cache_clear()
    cache.writable_directory.cache_clear()
