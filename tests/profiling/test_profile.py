"""Work, traffic and occupancy of one call, and what `cupyna profile` says without a GPU."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given

from cupyna import cli
from cupyna.arrays import Device
from cupyna.cli import profile as command
from cupyna.devices import device_spec
from cupyna.dispatch import select
from cupyna.execution import Choice
from cupyna.kernels.variant import Variant
from cupyna.problem import Problem
from cupyna.profiling import ncu
from cupyna.profiling.ceilings import Ceilings
from cupyna.profiling.counts import call_counts
from cupyna.profiling.gpus import GPUS
from cupyna.profiling.ncu import parse
from cupyna.profiling.occupancy import occupancies, occupancy
from cupyna.profiling.problems import find
from cupyna.profiling.profile import predicted
from cupyna.profiling.roofline import draw
from cupyna.testing import problems
from cupyna.tiles import useful_pairs
from profiling.host_meter import HostMeter

H200 = GPUS["H200"].spec
CPU = device_spec(Device("cpu", 0))


@given(problem=problems(max_tokens=300))
def test_pairs_are_those_of_the_windows(problem: Problem) -> None:
    seen = 1
    for axis in problem.axes:
        seen = seen * int(axis.neighbors()[1].sum())
    assert useful_pairs(problem) == problem.batch * problem.heads * seen


def test_operations_and_bytes_of_a_call() -> None:
    # 2 heads of 8 channels, 64 tokens, 3 keys: by hand
    problem = Problem(1, (64,), 2, 2, 8, 8, "float16", (3,), (1,), (1,), (False,))
    tensor = 64 * 2 * 8 * 2
    forward = call_counts(problem, "forward", Choice(""), H200)
    assert forward.useful_flops == forward.computed_flops == 2 * 64 * 3 * 8 * 4
    assert forward.least_bytes == forward.asked_bytes == forward.moved_bytes == 4 * tensor
    backward = call_counts(problem, "backward", Choice(""), H200)
    assert backward.useful_flops == 5 * forward.useful_flops // 2
    assert backward.least_bytes == 8 * tensor + 64 * 2 * 4
    stored = Choice("", workspace_bytes=2 * H200.l2_bytes)
    unfused = call_counts(problem, "forward", stored, H200)
    assert unfused.moved_bytes == 4 * tensor + 8 * H200.l2_bytes
    other = call_counts(problem, "forward", stored, H200, stores_weights=False)
    assert other.moved_bytes == 4 * tensor + 4 * H200.l2_bytes
    cached = call_counts(problem, "forward", replace(stored, workspace_bytes=1000), H200)
    assert cached.moved_bytes == 4 * tensor < cached.asked_bytes
    tiled = Choice("", q_tile=(16,), kv_tile=(16,), computed_products=64 * 2 * 32)
    fused = call_counts(problem, "forward", tiled, H200)
    # Four tiles read their queries and boxes of 17 or 18 keys and values.
    assert fused.asked_bytes == 2 * tensor + (17 + 18 + 18 + 17) * 2 * 16 * 2
    assert fused.computed_flops == 2 * 64 * 32 * 8 * 4
    # Over queries and over keys: scores and gradients of weights twice.
    walks = replace(tiled, useful_products=2 * 64 * 2 * 3, computed_products=2 * 64 * 2 * 32)
    twice = call_counts(problem, "backward", walks, H200)
    assert twice.computed_flops == 7 * 64 * 2 * 32 * 8 * 2
    assert twice.useful_flops == backward.useful_flops


@pytest.mark.parametrize("name", GPUS)
def test_every_named_gpu_is_predicted(name: str) -> None:
    problem = find("E").problem("float16")
    found = predicted(problem, GPUS[name].spec, Ceilings.by_data_sheet(GPUS[name]))
    lines = {line.name: line for line in found.lines}
    for method in ("naive", "fused"):
        line = lines[method]
        assert line.counts is not None and line.time_us > 0
        assert line.flops_per_us < found.ceilings.of("float16")
        assert line.peak_bytes >= problem.least_bytes // 4
    assert lines["naive"].peak_bytes > lines["fused"].peak_bytes
    assert json.loads(json.dumps(found.to_json()))["device"]["name"] == name


@pytest.mark.parametrize(
    ("threads", "registers", "smem_bytes", "blocks", "bound"),
    [
        (128, 168, 23_000, 3, "registers"),  # 168 of 32 lanes, in parts of 256, for 4 warps
        (128, 40, 112 * 1024, 2, "shared memory"),  # 228 KB hold two, with a KB for each
        (128, 40, 114 * 1024, 1, "shared memory"),
        (1024, 32, 0, 2, "threads"),
        (32, 16, 0, 32, "blocks"),
    ],
)
def test_occupancy_follows_from_what_a_kernel_takes(
    threads: int, registers: int, smem_bytes: int, blocks: int, bound: str
) -> None:
    variant = Variant("family", "float16", 0, threads, smem_bytes)
    found = occupancy(variant, (9, 0), registers, smem_bytes)
    assert (found.blocks, found.bound) == (blocks, bound)
    assert found.share == blocks * threads / 2048


def test_a_pattern_stands_for_kernels_that_read_vectors() -> None:
    naive = occupancies("cupyna_naive_*_float16", (9, 0))
    assert len(naive) > 3 and not any("vector0" in one.symbol for one in naive)
    assert occupancies("cupyna_naive_*_float16", (7, 5)) == ()


def test_both_passes_of_backward_are_found() -> None:
    asked = find("E").problem("float16"), "backward", H200
    choice = select(*asked, "fused").choice(*asked)
    found = occupancies(choice.kernel, (9, 0))
    assert [one.symbol for one in found] == choice.kernel.split(" + ") and len(found) == 2


NCU = """==PROF== Connected to process 1
"ID","Kernel Name","gpu__time_duration.sum","dram__bytes_read.sum","dram__bytes_write.sum",\
"lts__t_bytes.sum","l1tex__t_sector_hit_rate.pct","lts__t_sector_hit_rate.pct",\
"sm__pipe_tensor_cycles_active.avg.pct_of_peak_sustained_active",\
"sm__warps_active.avg.pct_of_peak_sustained_active"
"","","ns","byte","byte","byte","%","%","%","%"
"0","first","1,000","100","50","400","40","80","n/a","20"
"1","second","3000","300","0","100","80","40","10","60"
"2","at::cuda::(anonymous namespace)::spin_kernel(long)","9","9","9","9","9","9","9","9"
"3","third","2000","7","0","0","0","0","0","0"
"4","at::cuda::(anonymous namespace)::spin_kernel(long)","9","9","9","9","9","9","9","9"
"""


def test_counters_of_several_kernels_are_added_up() -> None:
    found, other = parse(NCU)
    assert other["kernels"] == 1 and other["dram_bytes"] == 7
    assert found["kernels"] == 2 and found["ncu_time_us"] == 4.0
    assert found["dram_bytes"] == 450 and found["l2_bytes"] == 500
    assert found["l1_hit_share"] == pytest.approx((0.4 * 1 + 0.8 * 3) / 4)
    assert found["tensor_share"] == pytest.approx(0.075)
    assert parse("==ERROR== no permission") == []


def test_counters_that_are_missing_or_late_are_told(monkeypatch) -> None:
    problem = find("D").problem("float16")
    calls = [("naive", "forward"), ("gemm", "forward")]
    monkeypatch.setattr(ncu.shutil, "which", lambda name: None)
    assert ncu.counters(problem, calls) == [{}, {}]
    monkeypatch.setattr(ncu.shutil, "which", lambda name: "ncu")

    def run(command, timeout, **options):
        given = json.loads(command[-1])
        assert given["calls"] == [list(call) for call in calls[: len(given["calls"])]]
        if timeout < 1:
            raise subprocess.TimeoutExpired(command, timeout)
        return subprocess.CompletedProcess(command, 0, NCU, "")

    monkeypatch.setattr(ncu.subprocess, "run", run)
    assert [one["kernels"] for one in ncu.counters(problem, calls)] == [2, 1]
    with pytest.raises(RuntimeError, match="counted 2 of 1 calls"):
        ncu.counters(problem, calls[:1])
    with pytest.raises(RuntimeError, match=r"more than 0\.5 s"):
        ncu.counters(problem, calls, timeout_s=0.5)


def test_a_roofline_is_the_same_file_every_time(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    problem = find("B").problem("float16")
    found = predicted(problem, H200, Ceilings.by_data_sheet(GPUS["H200"]))
    first, second = tmp_path / "first.svg", tmp_path / "folder" / "second.svg"
    draw(found, first)
    draw(found, second)
    assert first.read_bytes() == second.read_bytes()
    draw(found, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


@pytest.fixture
def run(capsys, monkeypatch):
    monkeypatch.setattr(command, "gpus", lambda: ())

    def call(*words: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as exit_:
            cli.main(["profile", *words])
        captured = capsys.readouterr()
        return exit_.value.code, captured.out + captured.err

    return call


def test_without_a_gpu_it_predicts_and_says_so(run, tmp_path: Path):
    file = tmp_path / "profile.json"
    code, text = run("--tokens", "64x64", "--backward", "--json", str(file))
    assert code == 0
    assert "Predicted for the H200" in text and "nothing was run" in text
    stored = json.loads(file.read_text())
    assert not stored["is_measured"] and stored["problem"]["kernel_size"] == [13, 13]
    assert {line["operation"] for line in stored["lines"]} == {"forward", "backward"}
    flops = {line["counts"]["useful_flops"] for line in stored["lines"]
             if line["counts"] and line["operation"] == "forward"}  # fmt: skip
    assert flops == {4 * 16 * 64**2 * 169 * 64}
    assert np.isfinite([line["intensity"] for line in stored["lines"]]).all()


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--tokens", "8x8"], "does not fit"),
        (["--tokens", "64x-1"], "positive integers"),
        (["--tokens", "2x2x2x2"], "1, 2 or 3 sizes"),
        (["--kernel-size", "3x3x3"], "must have 2 sizes"),
        (["--gpu", "H900"], "--gpu must be one of A100"),
        (["--method", "best"], "method must be one of"),
        (["--case", "Z"], "no problem is called"),
    ],
)
def test_what_does_not_fit_is_named(run, words, complaint):
    code, text = run(*words)
    assert complaint in " ".join(text.replace("│", "").split())
    assert code == 2


def test_a_measured_profile_takes_times_from_checked_runs(run, monkeypatch, tmp_path: Path):
    pytest.importorskip("torch")
    monkeypatch.setattr(command, "gpus", lambda: ("a GPU",))
    monkeypatch.setattr("cupyna.devices.device_spec", lambda device: CPU)
    monkeypatch.setattr("cupyna.profiling.bench.Meter", HostMeter)
    monkeypatch.setattr("cupyna.profiling.ncu.shutil.which", lambda name: None)
    ceilings = Ceilings(1e6, {"float32": 1e6}, is_measured=True)
    monkeypatch.setattr(Ceilings, "measured", lambda dtypes: ceilings)
    file = tmp_path / "profile.json"
    code, text = run(
        *("--tokens", "8x8", "--kernel-size", "3", "--heads", "2", "--head-dim", "8"),
        *("--dtype", "float32", "--peer", "flash", "--backward", "--json", str(file)),
        *("--commit", "abc"),
    )
    assert code == 0
    assert "nothing was run" not in text and "ceilings (measured)" in text
    stored = json.loads(file.read_text())
    assert stored["is_measured"] and stored["commit"] == "abc" and stored["versions"]
    by_name = {(line["name"], line["operation"]): line for line in stored["lines"]}
    for method in ("naive", "gemm", "fused"):
        assert by_name[method, "backward"]["time_us"] > 0
        assert by_name[method, "forward"]["peak_bytes"] == 4096
    assert "float32" in by_name["FlashAttention-2, dense", "forward"]["refusal"]
