"""How cost grows with tokens, window and head_dim, and how long a sequence fits."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from .plots import Curves, curves
from .results import Found, Results, load, machine, slug, table

__all__ = ["write"]

# First word of a problem's name, what grows, and how to read it off.
_SERIES = (
    ("tokens", "tokens of a sequence, window 127"),
    ("image", "tokens of an image, window 13x13"),
    ("window", "window of a sequence of 16384 tokens"),
    ("head_dim", "head_dim, 16384 tokens, window 127"),
)


def write(results: Path, generated: Path) -> str:
    """Markdown of every file on growth; plots go beside it."""
    lines: list[str] = []
    for file in load(results, "scaling"):
        lines += [f"## {file.gpu}", "", machine(file), ""]
        for dtype in file.dtypes:
            for direction in ("forward", "backward", "forward+backward"):
                lines += _growth(file, dtype, direction, generated)
    for file in load(results, "longest"):
        lines += [f"## The longest context, {file.gpu}", "", machine(file), ""]
        lines += _longest(file, generated)
    return "\n".join(lines)


def _grown(found: Found, word: str) -> int:
    problem = found.problem
    return {"window": problem.window, "head_dim": problem.head_dim}.get(word, problem.tokens)


def _growth(file: Results, dtype: str, direction: str, generated: Path) -> Iterator[str]:
    names = file.implementations(direction, dtype)
    if not names:
        return
    plots, tables = [], []
    for word, label in _SERIES:
        series = [f for f in file.of(dtype, direction=direction) if f.name.split()[0] == word]
        if not series:
            continue
        points = {name: _points(series, name, word, direction) for name in names}
        drawn = {name: line for name, line in points.items() if line}
        plots.append(Curves(label, "tokens" if word == "image" else word, "ms", drawn))
        rows = (
            (str(_grown(found, word)), *(_ms(found.time_us(name, direction)) for name in names))
            for found in series
        )
        exponents = ("time grows as its power", *(_exponent(points[name]) for name in names))
        tables.append(list(table((label, *names), [*rows, exponents])))
    yield f"### {dtype}, {direction}"
    yield ""
    for first in range(0, len(plots), 2):
        plot = f"{file.stem}-{slug(dtype, direction)}-{first}.svg"
        curves(generated / plot, plots[first : first + 2])
        yield f"![Time as each size grows, {dtype}, {direction}](../generated/{plot})"
        yield ""
        for lines in tables[first : first + 2]:
            yield from lines


def _points(
    series: Sequence[Found], name: str, word: str, direction: str
) -> list[tuple[float, float]]:
    times = ((_grown(found, word), found.time_us(name, direction)) for found in series)
    return [(size, time_us / 1e3) for size, time_us in times if time_us is not None]


def _exponent(points: Sequence[tuple[float, float]]) -> str:
    """Slope of the larger half of a line of times, on logarithmic axes."""
    if len(points) < 4:
        return "-"
    sizes, times = np.log(np.array(points[len(points) // 2 :])).T
    return f"{np.polyfit(sizes, times, 1)[0]:.2f}"


def _ms(time_us: float | None) -> str:
    return "-" if time_us is None else f"{time_us / 1e3:.3f}"


def _longest(file: Results, generated: Path) -> Iterator[str]:
    """Per implementation: the most tokens that ran, and why twice as many do not."""
    problem = file.found[0].problem
    yield (
        f"Batch {problem.batch}, {problem.heads} heads x {problem.head_dim}, window "
        f"{problem.window}; tokens double until memory, or the time for one problem, is short. "
        "Dense attention that stores no weights is stopped by its time, which is quadratic, long "
        "before its memory."
    )
    yield ""
    plots, rows = [], []
    for dtype, direction in itertools.product(file.dtypes, ("forward", "forward+backward")):
        lines = {}
        for name in file.implementations(direction, dtype):
            ran = [f for f in file.of(dtype) if f.time_us(name, direction) is not None]
            best = max(ran, key=lambda found: found.problem.tokens)
            twice = (
                found.direction(name, direction).get("refused", "")
                for found in file.of(dtype)
                if found.problem.tokens == 2 * best.problem.tokens
            )
            reason = next((reason for reason in twice if reason), "")
            stored = best.direction(name, direction)
            lines[name] = _points(ran, name, "tokens", direction)
            rows.append(
                (
                    name, dtype, direction, f"{best.problem.tokens:,}",
                    _ms(stored["median_us"]), f"{stored['peak_bytes'] / 2**30:.2f}",
                    reason or "not tried",
                )
            )  # fmt: skip
        if lines:
            plots.append(Curves(f"{dtype}, {direction}", "tokens", "ms", lines))
    plot = f"{file.stem}.svg"
    curves(generated / plot, plots)
    yield f"![Time of one call as the context doubles](../generated/{plot})"
    yield ""
    columns = (
        "implementation", "dtype", "direction", "tokens", "ms", "GiB beside inputs",
        "twice as many",
    )  # fmt: skip
    yield from table(columns, rows)
    for dtype, direction in itertools.product(file.dtypes, ("forward", "forward+backward")):
        names = file.implementations(direction, dtype)
        if names:
            times = (
                (
                    f"{found.problem.tokens:,}",
                    *(_ms(found.time_us(name, direction)) for name in names),
                )
                for found in file.of(dtype, direction=direction)
            )
            yield from table((f"tokens, {dtype}, {direction}, ms", *names), times)
