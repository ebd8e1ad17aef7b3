"""`cupyna bench` without a GPU: what it lists, compares and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cupyna import cli
from cupyna.arrays import Device
from cupyna.cli import bench
from cupyna.devices import device_spec
from cupyna.profiling.ceilings import Ceilings
from cupyna.profiling.problems import Row
from cupyna.profiling.records import write
from profiling.host_meter import HostMeter

CPU = device_spec(Device("cpu", 0))


@pytest.fixture
def run(capsys, monkeypatch):
    monkeypatch.setattr(bench, "gpus", lambda: ())

    def call(*words: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as exit_:
            cli.main(["bench", *words])
        captured = capsys.readouterr()
        return exit_.value.code, captured.out + captured.err

    return call


def test_problems_and_peers_are_listed(run):
    code, text = run("--list")
    assert code == 0
    for word in ("C strided", "paper-3d", "32x32x32, window 11, head_dim 64", "flex-tiled"):
        assert word in text


def test_files_are_compared(run, tmp_path: Path):
    file = tmp_path / "results.json"
    write(file, {}, [])
    code, text = run("--compare", str(file), str(file))
    assert code == 0 and "no time in common" in text
    file.write_text("{}")
    assert run("--compare", str(file), str(file))[0] == 2


def test_a_suite_needs_a_gpu(run):
    code, text = run("--suite", "cases")
    assert code == 2 and "no NVIDIA GPU" in text
    assert run("--dtype", "int8")[0] == 2


def test_nothing_asked_for_measures_the_cpu(run, monkeypatch):
    called = []
    monkeypatch.setattr(bench, "cpu", lambda: called.append(True))
    assert run()[0] == 0 and called


def test_a_whole_run_prints_and_writes_what_it_found(run, monkeypatch, tmp_path: Path):
    pytest.importorskip("torch")
    small = Row("cases", "small", 2, 2, 8, (6, 8), (3, 3))
    monkeypatch.setattr(bench, "gpus", lambda: ("a GPU",))
    monkeypatch.setattr(bench, "_rows", lambda suites, names: [small])
    monkeypatch.setattr("cupyna.devices.device_spec", lambda device: CPU)
    monkeypatch.setattr("cupyna.profiling.bench.Meter", HostMeter)
    ceilings = Ceilings(1e6, {"float32": 1e6}, is_measured=True)
    monkeypatch.setattr(Ceilings, "measured", lambda dtypes: ceilings)
    file = tmp_path / "results.json"
    words = ("--case", "small", "--method", "naive", "--method", "fused", "--peer", "flash")
    code, text = run(
        *words, "--peer", "natten-naive", "--dtype", "float32", "--rounds", "2", "--out", str(file)
    )
    assert code == 0
    assert "peer natten-naive is missing" in text
    assert "FlashAttention-2, dense, forward: computes in float16" in text
    assert "fused over naive, backward, float32: " in text and "of 1 matched or beaten" in text
    assert "fused, forward, float32: measured over expected" in text
    document = json.loads(file.read_text())
    assert document["rounds"] == 2 and document["ceilings"]["bytes_per_us"] == 1e6
    (found,) = document["measurements"]
    assert found["implementations"]["fused"]["forward+backward"]["median_us"] > 0
    assert run("--compare", str(file), str(file))[0] == 0
    assert run(*words, "--method", "best")[0] == 2
    assert run(*words, "--peer", "best")[0] == 2
