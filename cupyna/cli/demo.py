"""`cupyna demo`: the main job on real data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from cupyna.demo import experiment, picture, report, sources
from cupyna.demo.sample import Sample

__all__ = ["demo"]


def demo(
    image: Annotated[
        Path | None,
        typer.Option(
            help="A picture of your own instead of the astronaut.",
            exists=True,
            dir_okay=False,
            readable=True,
            show_default=False,
        ),
    ] = None,
    volume: Annotated[
        bool, typer.Option("--volume", help="An MRI volume, in three axes (nibabel's example).")
    ] = False,
    signal: Annotated[
        bool, typer.Option("--signal", help="An electrocardiogram, in one axis (PyWavelets').")
    ] = False,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Where to write the picture.", dir_okay=False)
    ] = Path("cupyna-demo.png"),
    sigma: Annotated[
        float,
        typer.Option(
            min=0.001, max=1, help="Standard deviation of the noise; data lies between 0 and 1."
        ),
    ] = 0.1,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the noise.")] = 0,
    device: Annotated[
        Literal["auto", "cpu", "gpu"],
        typer.Option(help="Where cupyna computes; auto takes a GPU if its kernels are built."),
    ] = "auto",
) -> None:
    """Denoise a picture, a volume or a signal with neighborhood attention.

    Adds noise to clean data, removes it by non-local means as one call of neighborhood attention
    and by scikit-image, prints PSNR, SSIM and time of each, and writes a picture of all.
    """
    if (image is not None) + volume + signal > 1:
        raise typer.BadParameter("--image, --volume and --signal exclude each other")
    console = Console(stderr=True, highlight=False)
    try:
        picture.check_output(output)
        result = _run(_sample(image, volume, signal), output, sigma, seed, device, console)
    except (OSError, ValueError) as error:
        console.print(f"cupyna demo: {error}", style="red", markup=False, soft_wrap=True)
        raise typer.Exit(1) from None
    if result.place_reason:
        console.print(f"on the CPU: {result.place_reason}", markup=False, soft_wrap=True)
    answer = Console(highlight=False)
    answer.print(report.table(result))
    answer.print(f"Picture: {output}", markup=False, soft_wrap=True)


def _sample(image: Path | None, volume: bool, signal: bool) -> Sample:
    if image is not None:
        return sources.picture_file(image)
    if volume:
        return sources.volume()
    return sources.electrocardiogram() if signal else sources.astronaut()


def _run(
    sample: Sample, output: Path, sigma: float, seed: int, device: str, console: Console
) -> experiment.Experiment:
    columns = (BarColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("getting ready", total=experiment.STEPS)

        def advance(steps: float, stage: str) -> None:
            progress.update(task, advance=steps, description=stage)

        result = experiment.run(sample, sigma=sigma, seed=seed, device=device, advance=advance)
        picture.draw(result, output)
        advance(1, "done")
    return result
