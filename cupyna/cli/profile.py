"""`cupyna profile`: everything about one call."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from cupyna.kernels.machine import gpus

if TYPE_CHECKING:
    from cupyna.profiling.counts import Pass
    from cupyna.profiling.problems import Row
    from cupyna.profiling.profile import Line, Profile

__all__ = ["profile"]


class Dtype(StrEnum):
    """Element types."""

    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"
    FLOAT32 = "float32"
    FLOAT64 = "float64"


def profile(
    tokens: Annotated[str, typer.Option(help="Grid, such as 64x64.")] = "64x64",
    kernel_size: Annotated[str, typer.Option(help="Window, such as 13 or 7x9.")] = "13",
    heads: Annotated[int, typer.Option(min=1)] = 16,
    head_dim: Annotated[int, typer.Option(min=1)] = 64,
    batch: Annotated[int, typer.Option(min=1)] = 1,
    stride: Annotated[str, typer.Option(help="As --kernel-size.")] = "1",
    dilation: Annotated[str, typer.Option(help="As --kernel-size.")] = "1",
    causal: Annotated[bool, typer.Option(help="Causal along every axis.")] = False,
    method: Annotated[
        list[str] | None, typer.Option(help="naive, gemm, fused or a backend; all by default.")
    ] = None,
    peer: Annotated[
        list[str] | None, typer.Option(help="Another library; `cupyna bench --list` names them.")
    ] = None,
    dtype: Annotated[Dtype, typer.Option()] = Dtype.FLOAT16,
    backward: Annotated[bool, typer.Option(help="Backward, too.")] = False,
    case: Annotated[str, typer.Option(help="A problem of `cupyna bench`, instead.")] = "",
    gpu: Annotated[str, typer.Option(help="Predict for this GPU instead of measuring.")] = "",
    ncu: Annotated[bool, typer.Option(help="Read hardware counters where ncu is there.")] = True,
    as_json: Annotated[Path | None, typer.Option("--json", help="JSON file to write.")] = None,
    commit: Annotated[str, typer.Option(help="Name of the measured commit, for the file.")] = "",
    plot: Annotated[Path | None, typer.Option(help="Roofline to write, PNG or SVG.")] = None,
) -> None:
    """Show work, traffic, time, ceilings, occupancy and memory of one call.

    Without a GPU, or for a GPU that is named, times are what the cost models expect.
    """
    from cupyna.problem import METHODS

    names: list[str] = [*METHODS] if not method or "all" in method else method
    operations: list[Pass] = ["forward", "backward"] if backward else ["forward"]
    console = Console(width=None if Console().is_terminal else 180)
    try:
        row = _row(case, tokens, kernel_size, stride, dilation, causal, batch, heads, head_dim)
        found = (
            _predicted(row, dtype, gpu or "H200", names, operations)
            if gpu or not gpus()
            else _measured(row, dtype, names, peer or [], operations, ncu, console)
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    for table in _tables(found):
        console.print(table)
    for line in found.lines:
        if line.refusal:
            console.print(f"{line.name}, {line.operation}: {line.refusal}", style="dim")
    if not found.is_measured:
        console.print(f"Predicted for the {found.device.name} by the cost models: nothing was run.")
    if as_json is not None:
        from cupyna.profiling.records import environment

        head = environment(commit) if found.is_measured else {}
        as_json.write_text(json.dumps(found.to_json() | head, indent=1) + "\n", "utf-8")
    if plot is not None:
        from cupyna.profiling.roofline import draw

        draw(found, plot)


def _predicted(row: Row, dtype: str, gpu: str, names: list[str], operations: list[Pass]) -> Profile:
    from cupyna.profiling.ceilings import Ceilings
    from cupyna.profiling.gpus import GPUS
    from cupyna.profiling.profile import predicted

    if gpu not in GPUS:
        raise ValueError(f"--gpu must be one of {', '.join(GPUS)}, got {gpu!r}")
    ceilings = Ceilings.by_data_sheet(GPUS[gpu])
    return predicted(row.problem(dtype), GPUS[gpu].spec, ceilings, names, operations)


def _measured(
    row: Row,
    dtype: str,
    names: list[str],
    peers: list[str],
    operations: list[Pass],
    with_counters: bool,
    console: Console,
) -> Profile:
    from cupyna.arrays import Device
    from cupyna.devices import device_spec
    from cupyna.profiling.ncu import MOST_BYTES, counters
    from cupyna.profiling.peers import load
    from cupyna.profiling.profile import measured

    others, missing = load(peers)
    for name, reason in missing.items():
        console.print(f"peer {name} is missing: {reason}")
    found = measured(row, dtype, device_spec(Device("cuda", 0)), names, others, operations)
    counted = [
        line
        for line in found.lines
        if line.kernel and not line.refusal and line.peak_bytes <= MOST_BYTES
    ]
    if with_counters and counted:
        try:
            calls = [(line.name, line.operation) for line in counted]
            for line, one in zip(counted, counters(found.problem, calls), strict=True):
                line.counters = one
        except (OSError, RuntimeError) as error:
            console.print(str(error), style="dim")
    return found


def _row(
    case: str, tokens: str, kernel_size: str, stride: str, dilation: str, causal: bool,
    batch: int, heads: int, head_dim: int,
) -> Row:  # fmt: skip
    from cupyna.profiling.problems import Row, find

    if case:
        return find(case)
    spatial = _sizes("--tokens", tokens, 0)
    rank = len(spatial)
    row = Row(
        "profile", tokens, batch, heads, head_dim, spatial,
        _sizes("--kernel-size", kernel_size, rank), _sizes("--stride", stride, rank),
        _sizes("--dilation", dilation, rank), (causal,) * rank,
    )  # fmt: skip
    for length, size, step, gap in zip(
        row.spatial, row.kernel_size, row.stride, row.dilation, strict=True
    ):
        if size * gap > length or step > size:
            raise ValueError(
                f"a window of {size} with stride {step} and dilation {gap} does not fit an axis "
                f"of {length} tokens"
            )
    return row


def _sizes(option: str, text: str, rank: int) -> tuple[int, ...]:
    parts = text.split("x")
    if not all(part.isdecimal() and int(part) for part in parts):
        raise ValueError(f"{option} must be positive integers joined by x, got {text!r}")
    sizes = tuple(map(int, parts))
    if rank and len(sizes) == 1:
        sizes *= rank
    if len(sizes) not in ((rank,) if rank else (1, 2, 3)):
        raise ValueError(f"{option} must have {rank or '1, 2 or 3'} sizes, got {text!r}")
    return sizes


def _tables(found: Profile) -> list[Table]:
    kind = "" if found.is_measured else ", predicted"
    dtype = found.problem.dtype
    ceilings = found.ceilings
    source = "measured" if ceilings.is_measured else "data sheet"
    speed = Table(
        title=f"{found.device.name}{kind}; ceilings ({source}): "
        f"{ceilings.of(dtype) / 1e6:.0f} TFLOP/s {dtype}, {ceilings.bytes_per_us / 1e6:.2f} TB/s"
    )
    work = Table(title="work and traffic of one call")
    fit = Table(title="what compiled kernels take")
    shown: set[tuple[str, str]] = set()
    fit.add_column("method")
    for table in (speed, work):
        table.add_column("method")
        table.add_column("pass")
    _columns(speed, "time, us", "TFLOP/s", "of ceiling", "GB/s", "of ceiling", "memory, MiB")
    _columns(
        work, "GFLOP useful", "computed", "useful", "MB least", "asked", "moved", "FLOP per byte"
    )
    _columns(
        fit,
        "kernel",
        "registers",
        "threads",
        "shared, KiB",
        "held",
        "threads held",
        "bound",
        "blocks",
    )
    counted = Table(title="hardware counters")
    for name in ("method", "pass"):
        counted.add_column(name)
    _columns(counted, "kernels", "DRAM, MB", "L2, MB", "L1 hits", "L2 hits", "tensor pipe", "warps")
    for line in found.lines:
        if line.counts is None:
            continue
        head = (line.name, line.operation)
        speed.add_row(*head, *_speed(line, found))
        work.add_row(*head, *_work(line))
        for kernel in line.occupancy:
            if (line.name, kernel.symbol) in shown:  # the other pass has it, too
                continue
            shown.add((line.name, kernel.symbol))
            fit.add_row(
                line.name, kernel.symbol.removeprefix("cupyna_"), str(kernel.registers),
                str(kernel.threads), f"{kernel.smem_bytes / 1024:.1f}", str(kernel.blocks),
                f"{kernel.share:.0%}", kernel.bound, f"{kernel.grid_blocks or '-'}",
            )  # fmt: skip
        if line.counters:
            counted.add_row(*head, *_counted(line))
    return [table for table in (work, fit, counted, speed) if table.row_count]


def _columns(table: Table, *names: str) -> None:
    for name in names:
        table.add_column(name, justify="right", overflow="fold")


def _speed(line: Line, found: Profile) -> list[str]:
    ceilings = found.ceilings
    return [
        f"{line.time_us:.1f}",
        f"{line.flops_per_us / 1e6:.1f}",
        f"{line.flops_per_us / ceilings.of(found.problem.dtype):.0%}",
        f"{line.bytes_per_us / 1e3:.0f}",
        f"{line.bytes_per_us / ceilings.bytes_per_us:.0%}",
        f"{line.peak_bytes / 2**20:.0f}",
    ]


def _work(line: Line) -> list[str]:
    counts = line.counts
    assert counts is not None
    return [
        f"{counts.useful_flops / 1e9:.2f}",
        f"{counts.computed_flops / 1e9:.2f}",
        f"{counts.useful_flops / counts.computed_flops:.0%}",
        f"{counts.least_bytes / 1e6:.1f}",
        f"{counts.asked_bytes / 1e6:.1f}",
        f"{line.moved_bytes / 1e6:.1f}",
        f"{line.intensity:.1f}",
    ]


def _counted(line: Line) -> list[str]:
    found = line.counters
    shares = ("l1_hit_share", "l2_hit_share", "tensor_share", "warps_share")
    return [
        f"{found['kernels']:.0f}",
        f"{found['dram_bytes'] / 1e6:.1f}",
        f"{found['l2_bytes'] / 1e6:.1f}",
        *(f"{found[name]:.0%}" for name in shares),
    ]
