"""Shipped, cached or compiled: every way a cubin can be found, damaged or raced for."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest

from cupyna.kernels import cache as cache_module
from cupyna.kernels.building import Build
from cupyna.kernels.cache import cache_directory, read_record
from cupyna.kernels.compiler import CompilerMissingError
from cupyna.kernels.sources import Sources
from cupyna.kernels.store import INDEX_NAME, Store, cubin_name
from cupyna.kernels.variant import Variant

from .fakes import CountingCompiler

ROOT = Path(__file__).resolve().parents[2]


def fresh(store: Store) -> Store:
    """The same store as another process sees it."""
    return dataclasses.replace(store, sources=Sources(store.sources.root))


def ship(store: Store, *wanted: tuple[Variant, str]) -> None:
    assert isinstance(store.compiler, CountingCompiler)
    job = Build(store.compiler, store.sources, store.shipped, store.cache)
    assert all(outcome.record for outcome in job.run(wanted))


def test_a_path_is_known_before_its_file(
    store: Store, tiny: Variant, counting: CountingCompiler
) -> None:
    path = store.path(tiny, "sm_80")
    assert not path.exists()
    assert store.record(tiny, "sm_80") is None
    assert store.ensure(tiny, "sm_80") == path
    assert path.read_bytes().startswith(b"\x7fELF")
    assert fresh(store).ensure(tiny, "sm_80") == path
    assert counting.count == 1
    record = store.record(tiny, "sm_80")
    assert record is not None
    assert record.compiler == "fake 1.0"
    assert record.resources.registers == 12


def test_everything_that_decides_the_content_is_in_the_name(tiny: Variant) -> None:
    names = {
        cubin_name(tiny, "sm_80", "a", "s"),
        cubin_name(tiny, "sm_90", "a", "s"),
        cubin_name(tiny, "sm_80", "b", "s"),
        cubin_name(tiny, "sm_80", "a", "t"),
        cubin_name(dataclasses.replace(tiny, threads=64), "sm_80", "a", "s"),
        cubin_name(dataclasses.replace(tiny, smem_bytes=64), "sm_80", "a", "s"),
        cubin_name(dataclasses.replace(tiny, defines=(("SCALE", 4),)), "sm_80", "a", "s"),
    }
    assert len(names) == 7


@pytest.mark.parametrize(
    "damage",
    [
        lambda cubin: cubin.write_bytes(b""),
        lambda cubin: cubin.write_bytes(cubin.read_bytes()[:-7]),
        lambda cubin: cubin.write_bytes(cubin.read_bytes()[:200]),
        lambda cubin: cubin.write_bytes(b"text" + cubin.read_bytes()[4:]),
        lambda cubin: cubin.write_bytes(flipped(cubin.read_bytes(), 100)),
        lambda cubin: cubin.write_bytes(flipped(cubin.read_bytes(), -40)),
        lambda cubin: cubin.write_bytes(flipped(cubin.read_bytes(), -12)),
        lambda cubin: cubin.unlink(),
    ],
    ids=[
        "empty",
        "cut",
        "cut in the kernel",
        "not ELF",
        "one byte of the kernel",
        "one byte of the record",
        "another length",
        "gone",
    ],
)
def test_a_damaged_cache_file_is_compiled_again(
    damage: object, store: Store, tiny: Variant, counting: CountingCompiler
) -> None:
    assert callable(damage)
    cubin = store.ensure(tiny, "sm_80")
    whole = cubin.read_bytes()
    damage(cubin)
    assert read_record(cubin) is None
    assert fresh(store).ensure(tiny, "sm_80") == cubin
    assert cubin.read_bytes() == whole
    assert read_record(cubin) is not None
    assert counting.count == 2


def flipped(content: bytes, at: int) -> bytes:
    changed = bytearray(content)
    changed[at] ^= 0xFF
    return bytes(changed)


def test_an_interrupted_write_leaves_nothing(
    store: Store, tiny: Variant, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cache_module.os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        store.ensure(tiny, "sm_80")
    assert [path.suffix for path in store.cache.iterdir()] == [".lock"]


def test_a_change_anywhere_in_the_sources_makes_a_cubin_stale(
    store: Store, tiny: Variant, counting: CountingCompiler
) -> None:
    before = store.ensure(tiny, "sm_80")
    header = store.sources.root / "common" / "two.cuh"
    header.write_text(header.read_text() + "// changed\n")
    changed = fresh(store)
    assert changed.ensure(tiny, "sm_80") != before
    assert counting.count == 2


def test_shipped_cubins_come_first(store: Store, tiny: Variant, counting: CountingCompiler) -> None:
    ship(store, (tiny, "sm_80"))
    installed = dataclasses.replace(fresh(store), compiler=None)
    path = installed.path(tiny, "sm_80")
    assert path.parent == store.shipped
    assert installed.ensure(tiny, "sm_80") == path
    assert installed.ships(tiny, "sm_80")
    assert not installed.ships(tiny, "sm_90")
    assert counting.count == 1
    assert not store.cache.exists()


def test_stale_shipped_cubins_are_refused_and_compiled(
    store: Store, tiny: Variant, counting: CountingCompiler
) -> None:
    ship(store, (tiny, "sm_80"))
    kernel = store.sources.root / tiny.source
    kernel.write_text(kernel.read_text() + "// changed\n")
    changed = fresh(store)
    assert not changed.ships(tiny, "sm_80")
    assert changed.ensure(tiny, "sm_80").parent == store.cache
    assert counting.count == 2


def test_a_damaged_shipped_cubin_is_said_and_compiled(
    store: Store, tiny: Variant, counting: CountingCompiler
) -> None:
    ship(store, (tiny, "sm_80"))
    installed = fresh(store)
    installed.path(tiny, "sm_80").write_bytes(b"\x7fELF")
    with pytest.warns(RuntimeWarning, match="damaged or missing"):
        assert installed.ensure(tiny, "sm_80").parent == store.cache
    assert counting.count == 2


def test_an_unreadable_index_is_said_and_ignored(store: Store, tiny: Variant) -> None:
    ship(store, (tiny, "sm_80"))
    (store.shipped / INDEX_NAME).write_text('{"cubins"')
    with pytest.warns(RuntimeWarning, match="cannot be read"):
        assert fresh(store).path(tiny, "sm_80").parent == store.cache


def test_a_read_only_install_is_never_written(
    store: Store, tiny: Variant, monkeypatch: pytest.MonkeyPatch
) -> None:
    ship(store, (tiny, "sm_80"))
    before = {path: path.stat().st_mtime_ns for path in store.shipped.iterdir()}
    store.shipped.chmod(0o555)
    try:
        installed = fresh(store)
        assert installed.ensure(tiny, "sm_80").parent == store.shipped
        assert installed.ensure(tiny, "sm_90").parent == store.cache
    finally:
        store.shipped.chmod(0o755)
    assert {path: path.stat().st_mtime_ns for path in store.shipped.iterdir()} == before


def test_an_unwritable_cache_becomes_a_temporary_directory_with_one_warning(
    store: Store, tiny: Variant, counting: CountingCompiler, tmp_path: Path
) -> None:
    # A file in the way stops every user, root too.
    (tmp_path / "file").write_text("")
    blocked = dataclasses.replace(store, cache=tmp_path / "file" / "cache")
    with pytest.warns(RuntimeWarning, match="CUPYNA_CACHE_DIR") as caught:
        first = blocked.ensure(tiny, "sm_80")
        second = blocked.ensure(tiny, "sm_90")
        again = blocked.ensure(tiny, "sm_80")
    assert len(caught) == 1
    assert first == again
    assert first.parent == second.parent
    assert first.name == blocked.path(tiny, "sm_80").name
    assert read_record(first) is not None
    assert counting.count == 2


def test_a_filled_cache_serves_where_it_cannot_be_written(
    store: Store, tiny: Variant, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = store.ensure(tiny, "sm_80")

    def refuse(directory: Path) -> Path:
        raise AssertionError(f"asked to write to {directory}")

    monkeypatch.setattr("cupyna.kernels.store.writable_directory", refuse)
    assert fresh(store).ensure(tiny, "sm_80") == path


@pytest.mark.parametrize("error", [OSError("No locks available"), NotImplementedError()])
def test_a_file_system_without_locks_still_works(
    error: Exception, store: Store, tiny: Variant, monkeypatch: pytest.MonkeyPatch
) -> None:
    import filelock

    def acquire(self: object, *args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr(filelock.FileLock, "acquire", acquire)
    assert read_record(store.ensure(tiny, "sm_80")) is not None


def test_without_a_compiler_the_message_names_capability_and_command(
    store: Store, tiny: Variant
) -> None:
    refusal = 'the NVRTC wheel is not installed; install one with: pip install "nvidia-cuda-nvrtc"'
    bare = dataclasses.replace(store, compiler=None, refusal=refusal)
    with pytest.raises(CompilerMissingError) as caught:
        bare.ensure(tiny, "sm_80", (8, 6))
    assert isinstance(caught.value, RuntimeError)
    for part in (tiny.symbol, "compute capability 8.6", "sm_80", "pip install"):
        assert part in str(caught.value)


def test_the_cache_directory_is_chosen_by_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUPYNA_CACHE_DIR", str(tmp_path))
    assert cache_directory() == tmp_path
    cache_directory.cache_clear()
    monkeypatch.delenv("CUPYNA_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_directory().name == "cupyna"


RACER = """
import os, sys, time
from pathlib import Path
sys.path[:0] = sys.argv[2:]
from kernels.fakes import CountingCompiler
from cupyna.kernels.sources import Sources
from cupyna.kernels.store import Store
from cupyna.kernels.variant import Variant

