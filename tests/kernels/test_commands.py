"""`cupyna build`, `kernels` and `doctor` as a user calls them."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from cupyna.kernels.machine import Gpu
from cupyna.kernels.resources import read_golden, write_golden
from cupyna.kernels.sources import Sources
from cupyna.kernels.store import Store
from cupyna.kernels.variant import Variant

from .fakes import REPORT, CountingCompiler

build_module = import_module("cupyna.cli.build")
kernels_module = import_module("cupyna.cli.kernels")
doctor_module = import_module("cupyna.cli.doctor")


def call(command: Callable[..., None], *words: str) -> Any:
    app = typer.Typer()
    app.command()(command)
    return CliRunner().invoke(app, list(words))


@pytest.fixture
def machine(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    sources: Sources,
    counting: CountingCompiler,
    tiny: Variant,
) -> Store:
    """A checkout with one kernel, an empty package directory and a compiler that counts."""
    store = Store(sources, tmp_path / "shipped", tmp_path / "cache", counting)
    golden = tmp_path / "resources.json"
    monkeypatch.setattr("cupyna.kernels.manifest.VARIANTS", (tiny,))
    monkeypatch.setenv("CUPYNA_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(build_module, "find_compiler", lambda: counting)
    monkeypatch.setattr(build_module, "installed_sources", lambda: sources)
    monkeypatch.setattr(build_module, "GOLDEN_FILE", golden)
    monkeypatch.setattr(build_module, "gpus", lambda: ())
    monkeypatch.setattr(kernels_module, "default_store", lambda: store)
    monkeypatch.setattr(kernels_module, "read_golden", lambda: read_golden(golden))
    return store


def out(store: Store) -> tuple[str, str]:
    return "--out", str(store.shipped)


def test_all_builds_every_architecture_and_the_list_says_so(machine: Store) -> None:
    done = call(build_module.build, "--all", "-j", "1", *out(machine))
    assert done.exit_code == 0, done.output
    assert "4 cubins" in done.output
    listed = json.loads(call(kernels_module.kernels, "--json").output)
    assert [(row["arch"], row["state"], row["registers"]) for row in listed] == [
        (arch, "shipped", 12) for arch in ("sm_80", "sm_90", "sm_100", "sm_120")
    ]
    assert all(row["smem_bytes"] == 512 and row["spill_bytes"] == 0 for row in listed)
    table = call(kernels_module.kernels, "--arch", "sm_90").output
    assert "cupyna_tiny_float32_2d_scale3" in table
    assert "1 kernels" in table


def test_architectures_are_chosen_by_name_or_by_the_gpus_here(
    machine: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = call(build_module.build, "--arch", "sm_80", "--arch", "sm_100", "-j1", *out(machine))
    assert "2 cubins" in done.output
    monkeypatch.setattr(build_module, "gpus", lambda: (Gpu("A10", (8, 6), "580.1"),) * 2)
    assert "1 cubins" in call(build_module.build, "-j1", *out(machine)).output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "no GPU that kernels are built for"),
        (("--arch", "sm_75"), "sm_75 is not one of"),
        (("--all", "--arch", "sm_80"), "exclude each other"),
        (("--all", "--record"), "needs --all, and NVRTC"),
        (("-j0", "--all"), "Invalid value for"),
    ],
)
def test_wrong_words_are_refused(words: tuple[str, ...], message: str, machine: Store) -> None:
    done = call(build_module.build, *words, *out(machine))
    assert done.exit_code == 2
    assert message in " ".join(done.output.replace("│", " ").split())
    assert not machine.shipped.exists()


def test_a_build_that_spills_fails(machine: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    log = REPORT.replace("0 bytes spill loads", "4 bytes spill loads")
    spilling = CountingCompiler(machine.shipped.parent / "ledger", log=log)
    monkeypatch.setattr(build_module, "find_compiler", lambda: spilling)
    done = call(build_module.build, "--all", "-j1", *out(machine))
    assert done.exit_code == 1
    assert "4 bytes of register spills" in done.output


def test_without_a_compiler_the_command_is_named(
    machine: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUPYNA_NVCC", raising=False)
    monkeypatch.undo()
    monkeypatch.setattr("cupyna.kernels.nvrtc._namespace", list)
    done = call(build_module.build, "--all")
    assert done.exit_code == 1
    assert "pip install" in done.output


def test_the_record_is_what_was_built(machine: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    renamed = CountingCompiler(machine.shipped.parent / "ledger", identity="nvrtc 13.9")
    monkeypatch.setattr(build_module, "find_compiler", lambda: renamed)
    golden = machine.shipped.parent / "resources.json"
    elsewhere = str(machine.shipped.parent / "elsewhere")
    monkeypatch.setattr(
        build_module,
        "write_golden",
        lambda compiler, table: write_golden(compiler, table, golden),
    )
    assert call(build_module.build, "--all", "--record", "-j1", "--out", elsewhere).exit_code == 0
    compiler, table = read_golden(golden)
    assert compiler == "nvrtc 13.9"
    assert set(table["cupyna_tiny_float32_2d_scale3"]) == {"sm_80", "sm_90", "sm_100", "sm_120"}
    # A kernel that is not built here is listed with what was recorded for it.
    listed = json.loads(call(kernels_module.kernels, "--json", "--arch", "sm_80").output)
    assert [(row["state"], row["registers"]) for row in listed] == [("not built", 12)]


def test_the_doctor_answers_on_this_machine() -> None:
    done = call(doctor_module.doctor)
    assert done.exit_code == 0, done.output
    assert "NumPy" in done.output
    assert "runs" in done.output
