"""Ahead-of-time builds: what they write, keep, remove and refuse."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import pytest

from cupyna.kernels.building import Build, Outcome
from cupyna.kernels.compiler import Compiler
from cupyna.kernels.sources import Sources
from cupyna.kernels.store import INDEX_NAME, Store
from cupyna.kernels.variant import Variant

from .fakes import REPORT, CountingCompiler


@pytest.fixture
def job(sources: Sources, counting: CountingCompiler, tmp_path: Path) -> Build:
    return Build(counting, sources, tmp_path / "out", tmp_path / "scratch")


def again(job: Build) -> Build:
    return dataclasses.replace(job, sources=Sources(job.sources.root))


def cubins(job: Build) -> set[str]:
    return {path.name for path in job.output.glob("*.cubin")}


def test_the_index_describes_every_file(job: Build, tiny: Variant) -> None:
    outcomes = list(job.run([(tiny, arch) for arch in tiny.architectures]))
    assert [outcome.arch for outcome in outcomes] == list(tiny.architectures)
    index = json.loads((job.output / INDEX_NAME).read_text())
    assert index["compiler"] == "fake 1.0"
    assert index["source_digest"] == job.sources.digest
    assert index["flags"][0] == "-std=c++17"
    assert set(index["cubins"]) == cubins(job)
    for name, entry in index["cubins"].items():
        content = (job.output / name).read_bytes()
        assert entry["sha256"] == hashlib.sha256(content).hexdigest()
        assert entry["size_bytes"] == len(content)
        assert entry["resources"]["registers"] == 12
    assert {path.suffix for path in job.output.iterdir()} == {".cubin", ".json"}


def test_what_is_there_is_kept_and_not_compiled_again(
    job: Build, tiny: Variant, counting: CountingCompiler
) -> None:
    list(job.run([(tiny, "sm_80")]))
    outcomes = list(again(job).run([(tiny, "sm_90"), (tiny, "sm_80")]))
    assert counting.count == 2
    assert all(outcome.record for outcome in outcomes)
    assert len(cubins(job)) == 2


def test_a_damaged_file_is_built_again(
    job: Build, tiny: Variant, counting: CountingCompiler
) -> None:
    list(job.run([(tiny, "sm_80")]))
    (name,) = cubins(job)
    (job.output / name).write_bytes(b"")
    list(again(job).run([(tiny, "sm_80")]))
    assert counting.count == 2
    assert (job.output / name).stat().st_size > 4


def test_stale_files_go(job: Build, tiny: Variant) -> None:
    list(job.run([(tiny, "sm_80"), (tiny, "sm_90")]))
    before = cubins(job)
    header = job.sources.root / "common" / "two.cuh"
    header.write_text(header.read_text() + "// changed\n")
    list(again(job).run([(tiny, "sm_80")]))
    assert len(cubins(job)) == 1
    assert not cubins(job) & before


def test_a_failure_is_an_outcome_and_is_not_in_the_index(job: Build, tiny: Variant) -> None:
    absent = dataclasses.replace(tiny, family="absent")
    (job.sources.root / absent.source).write_text("//")
    spilled = CountingCompiler(
        job.compiler.ledger,  # type: ignore[attr-defined]
        log=REPORT.replace("0 bytes spill stores", "8 bytes spill stores"),
    )
    failing = dataclasses.replace(job, compiler=spilled)
    (outcome,) = failing.run([(absent, "sm_80")])
    assert isinstance(outcome, Outcome)
    assert outcome.record is None
    assert "8 bytes of register spills" in outcome.error
    assert cubins(job) == set()
    assert json.loads((job.output / INDEX_NAME).read_text())["cubins"] == {}


def test_processes_build_what_one_builds(
    sources: Sources, compiler: Compiler, tiny: Variant, scratch: Path, tmp_path: Path
) -> None:
    rows = [dataclasses.replace(tiny, defines=(("SCALE", scale),)) for scale in range(4)]
    wanted = [(row, arch) for row in rows for arch in ("sm_80", "sm_90")]
    outputs = []
    for jobs in (1, 2):
        job = Build(compiler, sources, tmp_path / str(jobs), scratch)
        outcomes = list(job.run(wanted, jobs))
        assert len(outcomes) == len(wanted)
        assert all(outcome.record for outcome in outcomes)
        outputs.append({path.name: path.read_bytes() for path in job.output.iterdir()})
    assert outputs[0] == outputs[1]
    shipped = Store(sources, tmp_path / "2", tmp_path / "cache", None)
    for row, arch in wanted:
        assert shipped.ensure(row, arch).parent == tmp_path / "2"
