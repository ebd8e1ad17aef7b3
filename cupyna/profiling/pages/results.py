"""Files of results as the pages read them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ...problem import Problem
from ..records import FORMAT, flops

__all__ = ["Found", "Results", "load", "machine", "table"]


@dataclass(frozen=True)
class Found:
    """One problem in one dtype, as a file has it."""

    stored: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.stored["problem"])

    @property
    def dtype(self) -> str:
        return str(self.stored["dtype"])

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
            dtype=self.dtype,
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
    """One file."""

    path: Path
    head: dict[str, Any]
    found: Sequence[Found]

    @property
    def gpu(self) -> str:
        """The GPU's name, without its maker's."""
        return str(self.head["gpus"][0]).removeprefix("NVIDIA ").strip()

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

    def of(self, dtype: str, suite: str | None = None) -> list[Found]:
        """The problems in a dtype, of one suite or all."""
        return [f for f in self.found if f.dtype == dtype and suite in (None, f.suite)]


def load(folder: Path, prefix: str) -> list[Results]:
    """Every file of this form whose name begins with a prefix, such as ``cases``."""
    loaded = []
    for path in sorted(folder.glob(f"{prefix}-*.json")):
        document = json.loads(path.read_text("utf-8"))
        if document.get("format") == FORMAT and document["measurements"]:
            found = [Found(stored) for stored in document.pop("measurements")]
            loaded.append(Results(path, document, found))
    return loaded


def machine(results: Results) -> str:
    """One line on where and how a file was measured."""
    head = results.head
    versions = ", ".join(f"{name} {version}" for name, version in head["versions"].items())
    return (
        f"{', '.join(head['gpus'])}, driver {head['driver']}; {versions}; commit "
        f"{head['commit'] or 'not named'}; {head['rounds']} interleaved rounds, medians."
    )


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Lines of a Markdown table, with an empty one after it."""
    yield "| " + " | ".join(columns) + " |"
    yield "|" + "---|" * len(columns)
    for row in rows:
        yield "| " + " | ".join(row) + " |"
    yield ""
