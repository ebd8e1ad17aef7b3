"""Plots for the documentation: the same data give the same file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Curves", "curves", "dots"]

_MARKERS = "osD^v<>pPX"

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Curves:
    """What a plot of lines shows.

    Parameters
    ----------
    title, x, y : str
        Labels.
    lines : mapping
        Points by name.
    log_x, log_y : bool
    """

    title: str
    x: str
    y: str
    lines: Mapping[str, Points]
    log_x: bool = True
    log_y: bool = True


def curves(path: Path, plots: Sequence[Curves]) -> None:
    """Write one or several plots side by side as SVG."""
    figure = _figure((4.6 * len(plots) + 1.6, 3.9))
    names = list(dict.fromkeys(name for plot in plots for name in plot.lines))
    for axes, plot in zip(_axes(figure, len(plots)), plots, strict=True):
        for name, points in plot.lines.items():
            color = f"C{names.index(name) % 10}"
            axes.plot(*zip(*points, strict=True), "o-", color=color, label=name, ms=3, lw=1.2)
        if plot.log_x:
            axes.set_xscale("log", base=2)
        if plot.log_y:
            axes.set_yscale("log")
        axes.set(title=plot.title, xlabel=plot.x, ylabel=plot.y)
        axes.grid(True, color="0.9")
    # One legend: the lines of all plots are the same ones, or fewer.
    labels: dict[str, Any] = {}
    for axes in figure.axes:
        for line, name in zip(*axes.get_legend_handles_labels(), strict=True):
            labels.setdefault(name, line)
    figure.legend(labels.values(), labels, loc="outside right upper", fontsize=8)
    _save(figure, path)


def dots(path: Path, y: str, groups: Mapping[str, Mapping[str, float]]) -> None:
    """Write a column of dots for each group as SVG: by group, then by name."""
    names = list(dict.fromkeys(name for group in groups.values() for name in group))
    figure = _figure((max(6.5, 0.85 * len(groups) + 2), 3.9))
    (axes,) = _axes(figure, 1)
    for i, name in enumerate(names):
        points = [(at, group[name]) for at, group in enumerate(groups.values()) if name in group]
        axes.plot(*zip(*points, strict=True), _MARKERS[i % len(_MARKERS)], label=name)
    axes.set_xticks(range(len(groups)), list(groups))
    axes.set_yscale("log")
    axes.set_ylabel(y)
    axes.grid(True, color="0.9")
    figure.legend(loc="outside right upper", fontsize=8)
    _save(figure, path)


def _figure(size: tuple[float, float]) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=size, layout="constrained")


def _axes(figure: Any, count: int) -> list[Any]:
    return list(figure.subplots(1, count, squeeze=False)[0])


def _save(figure: Any, path: Path) -> None:
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    FigureCanvasSVG(figure)
    path.parent.mkdir(parents=True, exist_ok=True)
    with rc_context({"svg.hashsalt": "cupyna", "svg.fonttype": "path"}):
        figure.savefig(path, metadata={"Date": None})
