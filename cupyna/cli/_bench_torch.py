"""`cupyna bench overhead` and `cupyna bench models`: what torch's users feel."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from cupyna.kernels.machine import gpus

__all__ = ["models", "overhead"]

Out = Annotated[Path | None, typer.Option(help="JSON file to write.")]
Commit = Annotated[str, typer.Option(help="Name of the measured commit, for the file.")]


def overhead(
    rounds: Annotated[int, typer.Option(min=1, help="Runs of 100 calls.")] = 15,
    out: Out = None,
    commit: Commit = "",
) -> None:
    """Time what the host spends on a small call from torch, whole and in parts."""
    _need_gpu()
    from cupyna.profiling.overhead import measure

    found = measure(rounds)
    table = Table(title="host time in microseconds")
    table.add_column("what")
    table.add_column("us", justify="right")
    for group in (found.calls, found.parts, found.others):
        for name, time_us in group.items():
            table.add_row(name, f"{time_us:.2f}")
        table.add_section()
    Console(width=100).print(table)
    if out is not None:
        _write(out, {"what": "host time, microseconds", **found.to_json()}, commit)


def models(
    model: Annotated[
        list[str] | None, typer.Option(help="Model to measure. Repeat it for several.")
    ] = None,
    method: Annotated[
        list[str] | None, typer.Option(help="naive, gemm or fused. Default: every method.")
    ] = None,
    peer: Annotated[
        list[str] | None,
        typer.Option(help="natten, natten-naive=FOLDER or natten-gemm=FOLDER."),
    ] = None,
    dtype: Annotated[list[str] | None, typer.Option(help="Default: float16 and float32.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images of a step.")] = 128,
    rounds: Annotated[int, typer.Option(min=1, help="Interleaved rounds.")] = 5,
    training: Annotated[bool, typer.Option("--training", help="Training steps.")] = False,
    device: Annotated[str, typer.Option(help="torch's name of it.")] = "cuda",
    out: Out = None,
    commit: Commit = "",
) -> None:
    """Time NAT and DiNAT in images per second, with each method."""
    from cupyna.problem import METHODS
    from cupyna.profiling.models import Plan, markdown, measure
    from cupyna.profiling.peers.layers import PEERS
    from cupyna.torch.models import LAYOUTS

    peers = [name.partition("=")[0] for name in peer or ()]
    for option, given, known in (
        ("model", model, LAYOUTS), ("method", method, METHODS), ("peer", peers, PEERS),
    ):  # fmt: skip
        for name in given or ():
            if name not in known:
                raise typer.BadParameter(f"--{option} {name} is not one of {', '.join(known)}")
    if device.startswith("cuda"):
        _need_gpu()
    plan = Plan(
        models=model or list(LAYOUTS),
        methods=method or list(METHODS),
        peers=peer or [],
        dtypes=dtype or ["float16", "float32"],
        batch=batch,
        rounds=rounds,
        training=training,
        device=device,
    )
    document: dict[str, Any] = {"what": "images per second", "rounds": rounds, "measurements": []}
    console = Console(stderr=True)
    for times in measure(plan):
        document["measurements"].append(times.to_json())
        console.print(f"{times.model} {times.dtype}", times.to_json()["images_per_s"])
        for name, reason in times.refusals.items():
            console.print(f"  {name}: {reason}", markup=False)
        if out is not None:
            _write(out, document, commit)
    typer.echo(markdown(document))


def _need_gpu() -> None:
    if not gpus():
        raise typer.BadParameter("this machine has no NVIDIA GPU")


def _write(path: Path, document: dict[str, Any], commit: str) -> None:
    from cupyna.profiling.records import environment

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**document, **environment(commit)}, indent=1) + "\n", "utf-8")
