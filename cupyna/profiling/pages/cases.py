"""Single problems: every method beside every other library and the floor."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from pathlib import Path

from ...tiles import TilePlan
from ..implementations import DIRECTIONS, PIECES
from ..records import NOISE, flops
from .plots import dots
from .results import Found, Results, load, machine, slug, table

__all__ = ["describe", "floor_us", "write"]

_DIRECTIONS = (*DIRECTIONS, *PIECES)
_DENSE = "cuDNN, dense"
_ROWS = 64


def write(results: Path, generated: Path) -> str:
    """Markdown of every file of cases; plots go beside it."""
    lines: list[str] = []
    for suite, title in (("cases", ""), ("dense", ", windows as large as the grid")):
        for file in load(results, suite):
            lines += [f"## {file.gpu}{title}", "", machine(file), ""]
            for dtype in file.dtypes:
                for direction in _DIRECTIONS:
                    lines += _section(file, dtype, direction, generated)
    return "\n".join(lines)


def describe(found: Found) -> str:
    """A problem in words."""
    problem = found.problem
    text = (
        f"batch {problem.batch}, {problem.heads} heads x {problem.head_dim}, "
        f"{_joined(problem.spatial)}, window {_joined(problem.kernel_size)}"
    )
    for name, values in (("stride", problem.stride), ("dilation", problem.dilation)):
        if max(values) > 1:
            text += f", {name} {_joined(values)}"
    return text + (", causal" if any(problem.is_causal) else "")


def _joined(sizes: tuple[int, ...]) -> str:
    return "x".join(map(str, sizes))


def floor_us(file: Results, found: Found, direction: str) -> float | None:
    """What no kernel of 64-query tiles passes, if the file has the ceilings for it.

    The larger of the least bytes at the rate of a copy, and of the products inside the exact key
    boxes of the best tile shape of 64 queries at the rate of dense attention of the same head_dim.
    """
    dense = _dense_rate(file, found, direction)
    copied = file.bytes_per_us
    if dense is None or copied is None or direction not in ("forward", "backward"):
        return None
    problem = found.problem
    passed = 1.0 if direction == "forward" else 2.0  # backward reads and writes twice as much
    bytes_us = passed * problem.least_bytes / copied
    pairs = min(
        TilePlan(problem.axes, tile, tile).counts.box_tokens * _ROWS
        for tile in itertools.product(*([1 << i for i in range(7)],) * problem.rank)
        if math.prod(tile) == _ROWS
    )
    useful = found.problem.tokens * problem.window
    share = pairs / useful
    return max(bytes_us, flops(problem, direction) * share / dense / 1e6)


def _dense_rate(file: Results, found: Found, direction: str) -> float | None:
    """Best rate of dense attention in the file with the problem's head_dim, in TFLOP/s."""
    rates = []
    for other in file.of(found.dtype):
        time_us = other.time_us(_DENSE, direction)
        if time_us is not None and other.problem.head_dim == found.problem.head_dim:
            problem = other.problem
            pairs = problem.batch * problem.heads * problem.tokens**2
            channels = 4 if direction == "forward" else 10
            rates.append(channels * pairs * problem.head_dim / time_us / 1e6)
    return max(rates, default=None)


def _section(file: Results, dtype: str, direction: str, generated: Path) -> Iterator[str]:
    names = file.implementations(direction, dtype)
    if not names:
        return
    yield f"### {dtype}, {direction}"
    yield ""
    rows, groups = [], {}
    has_floor, has_rough = False, False
    for found in file.of(dtype, direction=direction):
        floor = floor_us(file, found, direction)
        has_floor |= floor is not None
        cells = [_cell(found, name, direction) for name in names]
        has_rough |= any(cell.endswith("\\*") for cell in cells)
        floor_cell = "-" if floor is None else f"{floor / 1e3:.3f}"
        rows.append((f"**{found.name}**: {describe(found)}", *cells, floor_cell))
        rates = {name: found.tflops(name, direction) for name in names}
        groups[found.name] = {name: rate for name, rate in rates.items() if rate is not None}
    plot = f"{file.stem}-{slug(dtype, direction)}.svg"
    dots(generated / plot, "useful TFLOP/s", groups)
    yield f"![Rates of every problem, {dtype}, {direction}](../generated/{plot})"
    yield ""
    yield "Milliseconds; in brackets TFLOP/s of the products that the windows ask for."
    yield ""
    columns = ["problem", *names, "floor"]
    if not has_floor:
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    yield from table(columns, rows)
    yield from _behind(file, dtype, direction, names)
    if has_rough:
        yield "\\* Its error is larger than rounding to the dtype explains: TF32, or half sums."
        yield ""


def _behind(file: Results, dtype: str, direction: str, names: list[str]) -> Iterator[str]:
    """Where something else that computes the same is faster than the fused method."""
    faster = []
    for found, name in itertools.product(file.of(dtype, direction=direction), names):
        mine, other = found.time_us("fused", direction), found.time_us(name, direction)
        is_whole = found.problem.kernel_size == found.problem.spatial
        if mine is None or other is None or (name.endswith("dense") and not is_whole):
            continue
        if name != "fused" and mine > (1 + NOISE) * other:
            faster.append(f"{found.name}: {name} takes {other / mine:.2f} of its time")
    if any(found.time_us("fused", direction) for found in file.of(dtype)):
        told = "; ".join(faster) or "nowhere"
        yield f"Something else that computes the same is faster than *fused*: {told}."
        yield ""


def _cell(found: Found, name: str, direction: str) -> str:
    time_us, rate = found.time_us(name, direction), found.tflops(name, direction)
    if time_us is None or rate is None:
        return "-"
    rough = "\\*" if found.is_rough(name, direction) else ""
    return f"{time_us / 1e3:.3f} ({rate:.0f}){rough}"
