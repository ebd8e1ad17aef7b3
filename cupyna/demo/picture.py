"""The comparison as one picture: clean, noisy, ours and theirs, each with a zoom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .experiment import Entry, Experiment
from .report import duration

__all__ = ["check_output", "draw"]

_ACCENT = "#1473e6"
_INK = "#22262a"
_FAINT = "#7a828a"
_PANEL_INCHES = 3.2
_GAP_INCHES = 0.12
_TITLE_INCHES = 0.52
_HEADER_INCHES = 0.6
_DPI = 160
_TITLE_LETTERS = 36
_ZOOM = 5  # the zoom shows a fifth of each side


@dataclass(frozen=True, slots=True)
class _Region:
    """The part of a plane that is shown enlarged: first row, first column, rows, columns."""

    row: int
    column: int
    rows: int
    columns: int

    @property
    def index(self) -> tuple[slice, slice]:
        return (
            slice(self.row, self.row + self.rows),
            slice(self.column, self.column + self.columns),
        )


def check_output(path: Path) -> None:
    """Find out before a long computation whether the picture can be written.

    Raises
    ------
    ValueError
        If the folder does not exist or the file's ending names no format of a picture.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    formats = FigureCanvasAgg.get_supported_filetypes()
    if path.suffix.lower().lstrip(".") not in formats:
        raise ValueError(f"{path} must end in one of: {', '.join(sorted(formats))}")
    if not path.parent.is_dir():
        raise ValueError(f"the folder {path.parent} does not exist")


def draw(experiment: Experiment, path: Path) -> None:
    """Write the picture of an experiment."""
    # The object-oriented interface leaves the state of matplotlib.pyplot alone.
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    with rc_context({"font.family": "DejaVu Sans", "text.color": _INK}):
        figure = _signals(experiment) if experiment.sample.rank == 1 else _planes(experiment)
        FigureCanvasAgg(figure).print_figure(path, dpi=_DPI, facecolor="white")


def _planes(experiment: Experiment) -> Any:
    """Four pictures in a row, or the middle slices of four volumes, with the zooms below."""
    planes = [_plane(entry.values) for entry in experiment.entries]
    rows, columns = planes[0].shape[:2]
    # A panel has the shape of the picture, within reason; the zoom has that of its panel.
    whole_ratio = float(np.clip(rows / columns, 0.2, 1.8))
    zoom_ratio = float(np.clip(rows / columns, 0.6, 1.2))
    zoom_columns = min((rows * columns / zoom_ratio) ** 0.5 / _ZOOM, columns, rows / zoom_ratio)
    region = _busiest(planes[0], round(zoom_columns * zoom_ratio), round(zoom_columns))
    grid = _Grid(_PANEL_INCHES, (_PANEL_INCHES * whole_ratio, _PANEL_INCHES * zoom_ratio))
    figure = grid.figure(experiment)
    for column, (entry, plane) in enumerate(zip(experiment.entries, planes, strict=True)):
        whole, zoom = (grid.axes(figure, row, column) for row in (0, 1))
        for axes, shown in ((whole, plane), (zoom, plane[region.index])):
            smooth = "nearest" if axes is zoom else "antialiased"
            aspect = "auto" if axes is zoom else "equal"
            axes.imshow(shown, "gray", aspect=aspect, interpolation=smooth, vmin=0, vmax=1)
            axes.set_anchor("NW")
            axes.set_xticks([])
            axes.set_yticks([])
        _frame(whole, _INK, 0.6)
        _frame(zoom, _ACCENT, 1.8)
        _mark(whole, region.column - 0.5, region.row - 0.5, region.columns, region.rows)
        grid.label(figure, column, experiment, entry)
    return figure


