"""Whole models in images per second beside the paper's, and the host time of single calls."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .plots import dots
from .results import documents, gpu_of, kinds, run, table

__all__ = ["write"]

_METHODS = ("naive", "gemm", "fused")

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


def write(results: Path, generated: Path) -> str:
    """Markdown of every file on models and on host time; plots go beside it."""
    lines: list[str] = []
    files = documents(results)
    for path, document in (file for file in files if "models" in kinds(file[1])):
        lines += [f"## {gpu_of(document)}", "", run(document), ""]
        found = document["measurements"]
        for what, dtype in dict.fromkeys((one["what"], one["dtype"]) for one in found):
            rows = [one for one in found if (one["what"], one["dtype"]) == (what, dtype)]
            lines += _section(path.stem, what, dtype, rows, generated)
    for _, document in (file for file in files if "overhead" in kinds(file[1])):
        lines += _overhead(document)
    return "\n".join(lines)


def _section(
    stem: str, what: str, dtype: str, rows: list[dict[str, Any]], generated: Path
) -> Iterator[str]:
    names = list(dict.fromkeys(name for row in rows for name in row["images_per_s"]))
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
    yield "Images per second; in brackets what is gained over naive."
    yield ""
    yield from table(
        ("model", "batch", *names), (_cells(row, names, row["images_per_s"]) for row in rows)
    )
    paper = _PAPER.get(dtype, {}) if what == "inference" else {}
    known = [row for row in rows if row["model"] in paper]
    if known:
        yield "The paper's, on an A100, batch 128:"
        yield ""
        yield from table(
            ("model", "batch", *_METHODS),
            (
                _cells(
                    {"model": row["model"], "batch": 128},
                    _METHODS,
                    dict(zip(_METHODS, paper[row["model"]], strict=True)),
                )
                for row in known
            ),
        )


def _cells(row: dict[str, Any], names: Any, rates: dict[str, float]) -> list[str]:
    cells = []
    for name in names:
        cell = f"{rates[name]:.0f}" if name in rates else "-"
        if name != "naive" and name in rates and "naive" in rates:
            cell += f" ({100 * (rates[name] / rates['naive'] - 1):+.0f} %)"
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
