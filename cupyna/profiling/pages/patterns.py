"""What other patterns cost that the same kernels compute."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from .plots import dots
from .results import Found, Results, load, machine, slug, table

__all__ = ["write"]

_PLAIN = "sliding"


def write(results: Path, generated: Path) -> str:
    """Markdown of every file on patterns; plots go beside it."""
    lines: list[str] = []
    for file in load(results, "patterns"):
        lines += [f"## {file.gpu}", "", machine(file), ""]
        for dtype in file.dtypes:
            for direction in ("forward", "forward+backward"):
                lines += _section(file, dtype, direction, generated)
    return "\n".join(lines)


def _section(file: Results, dtype: str, direction: str, generated: Path) -> Iterator[str]:
    names = file.implementations(direction, dtype)
    found = file.of(dtype, direction=direction)
    if not names:
        return
    plain = {f.name.split(", ")[0]: f for f in found if f.name.endswith(f", {_PLAIN}")}
    rows, groups = [], {}
    for one in found:
        grid, _, pattern = one.name.partition(", ")
        cells = [_cell(one, plain.get(grid), name, direction) for name in names]
        rows.append((grid, pattern, *cells))
        times = {name: one.time_us(name, direction) for name in names}
        groups[f"{grid},\n{pattern}"] = {n: t / 1e3 for n, t in times.items() if t is not None}
    plot = f"{file.stem}-{slug(dtype, direction)}.svg"
    dots(generated / plot, "ms", groups)
    yield f"### {dtype}, {direction}"
    yield ""
    yield f"![Time of every pattern, {dtype}, {direction}](../generated/{plot})"
    yield ""
    yield "Milliseconds; in brackets the part of the sliding window's time."
    yield ""
    yield from table(("grid", "pattern", *names), rows)


def _cell(one: Found, plain: Found | None, name: str, direction: str) -> str:
    time_us = one.time_us(name, direction)
    if time_us is None:
        return "-"
    whole = None if plain is None else plain.time_us(name, direction)
    share = "" if whole is None else f" ({time_us / whole:.2f})"
    return f"{time_us / 1e3:.3f}{share}"
