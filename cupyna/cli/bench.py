"""`cupyna bench`: times on this machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from cupyna.kernels.machine import gpus

if TYPE_CHECKING:
    from cupyna.profiling.naive import Measurement

__all__ = ["bench"]


class Subject(StrEnum):
    """What is measured."""

    CPU = "cpu"
    NAIVE = "naive"
    FUSED = "fused"


def bench(
    subject: Annotated[
        Subject, typer.Argument(help="cpu: the CPU path. naive, fused: the CUDA kernels.")
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
    from cupyna.profiling import fused, naive

    cases = list(naive.CASES) if case is None else case
    unknown = set(cases) - set(naive.CASES)
    if unknown:
        raise typer.BadParameter(f"--case {min(unknown)} is not one of {', '.join(naive.CASES)}")
    if subject is Subject.FUSED:
        measurements = fused.measure(cases, fused.DTYPES, rounds)
    else:
        from cupyna.profiling.peers import Natten175

        beside = None if peer is None else Natten175(peer)
        measurements = naive.measure(beside, cases, naive.DTYPES, rounds)
    found = _watched(measurements, len(cases) * 2)
    Console(width=180).print(_table(found))
    if out is not None:
        naive.write(out, found, rounds, commit)


def _watched(measurements: Iterator[Measurement], total: int) -> list[Measurement]:
    """Every measurement, under a progress bar."""
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[now]}"),
    )
    found = []
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=total, now="")
        for measurement in measurements:
            found.append(measurement)
            now = f"{measurement.case} {measurement.problem.dtype}"
            progress.update(task, advance=1, now=now)
    return found


def _table(found: Sequence[Measurement]) -> Table:
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
    return table