class Slow(CountingCompiler):
    def compile(self, *args):
        time.sleep(0.3)
        return super().compile(*args)

root = Path(sys.argv[1])
store = Store(Sources(root / "src"), root / "none", root / "cache", Slow(root / "ledger"))
row = Variant("tiny", "float32", 2, threads=128, defines=(("SCALE", 3),))
(root / f"ready-{os.getpid()}").touch()
while not (root / "go").exists():
    time.sleep(0.005)
path = store.ensure(row, "sm_80")
assert store.record(row, "sm_80") is not None
print(path)
"""


def test_of_sixteen_processes_one_compiles(
    sources: Sources, counting: CountingCompiler, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", RACER, str(tmp_path), str(ROOT), str(ROOT / "tests")]
    racers = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(16)
    ]
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("ready-*"))) < 16 and time.monotonic() < deadline:
        time.sleep(0.02)
    (tmp_path / "go").touch()
    outputs = [racer.communicate(timeout=60) for racer in racers]
    assert [racer.returncode for racer in racers] == [0] * 16, outputs
    assert len({stdout for stdout, _ in outputs}) == 1
    assert counting.count == 1
    assert len(list((tmp_path / "cache").glob("*.cubin"))) == 1


def test_a_key_is_one_file_that_others_can_read(store: Store, tiny: Variant) -> None:
    cubin = store.ensure(tiny, "sm_80")
    assert cubin.stat().st_mode & 0o444 == 0o444
    assert {path.suffix for path in store.cache.iterdir()} == {".cubin", ".lock"}
    record = read_record(cubin)
    assert record is not None
    assert record.matches(cubin.read_bytes()[: record.size_bytes])


def test_finding_a_cubin_that_is_there_warns_of_nothing(store: Store, tiny: Variant) -> None:
    store.ensure(tiny, "sm_80")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fresh(store).ensure(tiny, "sm_80")
