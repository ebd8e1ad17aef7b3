"""Whole models in images per second beside the paper's, and the host time of single calls."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..models import gains
from .plots import dots
from .results import documents, gpu_of, kinds, run, table

__all__ = ["write"]

_METHODS = ("naive", "gemm", "fused")

# What the paper calls naive, and our own where that was not measured: gains are over the first.
_BASES = ("natten-naive", "naive")

# As the paper trains: epochs, images of ImageNet-1K.
_EPOCHS, _IMAGES = 300, 1_281_167

# Hassani, Hwu and Shi, "Faster Neighborhood Attention", NeurIPS 2024, Tables 5 and 6: images per
# second of inference on an A100 with naive, GEMM and fused kernels, batch 128.
_PAPER = {
    "float16": {
        "nat_mini": (2975, 2660, 3742), "dinat_mini": (2672, 2548, 3930),
        "nat_tiny": (2167, 1939, 2772), "dinat_tiny": (1910, 1845, 2909),
        "nat_small": (1457, 1309, 1879), "dinat_small": (1360, 1313, 2145),
        "nat_base": (1110, 997, 1448), "dinat_base": (982, 950, 1517),
        "dinat_large": (669, 647, 1042), "dinat_large_384": (153, 134, 312),
    },
    "float32": {
        "nat_mini": (2416, 2481, 2658), "dinat_mini": (2217, 2364, 2905),
        "nat_tiny": (1739, 1802, 1942), "dinat_tiny": (1591, 1706, 2123),
        "nat_base": (867, 897, 966), "dinat_base": (795, 851, 1059),
        "dinat_large": (506, 540, 669), "dinat_large_384": (116, 115, 179),
    },
}  # fmt: skip

# Table 8: hours of training on A100s.
_PAPER_HOURS = {"nat_mini": (19.4, 20.4, 16.6), "dinat_base": (54.4, 56.0, 41.0)}


def write(results: Path, generated: Path) -> str:
    """Markdown of every file on models and on host time; plots go beside it."""
    lines: list[str] = []
    files = documents(results)
    by_gpu: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for path, document in files:
        if "models" in kinds(document):
            by_gpu.setdefault(gpu_of(document), []).append((path.stem, document))
    for gpu, found in by_gpu.items():
        runs = dict.fromkeys(run(document) for _, document in found)
        lines += [f"## {gpu}", "", " ".join(runs), ""]
        for stem, document in found:
            measured = document["measurements"]
            for what, dtype in dict.fromkeys((one["what"], one["dtype"]) for one in measured):
                rows = [one for one in measured if (one["what"], one["dtype"]) == (what, dtype)]
                lines += _section(stem, what, dtype, rows, generated)
    for _, document in (file for file in files if "overhead" in kinds(file[1])):
        lines += _overhead(document)
    return "\n".join(lines)


def _section(
    stem: str, what: str, dtype: str, rows: list[dict[str, Any]], generated: Path
) -> Iterator[str]:
    known = list(dict.fromkeys(name for row in rows for name in row["images_per_s"]))
    base = next((name for name in _BASES if name in known), "")
    names = [base, *(name for name in known if name != base)] if base else known
    plot = f"{stem}-{what.split()[0]}-{dtype}.svg"
    dots(
        generated / plot,
        "images per second",
        {row["model"].replace("_", "\n"): row["images_per_s"] for row in rows},
    )
    yield f"### {what[0].upper()}{what[1:]}, {dtype}"
    yield ""
    yield f"![Images per second, {what}, {dtype}](../generated/{plot})"
    yield ""
    yield f"Images per second; in brackets what is gained over {base}."
    yield ""
    yield from table(
        ("model", "batch", *names),
        (_cells(row, names, row["images_per_s"], base) for row in rows),
    )
    if any(row.get("wrong") for row in rows):
        yield "\\* Further from exact results than rounding explains, and timed all the same."
        yield ""
    if "fused" in names:
        yield "What fused gains over each of the others, in all models that both ran:"
        yield ""
        yield from table(("over", "models", "mean", "least", "most"), _summary(rows, base, names))
    paper = _PAPER.get(dtype, {}) if what == "inference" else {}
    if any(row["model"] in paper for row in rows):
        yield "The paper's, on an A100, batch 128:"
        yield ""
        yield from table(
            ("model", "batch", *_METHODS),
            (
                _cells(
                    {"model": row["model"], "batch": 128},
                    _METHODS,
                    dict(zip(_METHODS, paper[row["model"]], strict=True)),
                    "naive",
                )
                for row in rows
                if row["model"] in paper
            ),
        )
    if what != "inference":
        yield from _hours(rows, names, base)


def _summary(rows: list[dict[str, Any]], base: str, names: list[str]) -> Iterator[list[str]]:
    for name in names:
        found = gains(rows, "fused", name) if name != "fused" else []
        if found:
            numbers = (sum(found) / len(found), min(found), max(found))
            label = f"**{name}**" if name == base else name
            yield [label, str(len(found)), *(f"{number:+.0f} %" for number in numbers)]


def _hours(rows: list[dict[str, Any]], names: list[str], base: str) -> Iterator[str]:
    """The same in the form of the paper's table of training."""
    yield (
        f"Hours of {_EPOCHS} epochs of {_IMAGES:,} images at these rates on one GPU, and the "
        "paper's hours, on A100s:"
    )
    yield ""
    columns = ["model", *names, *(f"paper's {name}" for name in _METHODS)]
    lines = []
    for row in rows:
        hours = {name: _EPOCHS * _IMAGES / 3600 / r for name, r in row["images_per_s"].items()}
        cells = []
        for name in names:
            cell = f"{hours[name]:.1f}" if name in hours else "-"
            if name != base and name in hours and base in hours:
                cell += f" ({100 * (hours[base] / hours[name] - 1):+.0f} %)"
            cells.append(cell)
        naive, *others = _PAPER_HOURS.get(row["model"], (0.0, 0.0, 0.0))
        papers = [f"{naive}", *(f"{h} ({100 * (naive / h - 1):+.0f} %)" for h in others if h)]
        lines.append([row["model"], *cells, *(papers if naive else "---")])
    yield from table(columns, lines)


def _cells(row: dict[str, Any], names: Any, rates: dict[str, float], base: str) -> list[str]:
    cells = []
    for name in names:
        cell = f"{rates[name]:.0f}" if name in rates else "-"
        cell += "\\*" * (name in row.get("wrong", ()))
        if name != base and name in rates and base in rates:
            cell += f" ({100 * (rates[name] / rates[base] - 1):+.0f} %)"
        cells.append(cell)
    return [row["model"], str(row["batch"]), *cells]


def _overhead(document: dict[str, Any]) -> Iterator[str]:
    yield f"## Host time of one call, {gpu_of(document)}"
    yield ""
    yield run(document)
    yield ""
    rows = [
        (name, f"{time_us:.1f}")
        for group in ("calls", "others")
        for name, time_us in document[group].items()
    ]
    yield from table(("call", "microseconds"), rows)
    yield "What a call without a gradient consists of, each part by itself:"
    yield ""
    parts = ((name, f"{time_us:.2f}") for name, time_us in document["parts"].items())
    yield from table(("part", "microseconds"), parts)
