"""What instructions of one GPU alone give: its own kernels beside the portable ones."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator
from pathlib import Path

from ..implementations import DIRECTIONS
from .cases import describe
from .results import Results, load, machine, table

__all__ = ["write"]


def write(results: Path) -> str:
    """Markdown for every file of cases in which a method was also held to one backend."""
    return "\n".join(line for file in load(results, "cases") for line in _families(file))


def _families(file: Results) -> Iterator[str]:
    """A backend that was held to, beside what the method chooses."""
    rows, ratios = [], []
    for direction in DIRECTIONS:
        forced = [name for name in file.implementations(direction) if name.startswith("cuda-")]
        for found, name in itertools.product(file.found, forced):
            method = name.split("-")[1]
            chosen, held = found.time_us(method, direction), found.time_us(name, direction)
            about = found.direction(method, direction).get("about", {})
            backends = {part.get("backend") for part in about.values()} - {name}
            if chosen is not None and held is not None and backends:
                ratios.append(held / chosen)
                rows.append(
                    (
                        f"**{found.name}**: {describe(found)}", found.dtype, direction,
                        ", ".join(sorted(map(str, backends))),
                        f"{chosen / 1e3:.3f}", name, f"{held / 1e3:.3f}", f"{ratios[-1]:.2f}x",
                    )
                )  # fmt: skip
    if rows:
        yield machine(file)
        yield ""
        yield (
            "The kernels that a method chooses on this GPU, beside the portable ones that it is "
            f"held to. Geometric mean: {statistics.geometric_mean(ratios):.2f}x."
        )
        yield ""
        columns = ("problem", "dtype", "direction", "chosen", "ms", "held to", "ms", "faster")
        yield from table(columns, rows)
