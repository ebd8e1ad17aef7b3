"""Hardware counters of calls, read by Nsight Compute where it is installed.

`ncu` runs this file as a program of its own, which makes every call once between the marks that
the profiler waits for, with a kernel of its own after each: one program for all calls, as
starting takes far longer than counting.
"""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ..problem import Problem

__all__ = ["MOST_BYTES", "counters", "parse"]

# Memory of a call that is counted: it is saved and put back for every group of counters, on the
# host where the GPU has no room left.
MOST_BYTES = 8 << 30

# In the name of the kernel that ends a call.
_MARK = "spin_kernel"

# Our name, ncu's, and how kernels of one call add up: sums, or means weighted by time.
_TIME = "gpu__time_duration.sum"
_METRICS = {
    "dram_read_bytes": ("dram__bytes_read.sum", "sum"),
    "dram_write_bytes": ("dram__bytes_write.sum", "sum"),
    "l2_bytes": ("lts__t_bytes.sum", "sum"),
    "l1_hit_share": ("l1tex__t_sector_hit_rate.pct", "mean"),
    "l2_hit_share": ("lts__t_sector_hit_rate.pct", "mean"),
    "tensor_share": ("sm__pipe_tensor_cycles_active.avg.pct_of_peak_sustained_active", "mean"),
    "warps_share": ("sm__warps_active.avg.pct_of_peak_sustained_active", "mean"),
}


def counters(
    problem: Problem, calls: Sequence[tuple[str, str]], timeout_s: float = 120.0
) -> list[dict[str, float]]:
    """Counters of one call each of some methods or backends; empty without `ncu`.

    Parameters
    ----------
    problem : Problem
    calls : sequence of (str, str)
        Names and operations.
    timeout_s : float, optional

    Raises
    ------
    RuntimeError
        If `ncu` is there and does not count all of them.
    """
    tool = shutil.which("ncu")
    if tool is None:
        return [{} for _ in calls]
    metrics = ",".join([_TIME, *(metric for metric, _ in _METRICS.values())])
    given = json.dumps({"calls": calls, "problem": asdict(problem)})
    # The GPU is measured as it is found: clocks stay the user's.
    command = [
        tool, "--csv", "--page", "raw", "--print-units", "base", "--clock-control", "none",
        "--profile-from-start", "off", "--metrics", metrics, sys.executable, "-m", __name__, given,
    ]  # fmt: skip
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"ncu took more than {timeout_s:g} s") from None
    found = parse(done.stdout)
    if len(found) != len(calls):
        printed = (done.stderr or done.stdout).strip()[-300:]
        raise RuntimeError(f"ncu counted {len(found)} of {len(calls)} calls: {printed}")
    return found


def parse(printed: str) -> list[dict[str, float]]:
    """Add up each call's kernels in what ``ncu --csv --page raw --print-units base`` prints."""
    lines = printed.splitlines()
    begin = next((i for i, line in enumerate(lines) if line.startswith('"ID"')), None)
    if begin is None:
        return []
    _, *kernels = csv.DictReader(io.StringIO("\n".join(lines[begin:])))  # first the units
    found, call = [], []
    for kernel in kernels:
        if _MARK not in kernel["Kernel Name"]:
            call.append(kernel)
            continue
        if call:
            found.append(_sums(call))
        call = []
    return found


def _sums(kernels: Sequence[Mapping[str, str]]) -> dict[str, float]:
    times = [_number(kernel, _TIME) for kernel in kernels]
    whole = sum(times)
    found = {"kernels": float(len(kernels)), "ncu_time_us": whole / 1e3}
    for name, (metric, how) in _METRICS.items():
        values = [_number(kernel, metric) for kernel in kernels]
        if how == "sum":
            found[name] = sum(values)
        elif whole:
            weighted = sum(value * time for value, time in zip(values, times, strict=True))
            found[name] = weighted / whole / 100
    found["dram_bytes"] = found["dram_read_bytes"] + found["dram_write_bytes"]
    return found


def _number(kernel: Mapping[str, str], metric: str) -> float:
    try:
        return float((kernel.get(metric) or "0").replace(",", ""))
    except ValueError:  # "n/a" where this GPU has no such counter
        return 0.0


def _call_each(given: Mapping[str, Any]) -> None:
    import torch

    from ..arrays import Device
    from ..devices import device_spec
    from .implementations import DIRECTIONS, ours
    from .meter import random_tensors

    fields: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in given["problem"].items()
    }
    problem = Problem(**fields)
    device = device_spec(Device("cuda", 0))
    tensors = random_tensors(problem)
    cuda = torch.cuda.cudart()
    for name, operation in given["calls"]:
        (implementation,) = ours([name], device)
        direction = next(way for way in DIRECTIONS if way == operation)
        work = implementation.work(problem, tensors, direction)
        work.run()
        torch.cuda.synchronize()
        cuda.cudaProfilerStart()
        work.run()
        torch.cuda._sleep(1)  # the mark
        torch.cuda.synchronize()
        cuda.cudaProfilerStop()
        del work
        torch.cuda.empty_cache()


if __name__ == "__main__":
    _call_each(json.loads(sys.argv[1]))
