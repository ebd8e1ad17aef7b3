"""`cupyna bench`: times on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from cupyna.kernels.machine import gpus

from ._bench_torch import models, overhead

if TYPE_CHECKING:
    from cupyna.profiling.bench import Plan
    from cupyna.profiling.problems import Row
    from cupyna.profiling.records import Measurement

__all__ = ["bench"]

bench = typer.Typer(invoke_without_command=True, no_args_is_help=False)
bench.command()(overhead)
bench.command()(models)


class Dtype(StrEnum):
    """Element types."""

    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"
    FLOAT32 = "float32"
    FLOAT64 = "float64"


class Way(StrEnum):
    """What is timed."""

    FORWARD = "forward"
    BACKWARD = "backward"
    BOTH = "forward+backward"
    QK = "qk"
    AV = "av"
    QK_BACKWARD = "qk_backward"
    AV_BACKWARD = "av_backward"


@bench.callback()
def measure(
    context: typer.Context,
    suite: Annotated[
        list[str] | None,
        typer.Option(help="Suite of problems, or all. Repeat it for several. Default: cases."),
    ] = None,
    case: Annotated[
        list[str] | None, typer.Option(help="One problem by name. Repeat it for several.")
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(help="naive, gemm or fused, or a backend's name. Default: every method."),
    ] = None,
    peer: Annotated[
        list[str] | None,
        typer.Option(help="Another library, as NAME or NAME=FOLDER; --list names them."),
    ] = None,
    dtype: Annotated[list[Dtype] | None, typer.Option(help="Default: float16 and float32.")] = None,
    direction: Annotated[
        list[Way] | None,
        typer.Option(help="Default: forward, backward and both. The others are single products."),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Interleaved rounds.")] = 5,
    limit: Annotated[
        float, typer.Option(min=1, help="Seconds for one problem in one dtype.")
    ] = 30.0,
    allow_tf32: Annotated[
        bool, typer.Option("--allow-tf32", help="Let float32 products be rounded to TF32.")
    ] = False,
    deterministic: Annotated[
        bool,
        typer.Option("--deterministic", help="Time the fused method with deterministic=True, too."),
    ] = False,
    out: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
    commit: Annotated[str, typer.Option(help="Name of the measured commit, for the file.")] = "",
    compare: Annotated[
        tuple[Path, Path] | None, typer.Option(help="Two such files, side by side.")
    ] = None,
    listed: Annotated[bool, typer.Option("--list", help="List problems and peers.")] = False,
) -> None:
    """Time methods and other libraries on this machine's GPU, after checking their results.

    Without a GPU, and with nothing asked for, it is `cupyna bench cpu`.

    Sending in another GPU's numbers takes one command: cupyna bench --suite all --out gpu.json
    """
    if context.invoked_subcommand is not None:
        return
    console = Console(width=None if Console().is_terminal else 200)
    if listed:
        _list(console)
        return
    if compare is not None:
        _compare(console, *compare)
        return
    if not gpus():
        if suite or case or peer or out:
            raise typer.BadParameter(
                "this machine has no NVIDIA GPU; `cupyna bench cpu` needs none"
            )
        cpu()
        return
    from cupyna.arrays import Device
    from cupyna.devices import device_spec
    from cupyna.problem import METHODS
    from cupyna.profiling.bench import Plan
    from cupyna.profiling.implementations import DIRECTIONS, PIECES, ours
    from cupyna.profiling.peers import load

    device = device_spec(Device("cuda", 0))
    try:
        peers, missing = load(peer or [])
        plan = Plan(
            rows=_rows(suite or ([] if case else ["cases"]), case or []),
            dtypes=[one.value for one in dtype or (Dtype.FLOAT16, Dtype.FLOAT32)],
            implementations=[*ours(method or METHODS, device, deterministic), *peers],
            directions=[way for way in (*DIRECTIONS, *PIECES) if way in (direction or DIRECTIONS)],
            rounds=rounds,
            limit_s=limit,
            allow_tf32=allow_tf32,
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    for name, reason in missing.items():
        console.print(f"peer {name} is missing: {reason}")
    _run(console, plan, device, out, {"rounds": rounds, "missing_peers": missing}, commit)


@bench.command()
def cpu() -> None:
    """Time the CPU path beside NumPy and FlexAttention."""
    from cupyna.profiling.cpu import measure, report

    report(measure())


def _rows(suites: list[str], names: list[str]) -> list[Row]:
    from cupyna.profiling.problems import SUITES, find, rows

    # The problems of "kernels" are those of the sweeps; random ones are for who asks for them.
    named = [suite for suite in SUITES if suite not in ("kernels", "random")]
    chosen = named if "all" in suites else suites
    return [row for suite in chosen for row in rows(suite)] + [find(name) for name in names]


def _run(
    console: Console, plan: Plan, device: Any, out: Path | None, head: dict[str, Any], commit: str
) -> None:
    from cupyna.profiling import bench as runner
    from cupyna.profiling.ceilings import Ceilings
    from cupyna.profiling.records import Journal, environment
    from cupyna.profiling.report import expectations, leads, summary, table

    found: list[Measurement] = []
    whole = {
        "what": "medians of interleaved rounds, microseconds",
        **head,
        "ceilings": Ceilings.measured(plan.dtypes).to_json(),
    }
    journal = None if out is None else Journal(out)
    try:
        for measurement in _watched(runner.measure(plan, device), plan.count):
            found.append(measurement)
            if len(found) == 1:
                whole |= environment(commit)
            if journal is not None:
                journal.add(whole, measurement)
    finally:
        if journal is not None and found:
            journal.close()
    console.print(table(found))
    for line in summary(found):
        console.print(line, style="dim")
    for line in (*expectations(found), *leads(found)):
        console.print(line)


def _watched(measurements: Iterator[Measurement], total: int) -> Iterator[Measurement]:
    """Every measurement, under a progress bar with the time left."""
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[now]}"),
    )
    # Drawing takes the interpreter from what is timed: once a second is enough.
    shown = Progress(*columns, console=Console(stderr=True), refresh_per_second=1)
    with shown as progress:
        task = progress.add_task("", total=total, now="")
        for measurement in measurements:
            now = f"{measurement.name} {measurement.problem.dtype}"
            progress.update(task, advance=1, now=now)
            yield measurement


def _compare(console: Console, first: Path, second: Path) -> None:
    from cupyna.profiling.records import compare
    from cupyna.profiling.report import comparison_table

    try:
        result, line = comparison_table(compare(first, second))
    except (OSError, ValueError) as error:
        raise typer.BadParameter(str(error)) from None
    console.print(result)
    console.print(line)


def _list(console: Console) -> None:
    from cupyna.profiling.peers import PEERS
    from cupyna.profiling.problems import SUITES
    from cupyna.profiling.report import problem_table

    console.print(problem_table())
    for title, entries in (("suites", SUITES), ("peers", PEERS)):
        console.print(f"{title}:")
        for name, what in entries.items():
            console.print(f"  {name:<15} {what}")
