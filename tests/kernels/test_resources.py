"""What is read from the assembler's report."""

from __future__ import annotations

from pathlib import Path

import pytest

from cupyna.kernels.resources import Resources, complaints, parse_report, read_golden, write_golden

from .fakes import REPORT

SPILLED = """\
ptxas info    : Function properties for inner
ptxas         .     16 bytes stack frame, 4 bytes spill stores, 8 bytes spill loads
ptxas info    : Compiling entry function 'tiny' for 'sm_90a'
ptxas info    : Function properties for tiny
ptxas         .     72 bytes stack frame, 20 bytes spill stores, 28 bytes spill loads
ptxas info    : Used 32 registers, used 0 barriers, 72 bytes cumulative stack size
"""


def test_a_report_is_read() -> None:
    assert parse_report(REPORT) == Resources(12, 512, 0, 0)
    assert parse_report(SPILLED) == Resources(32, 0, 72, 60)


@pytest.mark.parametrize("log", ["", REPORT + REPORT])
def test_a_log_without_one_report_is_refused(log: str) -> None:
    with pytest.raises(RuntimeError, match="report of one kernel"):
        parse_report(log)


@pytest.mark.parametrize(
    ("note", "expected"),
    [
        (
            "ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async instructions are "
            "serialized due to insufficient register resources",
            "serialized",
        ),
        (
            "ptxas info    : (C7508) setmaxnreg ignored to maintain minimum register requirement",
            "setmaxnreg ignored",
        ),
    ],
)
def test_notes_of_lost_speed_are_complaints(note: str, expected: str) -> None:
    (complaint,) = complaints(f"{note}\n{REPORT}", parse_report(REPORT))
    assert expected in complaint


def test_spills_are_complaints() -> None:
    assert complaints(REPORT, parse_report(REPORT)) == ()
    assert complaints(SPILLED, parse_report(SPILLED)) == ("60 bytes of register spills",)


def test_the_recorded_table_comes_back(tmp_path: Path) -> None:
    table = {
        "b": {"sm_90": Resources(32, 0, 0, 0), "sm_80": Resources(40, 1024, 8, 0)},
        "a": {"sm_90a": Resources(168, 0, 0, 0)},
    }
    path = tmp_path / "resources.json"
    write_golden("nvrtc 13.5", table, path)
    assert read_golden(path) == ("nvrtc 13.5", table)
    assert read_golden(tmp_path / "absent.json") == ("", {})
