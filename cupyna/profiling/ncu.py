"""Hardware counters of one call, read by Nsight Compute where it is installed.

`ncu` runs this file as a program of its own, which makes the call once between the marks that
the profiler waits for.
"""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ..problem import Problem

__all__ = ["counters", "parse"]

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


def counters(name: str, problem: Problem, operation: str) -> dict[str, float]:
    """Counters of one call of a method or backend; empty without `ncu`.

    Raises
    ------
    RuntimeError
        If `ncu` is there and reads nothing.
    """
    tool = shutil.which("ncu")
    if tool is None:
        return {}
    metrics = ",".join([_TIME, *(metric for metric, _ in _METRICS.values())])
    call = json.dumps({"name": name, "problem": asdict(problem), "operation": operation})
    # The GPU is measured as it is found: clocks stay the user's.
    command = [
        tool, "--csv", "--page", "raw", "--print-units", "base", "--clock-control", "none",
        "--profile-from-start", "off", "--metrics", metrics, sys.executable, "-m", __name__, call,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    found = parse(done.stdout)
    if not found:
        raise RuntimeError(f"ncu read no counters: {(done.stderr or done.stdout).strip()[-300:]}")
    return found


def parse(printed: str) -> dict[str, float]:
    """Add up the kernels in what ``ncu --csv --page raw --print-units base`` prints."""
    lines = printed.splitlines()
    begin = next((i for i, line in enumerate(lines) if line.startswith('"ID"')), None)
    if begin is None:
        return {}
    _, *kernels = csv.DictReader(io.StringIO("\n".join(lines[begin:])))  # first the units
    if not kernels:
        return {}
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


def _call_once(given: Mapping[str, Any]) -> None:
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
    direction = next(way for way in DIRECTIONS if way == given["operation"])
    (implementation,) = ours([given["name"]], device_spec(Device("cuda", 0)))
    work = implementation.work(problem, random_tensors(problem), direction)
    work.run()
    torch.cuda.synchronize()
    torch.cuda.cudart().cudaProfilerStart()
    work.run()
    torch.cuda.synchronize()
    torch.cuda.cudart().cudaProfilerStop()


if __name__ == "__main__":
    _call_once(json.loads(sys.argv[1]))
