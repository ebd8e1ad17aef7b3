"""Files of results as the pages read them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ...problem import Problem
from ..problems import rows
from ..records import FORMAT, dtype_of, flops

__all__ = [
    "Found",
    "Results",
    "documents",
    "gpu_of",
    "kinds",
    "load",
    "machine",
    "run",
    "slug",
    "table",
]


@dataclass(frozen=True)
class Found:
    """One problem in one dtype, as a file has it."""

    stored: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.stored["problem"])

    @property
    def dtype(self) -> str:
        """As tables call it."""
        return dtype_of(self.stored)

    @property
    def suite(self) -> str:
        return str(self.stored["suite"])

    @cached_property
    def problem(self) -> Problem:
        """The problem itself."""
        stored = self.stored
        return Problem(
            batch=stored["batch"],
            spatial=tuple(stored["spatial"]),
            heads=stored["heads"],
            kv_heads=stored["heads"],
            head_dim=stored["head_dim"],
            value_dim=stored["head_dim"],
            dtype=stored["dtype"],
            allow_tf32=stored.get("allow_tf32", False),
            kernel_size=tuple(stored["kernel_size"]),
            stride=tuple(stored["stride"]),
            dilation=tuple(stored["dilation"]),
            is_causal=tuple(stored["is_causal"]),
        )

    def direction(self, implementation: str, direction: str) -> dict[str, Any]:
        """What is stored of one implementation; empty where it was not asked."""
        found: dict[str, Any] = (
            self.stored["implementations"].get(implementation, {}).get(direction, {})
        )
        return found

    def time_us(self, implementation: str, direction: str) -> float | None:
        """Median time; None where there is none."""
        return self.direction(implementation, direction).get("median_us")

    def has(self, direction: str) -> bool:
        """Whether any implementation has a time."""
        ways = self.stored["implementations"].values()
        return any("median_us" in way.get(direction, {}) for way in ways)

    def tflops(self, implementation: str, direction: str) -> float | None:
        """Rate of the operations that the windows ask for."""
        time_us = self.time_us(implementation, direction)
        return None if time_us is None else flops(self.problem, direction) / time_us / 1e6

    def is_rough(self, implementation: str, direction: str) -> bool:
        """Whether its error is larger than rounding to the dtype explains."""
        errors = self.direction(implementation, direction).get("errors", {})
        return any("wrong" in error for error in errors.values())


@dataclass(frozen=True)
class Results:
    """Everything that files hold of some suites on one GPU.

    Parameters
    ----------
    stem : str
        What plots are named after.
    heads : list of dict
        What each file says of its run.
    found : list of Found
    """

    stem: str
    heads: list[dict[str, Any]]
    found: list[Found]

    @property
    def gpu(self) -> str:
        """The GPU's name, without its maker's."""
        return gpu_of(self.heads[0])

    @property
    def bytes_per_us(self) -> float | None:
        """Measured rate of a copy."""
        rates = [head["ceilings"]["bytes_per_us"] for head in self.heads if "ceilings" in head]
        return max(rates, default=None)

    @cached_property
    def dtypes(self) -> list[str]:
        return list(dict.fromkeys(found.dtype for found in self.found))

    def implementations(self, direction: str, dtype: str | None = None) -> list[str]:
        """Those with a time, in the file's order."""
        names = (
            name
            for found in self.found
            if dtype in (None, found.dtype)
            for name in found.stored["implementations"]
            if found.time_us(name, direction) is not None
        )
        return list(dict.fromkeys(names))

    def of(self, dtype: str, suite: str | None = None, direction: str = "") -> list[Found]:
        """The problems in a dtype: of one suite or all, with any time in a direction or all."""
        return [
            found
            for found in self.found
            if found.dtype == dtype
            and suite in (None, found.suite)
            and (not direction or found.has(direction))
        ]


def documents(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Every file of results in the order of names, ``a`` before ``a-b``."""
    paths = sorted(folder.glob("*.json"), key=lambda path: path.stem)
    return [(path, json.loads(path.read_text("utf-8"))) for path in paths]


def kinds(document: dict[str, Any]) -> set[str]:
    """What a file has: the names of its suites, or what else the command line writes."""
    if document.get("format") == FORMAT:
        return {str(stored["suite"]) for stored in document["measurements"]}
    if document.get("format") == "cupyna profile 1":
        return {"profile"} if document["is_measured"] else set()
    if "parts" in document:
        return {"overhead"}
    first: dict[str, Any] = next(iter(document.get("measurements", [])), {})
    return {"models"} if "images_per_s" in first else set()


def load(folder: Path, *suites: str) -> list[Results]:
    """What all files hold of some suites, by GPU.

    Of two files with the same problem and dtype the later one has the last word, for a whole
    direction: what stands side by side was measured in one run.
    """
    by_gpu: dict[str, Results] = {}
    known: dict[tuple[str, ...], Found] = {}
    for _, document in documents(folder):
        if not kinds(document).intersection(suites) or document.get("format") != FORMAT:
            continue
        gpu = gpu_of(document)
        stem = f"{suites[0]}-{gpu.lower().replace(' ', '-')}"
        results = by_gpu.setdefault(gpu, Results(stem, [], []))
        results.heads.append({k: v for k, v in document.items() if k != "measurements"})
        for stored in document["measurements"]:
            if stored["suite"] not in suites:
                continue
            key = (gpu, stored["suite"], stored["problem"], dtype_of(stored))
            if key in known:
                _replace(known[key].stored["implementations"], stored["implementations"])
            else:
                known[key] = Found(stored)
                results.found.append(known[key])
    # As the suites have them, whichever file came first.
    order = {row.name: i for i, row in enumerate(r for s in suites for r in rows(s))}
    for results in by_gpu.values():
        results.found.sort(key=lambda found: order.get(found.name, len(order)))
    return list(by_gpu.values())


def _replace(old: dict[str, Any], new: dict[str, Any]) -> None:
    """Put the directions of a later run in the place of an earlier one's."""
    directions = {direction for ways in new.values() for direction in ways}
    for ways in old.values():
        for direction in directions.intersection(ways):
            del ways[direction]
    for name, ways in new.items():
        old.setdefault(name, {}).update(ways)


def slug(*words: str) -> str:
    """Words as part of a file's name."""
    return "-".join(re.sub(r"[^0-9a-z]+", "-", word.lower()).strip("-") for word in words)


def gpu_of(document: dict[str, Any]) -> str:
    """The GPU's name, without its maker's."""
    return str(document["gpus"][0]).removeprefix("NVIDIA ").strip()


def run(head: dict[str, Any]) -> str:
    """Where and how one file was measured."""
    versions = ", ".join(f"{name} {version}" for name, version in head["versions"].items())
    rounds = f"; {head['rounds']} interleaved rounds, medians" if "rounds" in head else ""
    return (
        f"{', '.join(head['gpus'])}, driver {head['driver']}; {versions}; commit "
        f"{head['commit'] or 'not named'}{rounds}."
    )


def machine(results: Results) -> str:
    """Where and how the files were measured, one sentence for each run that differs."""
    return " ".join(dict.fromkeys(map(run, results.heads)))


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Lines of a Markdown table, with an empty one after it."""
    yield "| " + " | ".join(columns) + " |"
    yield "|" + "---|" * len(columns)
    for row in rows:
        yield "| " + " | ".join(row) + " |"
    yield ""
