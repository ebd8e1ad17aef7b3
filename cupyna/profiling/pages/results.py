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
    """All files of one kind and one GPU.

    Parameters
    ----------
    stem : str
        Of the first file; plots are named after it.
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
        return _gpu(self.heads[0])

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

    def of(self, dtype: str, suite: str | None = None) -> list[Found]:
        """The problems in a dtype, of one suite or all."""
        return [f for f in self.found if f.dtype == dtype and suite in (None, f.suite)]


def load(folder: Path, prefix: str) -> list[Results]:
    """Every file of this form whose name begins with a prefix, such as ``cases``, by GPU."""
    loaded: dict[str, Results] = {}
    for path in sorted(folder.glob(f"{prefix}-*.json")):
        document = json.loads(path.read_text("utf-8"))
        if document.get("format") == FORMAT and document["measurements"]:
            measured = [Found(stored) for stored in document.pop("measurements")]
            results = loaded.setdefault(_gpu(document), Results(path.stem, [], []))
            results.heads.append(document)
            results.found.extend(measured)
    return list(loaded.values())


def _gpu(head: dict[str, Any]) -> str:
    return str(head["gpus"][0]).removeprefix("NVIDIA ").strip()


def machine(results: Results) -> str:
    """Where and how the files were measured, one sentence for each run that differs."""
    sentences = []
    for head in results.heads:
        versions = ", ".join(f"{name} {version}" for name, version in head["versions"].items())
        sentences.append(
            f"{', '.join(head['gpus'])}, driver {head['driver']}; {versions}; commit "
            f"{head['commit'] or 'not named'}; {head['rounds']} interleaved rounds, medians."
        )
    return " ".join(dict.fromkeys(sentences))


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Lines of a Markdown table, with an empty one after it."""
    yield "| " + " | ".join(columns) + " |"
    yield "|" + "---|" * len(columns)
    for row in rows:
        yield "| " + " | ".join(row) + " |"
    yield ""
