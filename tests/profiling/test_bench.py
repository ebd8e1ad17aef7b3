"""What a run does with right, wrong, failing and missing implementations; here on the CPU."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from cupyna.arrays import Device
from cupyna.devices import device_spec
from cupyna.profiling.bench import Plan, measure
from cupyna.profiling.implementations import DIRECTIONS, Refused, Work, ours
from cupyna.profiling.meter import random_tensors
from cupyna.profiling.problems import Row
from cupyna.profiling.timing import Times, interleave
from profiling.host_meter import HostMeter

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

CPU = device_spec(Device("cpu", 0))
ROW = Row("suite", "small", 2, 2, 8, (6, 8), (3, 3))


class Spoiled:
    """A right implementation, and one way to fail."""

    name = "spoiled"

    def __init__(self, spoil, is_ours=True, needed=0):
        (self._right,) = ours(["fused"], CPU)
        self._spoil, self.is_ours, self._needed = spoil, is_ours, needed

    def computes(self, problem):
        return problem

    def memory_bytes(self, problem, direction):
        return self._needed

    def work(self, problem, tensors, direction):
        work = self._right.work(problem, tensors, direction)
        return Work(lambda: self._spoil(work.run()), work.read)


def _run(implementations, meter=None, device=CPU, **options):
    plan = Plan([ROW], ["float32"], implementations, **options)
    (found,) = measure(plan, device, meter or HostMeter())
    return found


def test_every_direction_of_every_method_is_checked_and_timed():
    found = _run(ours(["naive", "gemm", "cpu-fused"], CPU), rounds=3)
    assert list(found.records) == ["naive", "gemm", "cpu-fused"]
    for record in found.records.values():
        assert not record.refused
        for direction in DIRECTIONS:
            assert len(record.times[direction].rounds) == 3
            assert record.times[direction].median_us > 0
            assert record.peak_bytes[direction] == 4096
            assert all(not d.complaint for d in record.deviations[direction].values())
    assert set(record.deviations["backward"]) == {"dq", "dk", "dv"}


def test_a_wrong_result_is_never_timed():
    found = _run([Spoiled(lambda out: out + 1e-3)], directions=["forward"])
    record = found.records["spoiled"]
    assert not record.times
    assert record.refused["forward"].startswith("wrong: out: largest error")
    unwritten = _run([Spoiled(lambda out: out.where(out > 0.1, torch.nan))], directions=["forward"])
    assert "not finite" in unwritten.records["spoiled"].refused["forward"]


def test_a_peers_rougher_result_is_timed_and_told_and_nonsense_is_not():
    rough = _run([Spoiled(lambda out: out * 1.001, is_ours=False)], directions=["forward"])
    record = rough.records["spoiled"]
    assert record.times["forward"].rounds
    assert record.deviations["forward"]["out"].complaint
    nonsense = _run([Spoiled(lambda out: -out, is_ours=False)], directions=["forward"])
    assert not nonsense.records["spoiled"].times


def test_whatever_fails_is_recorded_and_the_run_goes_on():
    def refuse(out):
        raise Refused("not today")

    def break_down(out):
        raise RuntimeError("no kernel image")

    def run_out(out):
        raise torch.OutOfMemoryError

    for spoil, reason in (
        (refuse, "not today"),
        (break_down, "RuntimeError: no kernel image"),
        (run_out, "memory is short"),
    ):
        found = _run([Spoiled(spoil), *ours(["fused"], CPU)], directions=["forward"])
        assert found.records["spoiled"].refused["forward"] == reason
        assert found.records["fused"].times["forward"].rounds


def test_what_does_not_fit_in_memory_or_time_is_not_begun():
    def never(out):
        raise AssertionError("begun")

    found = _run([Spoiled(never, needed=1 << 40)], directions=["forward"])
    assert "takes 1024.0 GiB beside its inputs" in found.records["spoiled"].refused["forward"]
    late = _run([Spoiled(never)], directions=["forward"], limit_s=-1.0)
    assert "no time left" in late.records["spoiled"].refused["forward"]


def test_sets_of_inputs_exceed_the_cache():
    calls = []
    counted = Spoiled(lambda out: calls.append(out.data_ptr()) or out)
    size = ROW.problem("float32").least_bytes
    _run([counted], device=replace(CPU, l2_bytes=size), directions=["forward"], rounds=1)
    # One checked call; then both sets, to be timed once and in one round.
    assert len(calls) == 1 + 2 + 2


def test_rounds_interleave_and_end_with_the_time():
    order = []

    class Counted:
        def __init__(self, name, call_us):
            self.name, self.call_us, self.sample_s = name, call_us, call_us / 1e6

        def sample_us(self):
            order.append(self.name)
            return self.call_us

    both = {name: Counted(name, us) for name, us in (("a", 10.0), ("b", 5e5))}
    assert interleave(both, 2) == {"a": Times((10.0,) * 2), "b": Times((5e5,) * 2)}
    assert order == ["a", "b", "a", "b"]
    # What is slow has fewer rounds, and takes none from what is not.
    order.clear()
    late = interleave(both, 4, limit_s=2.5)
    assert [len(times.rounds) for times in late.values()] == [4, 2]
    assert order == ["a", "b", "a", "b", "a", "a"]
    assert len(interleave(both, 9, limit_s=0.1)["b"].rounds) == 1
    assert interleave({}, 5) == {}


def test_what_is_expected_to_take_too_long_is_not_begun(monkeypatch):
    (fused,) = ours(["fused"], CPU)
    problem = ROW.problem("float32")
    work = fused.work(problem, random_tensors(problem, place="cpu"), "forward")
    expected_us = work.about["forward"]["expected_us"]
    slow = {"forward": {**work.about["forward"], "expected_us": 4e6}}
    monkeypatch.setattr(fused, "work", lambda *_: replace(work, about=slow))
    found = _run([fused], directions=["forward"], limit_s=10.0)
    assert expected_us < 4e6
    assert (
        found.records["fused"].refused["forward"] == "would take 4.0 s a call, as its model has it"
    )


def test_what_was_slow_is_not_begun_on_a_larger_problem():
    (fused,) = ours(["fused"], CPU)

    class Slow:
        name, is_ours = "slow", False
        computes, memory_bytes = fused.computes, fused.memory_bytes

        def work(self, problem, tensors, direction):
            work = fused.work(problem, tensors, direction)
            return Work(lambda: time.sleep(0.02) or work.run(), work.read)

    larger = replace(ROW, name="larger", batch=80)
    plan = Plan([ROW, larger], ["float32"], [Slow()], ["forward"], rounds=1, limit_s=1.0)
    first, second = (one.records["slow"] for one in measure(plan, CPU, HostMeter()))
    assert first.times["forward"].median_us > 20000
    assert second.refused["forward"].endswith("s a call or more")


def test_memory_is_given_back_after_every_problem():
    class Settling(HostMeter):
        count = 0

        def settle(self):
            self.count += 1

    meter = Settling()
    _run(ours(["fused"], CPU), meter, directions=["forward"], rounds=1)
    assert meter.count == 2  # after the direction, and when the inputs are gone
