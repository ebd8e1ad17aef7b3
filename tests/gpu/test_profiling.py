"""A whole measurement and a whole profile on a GPU."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from cupyna.arrays import Device
from cupyna.devices import device_spec
from cupyna.profiling.bench import Plan, measure
from cupyna.profiling.implementations import DIRECTIONS, Work, ours
from cupyna.profiling.problems import find
from cupyna.profiling.profile import measured
from cupyna.profiling.records import environment

torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.gpu, pytest.mark.torch]


def _small(name: str):
    return replace(find(name), batch=2)


def test_methods_are_measured_as_graphs_and_their_memory_is_seen():
    device = device_spec(Device("cuda", 0))
    plan = Plan([_small("D")], ["float16"], ours(["naive", "cuda-naive"], device), rounds=2)
    (found,) = measure(plan, device)
    for record in found.records.values():
        assert not record.refused
        for direction in DIRECTIONS:
            assert record.is_graph[direction]
            weights = 2 * 4 * 56**2 * 49 * 4
            assert record.peak_bytes[direction] > weights


def test_memory_that_is_not_written_is_seen():
    device = device_spec(Device("cuda", 0))
    (right,) = ours(["naive"], device)

    class Unwritten:
        name, is_ours = "unwritten", True
        computes, memory_bytes = right.computes, right.memory_bytes

        def work(self, problem, tensors, direction):
            return Work(lambda: torch.empty_like(tensors["q"]), lambda out: {"out": out})

    plan = Plan([_small("D")], ["float16"], [Unwritten()], ["forward"], rounds=1)
    (found,) = measure(plan, device)
    assert "not finite" in found.records["unwritten"].refused["forward"]


def test_a_profile_has_times_ceilings_and_memory():
    device = device_spec(Device("cuda", 0))
    found = measured(_small("D"), "float16", device, ["naive"], operations=["forward"])
    (line,) = found.lines
    assert line.time_us > 0 and line.peak_bytes > 0
    assert len(line.occupancy) == 3  # scores, softmax, outputs
    assert all(one.grid_blocks > 0 and one.blocks > 0 for one in line.occupancy)
    assert line.bytes_per_us < 1.2 * found.ceilings.bytes_per_us
    assert 0.2 < found.ceilings.bytes_per_us / device.bytes_per_us < 1.1
    json.dumps(found.to_json())


def test_the_environment_names_what_the_numbers_depend_on():
    found = environment("abc")
    assert found["gpus"] and found["driver"] and found["clocks_mhz"]["sm"]
    assert found["commit"] == "abc" and len(found["device_sources"]) == 16
