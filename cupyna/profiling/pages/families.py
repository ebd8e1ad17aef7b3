"""The kernels of a method beside each other: what it chooses, and what it could have chosen."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator
from pathlib import Path

from ...dispatch import backends
from ..implementations import DIRECTIONS
from ..records import NOISE
from .cases import describe
from .results import Found, Results, load, machine, table

__all__ = ["write_cases", "write_sweep"]

_DIMENSIONS = {1: "1-D", 2: "2-D", 3: "3-D"}


def write_cases(results: Path) -> str:
    """Markdown of what a method chooses, beside portable kernels that it was held to."""
    return "\n".join(line for file in load(results, "cases") for line in _chosen_and_held(file))


def write_sweep(results: Path) -> str:
    """Markdown of how often each family of kernels is the fastest of the sweep, and chosen."""
    return "\n".join(line for file in load(results, "kernels") for line in _over_the_sweep(file))


def _chosen_and_held(file: Results) -> Iterator[str]:
    """A portable backend that was held to, beside what the method chooses."""
    rows, ratios = [], []
    portable = {name: of for name, of in _methods().items() if "hopper" not in name}
    for direction in DIRECTIONS:
        forced = [name for name in file.implementations(direction) if name in portable]
        for found, name in itertools.product(file.found, forced):
            chosen = found.time_us(portable[name], direction)
            held = found.time_us(name, direction)
            others = _backends_of(found, portable[name], direction) - {name}
            if chosen is not None and held is not None and others:
                ratios.append(held / chosen)
                rows.append(
                    (
                        f"**{found.name}**: {describe(found)}", found.dtype, direction,
                        ", ".join(sorted(others)),
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


def _over_the_sweep(file: Results) -> Iterator[str]:
    """How often each family of kernels is the fastest and the chosen one, and what that costs."""
    methods = _methods()
    for dtype, direction in itertools.product(file.dtypes, ("forward", "backward")):
        forced = [name for name in file.implementations(direction, dtype) if name in methods]
        for method in dict.fromkeys(methods[name] for name in forced):
            names = [name for name in forced if methods[name] == method]
            found = [
                one
                for one in file.of(dtype, direction=direction)
                if one.time_us(method, direction) and any(one.time_us(n, direction) for n in names)
            ]
            if found:
                yield f"*{method}* over the sweep, {dtype}, {direction}: {machine(file)}"
                yield ""
                yield from _families(found, names, method, direction)


def _families(found: list[Found], names: list[str], method: str, direction: str) -> Iterator[str]:
    rows = []
    for rank, dimensions in _DIMENSIONS.items():
        ranked = [one for one in found if one.problem.rank == rank]
        for name in names:
            served = [one for one in ranked if one.time_us(name, direction)]
            fastest = [one for one in served if _fastest(one, names, direction) == name]
            chosen = [one for one in served if name in _backends_of(one, method, direction)]
            if served:
                rows.append((dimensions, name, *map(str, map(len, (served, fastest, chosen)))))
    yield from table(("problems", "kernels", "served", "fastest", "chosen"), rows)
    ratios = {one.name: _lost(one, names, method, direction) for one in found}
    behind = sorted((name for name in ratios if ratios[name] > 1 + NOISE), key=lambda n: -ratios[n])
    told = "; ".join(f"{name}: {ratios[name]:.2f}x" for name in behind[:3]) or "nowhere"
    yield (
        f"What *{method}* takes, over the fastest of its kernels: "
        f"{statistics.geometric_mean(ratios.values()):.3f}x in geometric mean, more than "
        f"{1 + NOISE:.2f}x on {len(behind)} of {len(ratios)} problems; the most: {told}."
    )
    yield ""


def _methods() -> dict[str, str]:
    """The method of every backend on CUDA."""
    return {backend.name: backend.method for backend in backends("cuda")}


def _fastest(found: Found, names: list[str], direction: str) -> str:
    times = {name: found.time_us(name, direction) for name in names}
    return min((name for name in names if times[name]), key=lambda name: times[name] or 0.0)


def _lost(found: Found, names: list[str], method: str, direction: str) -> float:
    taken = found.time_us(method, direction)
    least = found.time_us(_fastest(found, names, direction), direction)
    assert taken is not None and least is not None, "both were timed"
    return taken / least


def _backends_of(found: Found, method: str, direction: str) -> set[str]:
    """What a method ran."""
    about = found.direction(method, direction).get("about", {})
    return {str(part["backend"]) for part in about.values() if "backend" in part}
