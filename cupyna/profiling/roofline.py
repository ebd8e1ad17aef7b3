"""A roofline: useful operations for each byte moved, against their rate, under the ceilings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from .profile import Profile

__all__ = ["draw"]

_MARKERS = {"forward": "o", "backward": "s"}


def draw(profile: Profile, path: Path) -> None:
    """Write the plot as PNG, SVG or whatever else the suffix names.

    Raises
    ------
    ModuleNotFoundError
        If matplotlib is not installed.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # The same plot gives the same file: no random identifiers.
    with rc_context({"svg.hashsalt": "cupyna", "svg.fonttype": "path"}):
        figure = Figure(figsize=(7, 4.5), layout="constrained")
        FigureCanvasAgg(figure)
        _fill(figure.subplots(), profile)
        metadata = {"Date": None} if path.suffix == ".svg" else None
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150, metadata=metadata)


def _fill(axes: Any, profile: Profile) -> None:
    lines = [line for line in profile.lines if line.counts is not None]
    ceilings = profile.ceilings
    roof = ceilings.of(profile.problem.dtype)
    ridge = roof / ceilings.bytes_per_us
    points = [ridge, *(line.intensity for line in lines)]
    xs = np.geomspace(min(points) / 4, max(points) * 4, 200)
    kind = "measured" if ceilings.is_measured else "data sheet"
    axes.plot(
        xs, np.minimum(roof, ceilings.bytes_per_us * xs) / 1e6, color="0.3",
        label=f"{kind}: {roof / 1e6:.0f} TFLOP/s, {ceilings.bytes_per_us / 1e6:.2f} TB/s",
    )  # fmt: skip
    names = list(dict.fromkeys(line.name for line in lines))
    for line in lines:
        axes.plot(
            line.intensity, line.flops_per_us / 1e6, _MARKERS[line.operation],
            color=f"C{names.index(line.name)}", label=f"{line.name}, {line.operation}",
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("useful operations for each byte moved")
    axes.set_ylabel("useful TFLOP/s")
    what = "measured" if profile.is_measured else "predicted, not measured"
    axes.set_title(f"{profile.device.name}, {profile.problem.dtype}: {what}", fontsize=10)
    axes.legend(fontsize=8)
    axes.grid(True, which="major", color="0.9")
