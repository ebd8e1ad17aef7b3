"""Measurements as tables in a terminal."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator, Sequence

from rich.table import Table

from ..problem import METHODS
from .problems import SUITES, rows
from .records import NOISE, Comparison, Measurement, flops

__all__ = ["comparison_table", "expectations", "leads", "problem_table", "summary", "table"]


def table(found: Sequence[Measurement]) -> Table:
    """Times in milliseconds: a row for each problem, dtype and direction."""
    names = list(dict.fromkeys(name for measurement in found for name in measurement.records))
    result = Table(title="milliseconds (TFLOP/s of useful products)")
    for name in ("problem", "dtype", "direction"):
        result.add_column(name)
    for name in names:
        result.add_column(name, justify="right")
    for measurement in found:
        for direction in _directions(measurement):
            cells = [_cell(measurement, name, direction) for name in names]
            result.add_row(measurement.name, measurement.problem.dtype, direction, *cells)
    return result


def summary(found: Sequence[Measurement]) -> list[str]:
    """What was refused, each reason once."""
    reasons: dict[str, int] = {}
    for measurement in found:
        for name, record in measurement.records.items():
            for direction, reason in record.refused.items():
                line = f"{name}, {direction}: {reason}"
                reasons[line] = reasons.get(line, 0) + 1
    return [f"{count} x {line}" for line, count in reasons.items()]


def leads(found: Sequence[Measurement]) -> list[str]:
    """How each of our methods stands against everything else, over all problems."""
    names = list(dict.fromkeys(name for measurement in found for name in measurement.records))
    dtypes = list(dict.fromkeys(measurement.problem.dtype for measurement in found))
    lines = []
    for method, other in itertools.product(METHODS, names):
        for direction, dtype in itertools.product(_all_directions(found), dtypes):
            ratios = dict(_ratios(found, method, other, direction, dtype))
            if method == other or not ratios:
                continue
            least = min(ratios, key=lambda name: ratios[name])
            largest = max(ratios.values())
            beaten = sum(ratio * (1 + NOISE) >= 1 for ratio in ratios.values()) / len(ratios)
            lines.append(
                f"{method} over {other}, {direction}, {dtype}: "
                f"{statistics.geometric_mean(ratios.values()):.2f}x ({ratios[least]:.2f}x at "
                f"{least}, to {largest:.2f}x), {beaten:.0%} of {len(ratios)} matched or beaten"
            )
    return lines


def expectations(found: Sequence[Measurement]) -> list[str]:
    """How far the cost models are from what was measured, over all problems."""
    ratios: dict[tuple[str, str, str], dict[str, float]] = {}
    for measurement in found:
        for name, record in measurement.records.items():
            for direction, times in record.times.items():
                about = record.about.get(direction, {}).get(direction, {})
                if about.get("expected_us"):
                    key = (name, direction, measurement.problem.dtype)
                    ratio = times.median_us / about["expected_us"]
                    ratios.setdefault(key, {})[measurement.name] = ratio
    lines = []
    for (name, direction, dtype), by_problem in ratios.items():
        least, most = (end(by_problem, key=lambda name: by_problem[name]) for end in (min, max))
        lines.append(
            f"{name}, {direction}, {dtype}: measured over expected "
            f"{statistics.geometric_mean(by_problem.values()):.2f}x, {by_problem[least]:.2f}x at "
            f"{least}, {by_problem[most]:.2f}x at {most}"
        )
    return lines


def comparison_table(compared: Sequence[Comparison]) -> tuple[Table, str]:
    """Ratios of two files, and one line on all of them."""
    result = Table(title="first over second: above 1 the second is faster")
    for name in ("problem", "dtype", "implementation", "direction"):
        result.add_column(name)
    for name in ("first, ms", "second, ms", "ratio"):
        result.add_column(name, justify="right")
    for one in compared:
        color = "green" if one.ratio > 1 + NOISE else "red" if one.ratio < 1 - NOISE else "none"
        result.add_row(
            one.problem, one.dtype, one.implementation, one.direction,
            f"{one.first_us / 1e3:.3f}", f"{one.second_us / 1e3:.3f}",
            f"[{color}]{one.ratio:.2f}[/{color}]",
        )  # fmt: skip
    ratios = [one.ratio for one in compared]
    if not ratios:
        return result, "the files have no time in common"
    mean = statistics.geometric_mean(ratios)
    slower = sum(ratio < 1 - NOISE for ratio in ratios)
    return result, (
        f"{len(ratios)} times; geometric mean {mean:.3f}, {min(ratios):.2f} to {max(ratios):.2f}; "
        f"{slower} slower in the second by more than {NOISE:.0%}"
    )


def problem_table() -> Table:
    """Every problem of every suite."""
    result = Table(title="problems")
    for name in ("suite", "problem", "batch", "heads", "head_dim", "tokens", "window"):
        result.add_column(name)
    for suite in SUITES:
        for row in rows(suite):
            result.add_row(
                suite, row.name, str(row.batch), str(row.heads), str(row.head_dim),
                "x".join(map(str, row.spatial)), "x".join(map(str, row.kernel_size)),
            )  # fmt: skip
    return result


def _all_directions(found: Sequence[Measurement]) -> list[str]:
    return list(dict.fromkeys(way for measurement in found for way in _directions(measurement)))


def _ratios(
    found: Sequence[Measurement], method: str, other: str, direction: str, dtype: str
) -> Iterator[tuple[str, float]]:
    """How many times the method's time another takes, by problem."""
    for measurement in found:
        records = measurement.records
        if measurement.problem.dtype == dtype and {method, other} <= set(records):
            mine = records[method].times.get(direction)
            theirs = records[other].times.get(direction)
            if mine is not None and theirs is not None:
                yield measurement.name, theirs.median_us / mine.median_us


def _directions(measurement: Measurement) -> list[str]:
    found = (
        direction
        for record in measurement.records.values()
        for direction in (*record.times, *record.refused)
    )
    return list(dict.fromkeys(found))


def _cell(measurement: Measurement, name: str, direction: str) -> str:
    record = measurement.records.get(name)
    if record is None or direction not in record.times:
        return "-"
    median_us = record.times[direction].median_us
    rate = flops(measurement.problem, direction) / median_us / 1e6
    return f"{median_us / 1e3:.3f} ({rate:.0f})"
