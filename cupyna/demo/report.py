"""The comparison as a table."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Table

from .experiment import Entry, Experiment

__all__ = ["duration", "table"]


def duration(time_s: float) -> str:
    """Seconds, or milliseconds where seconds would round to nothing."""
    return f"{time_s:.2f} s" if time_s >= 0.1 else f"{1e3 * time_s:.1f} ms"


def table(experiment: Experiment) -> Table:
    """PSNR, gain, SSIM and time of the noisy data and of each denoiser."""
    sample = experiment.sample
    tokens = " x ".join(map(str, sample.spatial))
    axes = sample.rank
    made = Table(
        title=f"{escape(sample.title)}, {tokens}, sigma {experiment.sigma:g}, "
        f"seed {experiment.seed}",
        caption=f"window {_box(sample.kernel_size, axes)}, patches {_box(sample.patch_size, axes)},"
        f" h = {sample.bandwidth:g} sigma; cupyna on {escape(experiment.place)}",
    )
    made.add_column("")
    for heading in ("PSNR", "gain", "SSIM", "time"):
        made.add_column(heading, justify="right")
    for entry in experiment.entries[1:]:
        made.add_row(*_cells(experiment, entry))
    return made


def _cells(experiment: Experiment, entry: Entry) -> tuple[str, ...]:
    assert entry.quality is not None
    scores = f"{entry.quality.psnr_db:.2f} dB", f"{entry.quality.ssim:.3f}"
    if entry.time_s is None:
        return entry.name, scores[0], "", scores[1], ""
    gain = f"{experiment.gain_db(entry):+.2f} dB"
    return entry.name, scores[0], gain, scores[1], duration(entry.time_s)


def _box(extent: int, axes: int) -> str:
    return "x".join([str(extent)] * axes)
