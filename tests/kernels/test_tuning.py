"""What is measured once is found again, and nothing else is taken for it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cupyna.kernels import cache, tuning
from cupyna.kernels.fused import tuning as fused_tuning
from cupyna.kernels.fused.heuristics import fused_choices
from cupyna.kernels.fused.tuning import Passes, fastest_passes, model_passes
from cupyna.problem import DeviceSpec, Operation, Problem

H200 = DeviceSpec("NVIDIA H200", "cuda", 0, 132, (9, 0), 232448, 60 << 20, 4.8e6, 6.7e7)
PROBLEM = Problem(
    2, (40, 33), 4, 2, 64, 64, "float16", (9, 12), (1, 3), (2, 1), (False, True)
)  # fmt: skip
OPERATIONS: tuple[Operation, ...] = ("forward", "backward")
each_operation = pytest.mark.parametrize("operation", OPERATIONS)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("CUPYNA_CACHE_DIR", str(tmp_path))
    cache.cache_directory.cache_clear()
    fused_tuning._known.clear()
    yield tmp_path / "tuned"
    cache.cache_directory.cache_clear()
    fused_tuning._known.clear()


class Machine:
    """Times by a rule instead of by a clock, and counts what was measured."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, time_us: Callable[[Passes], float]) -> None:
        self.measured = 0
        self.is_capturing = False
        self._time_us = time_us
        monkeypatch.setattr(tuning, "repeated_us", self._repeated_us)
        monkeypatch.setattr(tuning, "is_capturing", lambda stream: self.is_capturing)

    def _repeated_us(self, run: Callable[[], Passes], device: int, stream: int) -> float:
        self.measured += 1
        return self._time_us(run())

    def passes(self, operation: Operation, problem: Problem = PROBLEM) -> Passes:
        return fused_tuning.tuned_passes(problem, operation, H200, 0, lambda passes: lambda: passes)


def fastest_tiles(passes: Passes) -> float:
    """A machine that likes short last axes of rows, and two passes."""
    return sum(chosen.row_tile[-1] + 100.0 * chosen.shape.sums_queries for chosen in passes)


def test_the_fastest_candidate_wins() -> None:
    [forward], time_us = fastest_passes(PROBLEM, "forward", H200, fastest_tiles)
    listed = fused_choices(PROBLEM, H200, "forward")
    assert forward in listed
    assert forward.row_tile[-1] < listed[0].row_tile[-1]
    assert time_us == forward.row_tile[-1]
    backward, _ = fastest_passes(PROBLEM, "backward", H200, fastest_tiles)
    assert [chosen.shape.side for chosen in backward] == ["query", "key"]


def test_one_pass_over_keys_is_a_candidate() -> None:
    fastest, _ = fastest_passes(PROBLEM, "backward", H200, lambda passes: float(len(passes)))
    assert [chosen.shape.sums_queries for chosen in fastest] == [True]
    bound = replace(PROBLEM, deterministic=True)
    fastest, _ = fastest_passes(bound, "backward", H200, lambda passes: float(len(passes)))
    assert [chosen.shape.sums_queries for chosen in fastest] == [False, False]


def test_the_model_decides_where_times_are_alike() -> None:
    [forward], _ = fastest_passes(PROBLEM, "forward", H200, lambda passes: 1.0)
    assert (forward,) == model_passes(PROBLEM, "forward", H200)


@each_operation
def test_every_shape_is_tried(operation: Operation) -> None:
    tried = set()

    def time_us(passes: Passes) -> float:
        tried.update(chosen.shape for chosen in passes)
        return 1.0

    fastest_passes(PROBLEM, operation, H200, time_us)
    sides = ("forward",) if operation == "forward" else ("query", "key", "both")
    for side in sides:
        [best, *_] = fused_choices(PROBLEM, H200, side)
        near = [c for c in fused_choices(PROBLEM, H200, side) if c.time_us < 2 * best.time_us]
        assert {choice.shape for choice in near} <= tried


@each_operation
def test_a_problem_is_measured_once(
    operation: Operation, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    machine = Machine(monkeypatch, fastest_tiles)
    passes = machine.passes(operation)
    measured = machine.measured
    assert measured > len(passes)
    assert machine.passes(operation) == passes
    fused_tuning._known.clear()  # as a new process would begin
    assert machine.passes(operation) == passes
    assert machine.measured == measured
    machine.passes(operation, replace(PROBLEM, batch=3))
    assert machine.measured > measured
    assert len(list(folder.iterdir())) == 2


def test_what_was_measured_for_something_else_is_not_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tuning.remember("fused", PROBLEM, "forward", H200, {"passes": []})
    assert tuning.recall("fused", PROBLEM, "forward", replace(H200, index=3)) is not None
    assert tuning.recall("gemm", PROBLEM, "forward", H200) is None
    assert tuning.recall("fused", PROBLEM, "backward", H200) is None
    assert tuning.recall("fused", replace(PROBLEM, allow_tf32=True), "forward", H200) is None
    assert tuning.recall("fused", PROBLEM, "forward", replace(H200, processors=114)) is None
    sources = type("Sources", (), {"digest": "of other sources"})
    monkeypatch.setattr(tuning, "installed_sources", lambda: sources)
    tuning._path.cache_clear()
    assert tuning.recall("fused", PROBLEM, "forward", H200) is None
    tuning._path.cache_clear()


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "[]",
        lambda text: '{"passes": []}',
        lambda text: text.replace('"row_tile": [', '"row_tile": [3, '),
        lambda text: text.replace("_float16_", "_float32_"),
    ],
)
def test_a_damaged_file_is_measured_again(
    damage: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    machine = Machine(monkeypatch, fastest_tiles)
    passes = machine.passes("forward")
    [path] = folder.iterdir()
    whole = path.read_text()
    assert json.loads(whole)["time_us"] > 0
    path.write_text(damage(whole))
    fused_tuning._known.clear()
    before = machine.measured
    assert machine.passes("forward") == passes
    assert machine.measured > before
    assert path.read_text() == whole


def test_nothing_is_measured_while_a_graph_is_captured(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    machine = Machine(monkeypatch, fastest_tiles)
    machine.is_capturing = True
    assert machine.passes("backward") == model_passes(PROBLEM, "backward", H200)
    assert machine.measured == 0
    assert not folder.exists()
    machine.is_capturing = False
    machine.passes("backward")
    assert machine.measured > 0
