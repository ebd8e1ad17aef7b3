"""Measurements as tables in a terminal."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from rich.table import Table

from .problems import SUITES, rows
from .records import Comparison, Measurement, flops

__all__ = ["comparison_table", "problem_table", "summary", "table"]

# Slower or faster than this is more than the noise of one machine.
_NOISE = 0.03


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


def comparison_table(compared: Sequence[Comparison]) -> tuple[Table, str]:
    """Ratios of two files, and one line on all of them."""
    result = Table(title="first over second: above 1 the second is faster")
    for name in ("problem", "dtype", "implementation", "direction"):
        result.add_column(name)
    for name in ("first, ms", "second, ms", "ratio"):
        result.add_column(name, justify="right")
    for one in compared:
        color = "green" if one.ratio > 1 + _NOISE else "red" if one.ratio < 1 - _NOISE else "none"
        result.add_row(
            one.problem, one.dtype, one.implementation, one.direction,
            f"{one.first_us / 1e3:.3f}", f"{one.second_us / 1e3:.3f}",
            f"[{color}]{one.ratio:.2f}[/{color}]",
        )  # fmt: skip
    ratios = [one.ratio for one in compared]
    if not ratios:
        return result, "the files have no time in common"
    mean = statistics.geometric_mean(ratios)
    slower = sum(ratio < 1 - _NOISE for ratio in ratios)
    return result, (
        f"{len(ratios)} times; geometric mean {mean:.3f}, {min(ratios):.2f} to {max(ratios):.2f}; "
        f"{slower} slower in the second by more than {_NOISE:.0%}"
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
