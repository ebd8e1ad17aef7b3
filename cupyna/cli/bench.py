"""`cupyna bench`: times on this machine."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from cupyna.kernels.machine import gpus

__all__ = ["bench"]


class Subject(StrEnum):
    """What is measured."""

    CPU = "cpu"
    NAIVE = "naive"


def bench(
    subject: Annotated[
        Subject, typer.Argument(help="cpu: the CPU path. naive: the naive CUDA kernels.")
    ] = Subject.CPU,
    peer: Annotated[
        Path | None,
        typer.Option(help="Folder of NATTEN 0.17.5's kernels, to time them side by side."),
    ] = None,
    case: Annotated[
        list[str] | None, typer.Option(help="Case to measure. Repeat it for several.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Interleaved rounds.")] = 7,
    out: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
    commit: Annotated[str, typer.Option(help="Name of the measured commit, for the file.")] = "",
) -> None:
    """Time the methods on this machine."""
    if subject is Subject.CPU:
        from cupyna.profiling.cpu import measure, report

        report(measure())
        return
    if not gpus():
        raise typer.BadParameter("this machine has no NVIDIA GPU")
    _bench_naive(peer, case, rounds, out, commit)


def _bench_naive(
    peer: Path | None, chosen: list[str] | None, rounds: int, out: Path | None, commit: str
) -> None:
    from cupyna.profiling.naive import CASES, DTYPES, measure, write
    from cupyna.profiling.peers import Natten175

    cases = list(CASES) if chosen is None else chosen
    unknown = set(cases) - set(CASES)
    if unknown:
        raise typer.BadParameter(f"--case {min(unknown)} is not one of {', '.join(CASES)}")
    beside = None if peer is None else Natten175(peer)
    found = []
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[now]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=len(cases) * len(DTYPES), now="")
        for measurement in measure(beside, cases, DTYPES, rounds):
            found.append(measurement)
            now = f"{measurement.case} {measurement.problem.dtype}"
            progress.update(task, advance=1, now=now)
    table = Table(title="milliseconds, and how many times as long the peer takes")
    for name in ("case", "dtype", *found[0].times):
        table.add_column(name, justify="right" if name in found[0].times else "left")
    for measurement in found:
        cells = []
        for piece, times in measurement.times.items():
            ratio = measurement.ratio(piece)
            ours = f"{times['cupyna'].median_us / 1e3:.3f}"
            cells.append(ours if ratio is None else f"{ours} ({ratio:.1f}x)")
        table.add_row(measurement.case, measurement.problem.dtype, *cells)
    Console(width=180).print(table)
    if out is not None:
        write(out, found, rounds, commit)
