"""Intensity, memory, caches and occupancy of each method, from files of `cupyna profile`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...problem import METHODS
from .plots import Curves, curves
from .results import documents, kinds, run, table

__all__ = ["write"]

# From this share of a ceiling on, it is what holds a kernel.
_BOUND = 0.6


def write(results: Path, generated: Path) -> str:
    """Markdown of every measured profile; plots go beside it."""
    lines: list[str] = []
    for path, profile in documents(results):
        if "profile" in kinds(profile):
            lines += _section(path, profile, generated)
    return "\n".join(lines)


def _section(path: Path, profile: dict[str, Any], generated: Path) -> Iterator[str]:
    problem, ceilings = profile["problem"], profile["ceilings"]
    dtype = problem["dtype"]
    roof = ceilings["flops_per_us"][dtype] / 1e6
    yield f"## {_title(problem)}, {dtype}, on the {profile['device']['name']}"
    yield ""
    if "versions" in profile:
        yield run(profile)
        yield ""
    lines = [line for line in profile["lines"] if line["counts"] is not None]
    ridge = roof * 1e6 / ceilings["bytes_per_us"]
    ends = [min([ridge, *(line["intensity"] for line in lines)]) / 2,
            max([ridge, *(line["intensity"] for line in lines)]) * 2]  # fmt: skip
    slope = ceilings["bytes_per_us"] / 1e6
    points: dict[str, list[tuple[float, float]]] = {
        "ceilings": [(ends[0], ends[0] * slope), (ridge, roof), (ends[1], roof)]
    }
    for line in lines:
        points[_name(line)] = [(line["intensity"], line["tflops"])]
    plot = f"{path.stem}.svg"
    curves(
        generated / plot,
        [Curves("", "useful operations for each byte moved", "useful TFLOP/s", points)],
    )
    yield f"![Roofline](../generated/{plot})"
    yield ""
    yield (
        f"Measured ceilings: {roof:.0f} TFLOP/s of {dtype} products, "
        f"{ceilings['bytes_per_us'] / 1e6:.2f} TB/s of memory."
    )
    yield ""
    yield from table(
        (
            "method", "time, us", "useful TFLOP/s", "of ceiling", "computed, of ceiling", "GB/s",
            "of ceiling", "FLOP for each byte moved", "memory, MiB",
        ),
        (
            (
                _name(line), f"{line['time_us']:.1f}", f"{line['tflops']:.1f}",
                f"{line['tflops'] / roof:.0%}",
                f"{line['counts']['computed_flops'] / line['time_us'] / 1e6 / roof:.0%}",
                f"{line['gb_per_s']:.0f}",
                f"{line['gb_per_s'] * 1e3 / ceilings['bytes_per_us']:.0%}",
                f"{line['intensity']:.1f}", f"{line['peak_bytes'] / 2**20:.0f}",
            )
            for line in lines
        ),
    )  # fmt: skip
    yield from table(
        ("method", "useful products", "MB at least", "asked", "moved", "counted by"),
        (
            (
                _name(line),
                f"{line['counts']['useful_flops'] / line['counts']['computed_flops']:.0%}",
                f"{line['counts']['least_bytes'] / 1e6:.1f}",
                f"{line['counters'].get('l2_bytes', line['counts']['asked_bytes']) / 1e6:.1f}",
                f"{line['counters'].get('dram_bytes', line['counts']['moved_bytes']) / 1e6:.1f}",
                "hardware" if line["counters"] else "the model",
            )
            for line in lines
        ),
    )  # fmt: skip
    counted = [line for line in lines if line["counters"]]
    if counted:
        shares = ("l1_hit_share", "l2_hit_share", "tensor_share", "warps_share")
        yield from table(
            ("method", "kernels", "L1 hits", "L2 hits", "tensor cores busy", "warps held"),
            (
                (
                    _name(line), f"{line['counters']['kernels']:.0f}",
                    *(f"{line['counters'][share]:.0%}" for share in shares),
                )
                for line in counted
            ),
        )  # fmt: skip
    yield "What the numbers say:"
    yield ""
    for line in lines:
        if line["name"] in METHODS:
            yield f"- {_reading(line, ceilings, dtype)}"
    yield ""
    yield from table(
        ("method", "kernel", "registers", "threads", "shared, KiB", "held", "bound by", "blocks"),
        (
            (
                line["name"], f"`{one['symbol'].removeprefix('cupyna_')}`", str(one["registers"]),
                str(one["threads"]), f"{one['smem_bytes'] / 1024:.1f}", str(one["blocks"]),
                one["bound"], f"{one.get('grid_blocks') or '-'}",
            )
            for line, one in _kernels(lines)
        ),
    )  # fmt: skip


def _reading(line: dict[str, Any], ceilings: dict[str, Any], dtype: str) -> str:
    """One line of numbers in words."""
    counts, counters = line["counts"], line["counters"]
    least = counts["least_bytes"]
    asked = counters.get("l2_bytes", counts["asked_bytes"]) / least
    moved = counters.get("dram_bytes", counts["moved_bytes"]) / least
    memory = line["gb_per_s"] * 1e3 / ceilings["bytes_per_us"]
    products = counts["computed_flops"] / line["time_us"] / ceilings["flops_per_us"][dtype]
    wanted = counts["useful_flops"] / counts["computed_flops"]
    busy = f" Tensor cores are busy {counters['tensor_share']:.0%} of the time." if counters else ""
    if max(memory, products) >= _BOUND:
        bound = "Memory" if memory >= products else "The rate of products"
        end = f"{bound} bounds it."
    else:
        end = "Neither bounds it: what is left are other instructions, and waiting."
    return (
        f"*{_name(line)}* asks the cache for {asked:.1f} times the least bytes and moves "
        f"{moved:.1f} times, at {memory:.0%} of the memory's rate. Of the products that its tiles "
        f"compute {wanted:.0%} are wanted; they run at {products:.0%} of the ceiling.{busy} {end}"
    )


def _kernels(lines: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Each kernel of each method once, whichever pass names it."""
    seen = set()
    for line in lines:
        for one in line["occupancy"]:
            if (line["name"], one["symbol"]) not in seen:
                seen.add((line["name"], one["symbol"]))
                yield line, one


def _name(line: dict[str, Any]) -> str:
    return f"{line['name']}, {line['operation']}"


def _title(problem: dict[str, Any]) -> str:
    spatial, window = ("x".join(map(str, problem[name])) for name in ("spatial", "kernel_size"))
    return (
        f"Batch {problem['batch']}, {problem['heads']} heads x {problem['head_dim']}, {spatial}, "
        f"window {window}"
    )
