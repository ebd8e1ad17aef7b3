"""Files of results, and what is told of them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from rich.console import Console

from cupyna.profiling.problems import find
from cupyna.profiling.records import FORMAT, Journal, Measurement, Record, compare, write
from cupyna.profiling.report import (
    comparison_table,
    expectations,
    leads,
    problem_table,
    summary,
    table,
)
from cupyna.profiling.timing import Times
from cupyna.tolerance import Deviation


def _measurement(median_us: float) -> Measurement:
    row = find("H")
    found = Measurement(row.suite, row.name, row.problem("float16"))
    record = Record()
    record.times["forward"] = Times((median_us, median_us + 5, median_us - 5))
    record.is_graph["forward"] = True
    record.peak_bytes["forward"] = 1024
    record.about["forward"] = {"kernel": "cupyna_some"}
    record.deviations["forward"] = {"out": Deviation(1e-3, 2e-3, 1e-4, 2e-4, 1.0)}
    record.refused["backward"] = "has none"
    found.records["fused"] = record
    found.records["peer"] = Record(refused={"forward": "wrong: out"})
    return found


def test_a_file_holds_times_errors_and_reasons(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "results.json"
    write(path, {"rounds": 3}, [_measurement(100.0)])
    document = json.loads(path.read_text("utf-8"))
    assert document["rounds"] == 3
    (found,) = document["measurements"]
    assert (found["problem"], found["dtype"], found["dilation"]) == ("H", "float16", [8, 8])
    # 4 operations for each of 32 * 4 heads, 112^2 tokens, 49 keys and 32 channels
    forward_flops = 4 * 32 * 4 * 112**2 * 49 * 32
    assert found["useful_flops"] == {
        "forward": forward_flops,
        "backward": 5 * forward_flops // 2,
        "forward+backward": 7 * forward_flops // 2,
    }
    forward = found["implementations"]["fused"]["forward"]
    assert forward["median_us"] == 100.0 and forward["most_us"] == 105.0
    assert forward["rounds"] == 3 and forward["timed"] == "graph"
    assert forward["errors"]["out"] == {"largest": 1e-3, "allowed": 2e-3}
    assert found["implementations"]["fused"]["backward"] == {"refused": "has none"}
    assert found["implementations"]["peer"]["forward"]["refused"] == "wrong: out"
    assert not list(path.parent.glob("*.part"))


def test_a_file_that_grows_is_whole_at_any_time(tmp_path: Path) -> None:
    path = tmp_path / "growing.json"
    measured = [_measurement(time_us).to_json() for time_us in (1.0, 2.0, 3.0)]
    journal = Journal(path, interval_s=60.0)
    for i in range(3):
        journal.add({"rounds": i}, _measurement(i + 1.0))
        assert len(json.loads(path.read_text("utf-8"))["measurements"]) == 1
    journal.close()
    whole = {"format": FORMAT, "rounds": 2, "measurements": measured}
    assert path.read_text("utf-8") == json.dumps(whole, indent=1) + "\n"


def test_two_files_are_compared_where_they_share_a_time(tmp_path: Path) -> None:
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    write(first, {}, [_measurement(100.0)])
    write(second, {}, [_measurement(50.0)])
    (one,) = compare(first, second)
    assert (one.problem, one.implementation, one.direction) == ("H", "fused", "forward")
    assert one.ratio == 2.0
    shown, line = comparison_table([one])
    assert shown.row_count == 1
    assert line.startswith("1 times; geometric mean 2.000") and "0 slower" in line
    assert comparison_table([])[1] == "the files have no time in common"
    second.write_text("{}")
    with pytest.raises(ValueError, match=r"second\.json is no file of"):
        compare(first, second)


def test_what_may_be_rounded_to_tf32_is_apart(tmp_path: Path) -> None:
    row, files = find("E"), []
    for allowed in (False, True):
        problem = dataclasses.replace(row.problem("float32"), allow_tf32=allowed)
        found = Measurement(row.suite, row.name, problem, _measurement(10.0).records)
        files.append(tmp_path / f"{allowed}.json")
        write(files[-1], {}, [found])
    assert compare(*files) == []
    (one,) = compare(files[1], files[1])
    assert one.dtype == "float32, TF32 allowed"


def test_tables_show_what_was_found() -> None:
    console = Console(width=200, record=True)
    console.print(table([_measurement(1000.0)]))
    text = console.export_text()
    assert "1.000 (10)" in text  # 10 TFLOP/s: 10 GFLOP in a millisecond
    assert summary([_measurement(1.0)]) == [
        "1 x fused, backward: has none", "1 x peer, forward: wrong: out",
    ]  # fmt: skip
    assert problem_table().row_count > 200


def test_the_lead_of_a_method_names_its_least_one() -> None:
    found = [_measurement(100.0), _measurement(100.0)]
    found[1].name = "other"
    for measurement, time_us in zip(found, (400.0, 90.0), strict=True):
        measurement.records["peer"].times["forward"] = Times((time_us,))
    assert leads(found) == [
        "fused over peer, forward, float16: 1.90x (0.90x at other, to 4.00x), "
        "50% of 2 matched or beaten"
    ]
    assert leads([_measurement(1.0)]) == []


def test_cost_models_are_held_to_what_was_measured() -> None:
    found = [_measurement(100.0), _measurement(100.0)]
    found[1].name = "other"
    for measurement, expected_us in zip(found, (50.0, 200.0), strict=True):
        about = {"forward": {"backend": "cuda-fused", "expected_us": expected_us}}
        measurement.records["fused"].about["forward"] = about
    assert expectations(found) == [
        "fused, forward, float16: measured over expected 1.00x, 0.50x at other, 2.00x at H"
    ]


def test_an_unknown_problem_is_named() -> None:
    with pytest.raises(ValueError, match="no problem is called 'Z'"):
        find("Z")
