"""`cupyna bench` without a GPU: what it lists, compares and refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from cupyna import cli
from cupyna.cli import bench
from cupyna.profiling.records import write


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
