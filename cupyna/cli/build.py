"""`cupyna build`: compile kernels ahead of time."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from cupyna.kernels.building import Build, Outcome
from cupyna.kernels.cache import cache_directory, writable_directory
from cupyna.kernels.compiler import CompilerMissingError, find_compiler
from cupyna.kernels.machine import gpus
from cupyna.kernels.manifest import Target, targets
from cupyna.kernels.resources import GOLDEN_FILE, Resources, write_golden
from cupyna.kernels.sources import installed_sources
from cupyna.kernels.store import SHIPPED
from cupyna.kernels.variant import ARCHITECTURES, architectures_on

__all__ = ["build"]


def build(
    arch: Annotated[
        list[str] | None,
        typer.Option(
            help=f"Architecture to build for, one of {', '.join(ARCHITECTURES)}. "
            "Repeat it for several. Without it: those of this machine's GPUs."
        ),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Build for every architecture, as wheels are.")
    ] = False,
    jobs: Annotated[
        int, typer.Option("--jobs", "-j", min=1, help="Compiles that run at a time.")
    ] = os.cpu_count() or 1,
    out: Annotated[
        Path, typer.Option(help="Directory of the cubins.", show_default="inside the package")
    ] = SHIPPED,
    record: Annotated[
        bool,
        typer.Option(
            help="Write registers, shared memory and spills of every kernel to the table "
            "that tests compare with. Needs --all and NVRTC."
        ),
    ] = False,
) -> None:
    """Compile the CUDA kernels ahead of time. Needs no GPU."""
    console = Console(stderr=True, highlight=False)
    wanted = targets(_architectures(arch, everything))
    try:
        compiler = find_compiler()
    except CompilerMissingError as error:
        console.print(str(error), style="red", markup=False, soft_wrap=True)
        raise typer.Exit(1) from None
    if record and not (everything and compiler.identity.startswith("nvrtc")):
        raise typer.BadParameter("--record needs --all, and NVRTC as the compiler")
    job = Build(compiler, installed_sources(), out, writable_directory(cache_directory()))
    outcomes = _run(job, wanted, jobs, console)
    failed = [outcome for outcome in outcomes if outcome.record is None]
    for outcome in failed:
        console.print(outcome.error, style="red", markup=False, soft_wrap=True)
    built = [outcome.record for outcome in outcomes if outcome.record is not None]
    size_mb = sum(done.size_bytes for done in built) / 1e6
    console.print(
        f"{len(built)} cubins, {size_mb:.2f} MB, {compiler.identity}, in {out}", soft_wrap=True
    )
    if failed:
        raise typer.Exit(1)
    if record:
        write_golden(compiler.identity, _table(outcomes))
        console.print(f"resources recorded in {GOLDEN_FILE}", soft_wrap=True)


def _run(job: Build, wanted: list[Target], jobs: int, console: Console) -> list[Outcome]:
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    outcomes = []
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=len(wanted))
        for outcome in job.run(wanted, jobs):
            outcomes.append(outcome)
            progress.update(task, advance=1, description=f"{outcome.variant.symbol} {outcome.arch}")
    return outcomes


def _architectures(chosen: list[str] | None, everything: bool) -> tuple[str, ...]:
    if everything:
        if chosen:
            raise typer.BadParameter("--all and --arch exclude each other")
        return ARCHITECTURES
    if chosen:
        unknown = [name for name in chosen if name not in ARCHITECTURES]
        if unknown:
            raise typer.BadParameter(
                f"--arch {unknown[0]} is not one of {', '.join(ARCHITECTURES)}"
            )
        return tuple(chosen)
    capabilities = [gpu.compute_capability for gpu in gpus()]
    found = tuple(dict.fromkeys(arch for pair in capabilities for arch in architectures_on(pair)))
    if not found:
        raise typer.BadParameter(
            "this machine has no GPU that kernels are built for: choose --all or --arch"
        )
    return found


def _table(outcomes: list[Outcome]) -> dict[str, dict[str, Resources]]:
    table: dict[str, dict[str, Resources]] = {}
    for outcome in outcomes:
        if outcome.record is not None:
            table.setdefault(outcome.variant.symbol, {})[outcome.arch] = outcome.record.resources
    return table