def _signals(experiment: Experiment) -> Any:
    """Four signals in a row, the clean one faint behind the others, with the zooms below."""
    lines = [entry.values[:, 0] for entry in experiment.entries]
    region = _busiest(lines[0][None], 1, max(2, len(lines[0]) // _ZOOM))
    inside = region.index[1]
    low, high = min(map(np.min, lines)), max(map(np.max, lines))
    margin = 0.04 * (high - low)
    grid = _Grid(4.2, (2.3, 2.3))
    figure = grid.figure(experiment)
    positions = np.arange(len(lines[0]))
    for column, (entry, line) in enumerate(zip(experiment.entries, lines, strict=True)):
        whole, zoom = (grid.axes(figure, row, column) for row in (0, 1))
        for axes, shown, width in ((whole, slice(None), 0.8), (zoom, inside, 1.4)):
            if entry is not experiment.clean:
                axes.plot(positions[shown], lines[0][shown], color="#b8bfc6", linewidth=width)
            axes.plot(positions[shown], line[shown], color=_INK, linewidth=width)
            axes.margins(x=0)
            axes.set_ylim(low - margin, high + margin)
            axes.set_xticks([])
            axes.set_yticks([])
        _frame(whole, _INK, 0.6)
        _frame(zoom, _ACCENT, 1.8)
        _mark(whole, region.column, low - margin / 2, region.columns, high - low + margin)
        grid.label(figure, column, experiment, entry)
    return figure


@dataclass(frozen=True, slots=True)
class _Grid:
    """Two rows of four panels at exact places, in inches, with a title above each column."""

    width: float
    heights: tuple[float, float]

    @property
    def size(self) -> tuple[float, float]:
        across = 4 * self.width + 5 * _GAP_INCHES
        return across, _HEADER_INCHES + _TITLE_INCHES + sum(self.heights) + 2 * _GAP_INCHES

    def figure(self, experiment: Experiment) -> Any:
        from matplotlib.figure import Figure

        figure = Figure(figsize=self.size)
        width, height = self.size
        title = experiment.sample.title
        if len(title) > _TITLE_LETTERS:
            title = title[: _TITLE_LETTERS - 1] + "\N{HORIZONTAL ELLIPSIS}"
        left, middle = _GAP_INCHES / width, 1 - 0.62 * _HEADER_INCHES / height
        figure.text(
            left, middle, f"Non-local means: {title}",
            fontsize=15, weight="bold", va="center", parse_math=False,
        )  # fmt: skip
        figure.text(
            1 - left, middle, _setting(experiment),
            fontsize=9.5, color=_FAINT, ha="right", va="center",
        )  # fmt: skip
        return figure

    def axes(self, figure: Any, row: int, column: int) -> Any:
        width, height = self.size
        x = _GAP_INCHES + column * (self.width + _GAP_INCHES)
        y = _GAP_INCHES if row == 1 else 2 * _GAP_INCHES + self.heights[1]
        return figure.add_axes(
            (x / width, y / height, self.width / width, self.heights[row] / height)
        )

    def label(self, figure: Any, column: int, experiment: Experiment, entry: Entry) -> None:
        """The name of an entry above its column, and its figures below the name."""
        details = []
        if entry.quality is not None:
            details += [f"{entry.quality.psnr_db:.2f} dB", f"SSIM {entry.quality.ssim:.3f}"]
        if entry.time_s is not None:
            details.append(duration(entry.time_s))
        width, height = self.size
        x = (_GAP_INCHES + column * (self.width + _GAP_INCHES)) / width
        top = 2 * _GAP_INCHES + sum(self.heights)
        weight = "bold" if entry is experiment.ours else "normal"
        figure.text(x, (top + 0.28) / height, entry.name, fontsize=12, weight=weight)
        below = " \N{MIDDLE DOT} ".join(details) or "the truth"
        figure.text(x, (top + 0.09) / height, below, fontsize=9.5, color=_FAINT)


def _setting(experiment: Experiment) -> str:
    """Sizes and settings in one line."""
    sample = experiment.sample
    facts = [
        _product(sample.spatial),
        f"noise {experiment.sigma:g}",
        f"window {_product([sample.kernel_size] * sample.rank)}",
        f"patches {_product([sample.patch_size] * sample.rank)}",
        experiment.place,
    ]
    if sample.rank == 3:
        facts[0] += f", middle slice of {sample.spatial[-1]}"
    return " · ".join(facts)


def _product(extents: Sequence[int]) -> str:
    return "\N{MULTIPLICATION SIGN}".join(map(str, extents))


def _plane(values: np.ndarray) -> np.ndarray:
    """What of the data is shown: a picture itself, or the middle slice of a volume."""
    if values.ndim == 4:
        values = values[:, :, values.shape[2] // 2].swapaxes(0, 1)[::-1]
    shown: np.ndarray = np.clip(values, 0, 1)
    return shown[..., 0] if shown.shape[-1] == 1 else shown


def _busiest(plane: np.ndarray, rows: int, columns: int) -> _Region:
    """The region with the most detail near its middle, looked for on a coarse grid of places."""
    gray = plane.mean(-1) if plane.ndim == 3 else plane
    detail = np.hypot(
        np.diff(gray, axis=0, append=gray[-1:]), np.diff(gray, axis=1, append=gray[:, -1:])
    )
    middle = np.outer(np.hanning(rows + 2)[1:-1], np.hanning(columns + 2)[1:-1])
    places = [
        _Region(int(row), int(column), rows, columns)
        for row in np.linspace(0, gray.shape[0] - rows, 4 * _ZOOM)
        for column in np.linspace(0, gray.shape[1] - columns, 4 * _ZOOM)
    ]
    return max(places, key=lambda region: float((middle * detail[region.index]).sum()))


def _frame(axes: Any, color: str, width: float) -> None:
    for spine in axes.spines.values():
        spine.set(edgecolor=color, linewidth=width)


def _mark(axes: Any, x: float, y: float, width: float, height: float) -> None:
    """Outline what the zoom shows; a white seam keeps it visible on any color."""
    from matplotlib.patches import Rectangle
    from matplotlib.patheffects import withStroke

    outline = Rectangle((x, y), width, height, fill=False, edgecolor=_ACCENT, linewidth=1.6)
    outline.set_path_effects([withStroke(linewidth=3.6, foreground="white")])
    axes.add_patch(outline)
