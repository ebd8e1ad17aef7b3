"""Tables of the first form of results, which named a case's pieces and one peer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["page"]

OURS = "cupyna"
RATIO = "peer_over_ours"


def page(path: Path) -> str:
    """One file of results as Markdown: what was measured, where, and a table of every piece.

    Parameters
    ----------
    path : Path
        A file of `cupyna bench --out`.
    """
    document = json.loads(path.read_text("utf-8"))
    measurements = document["measurements"]
    pieces = list(measurements[0]["pieces"])
    versions = ", ".join(f"{name} {version}" for name, version in document["versions"].items())
    lines = [
        f"{', '.join(document['gpus'])}, driver {document['driver']}; {versions}; commit "
        f"{document['commit'] or 'not named'}. {document['rounds']} interleaved rounds; "
        f"{document['what'].replace('microseconds', 'in milliseconds here')}.",
        "",
        *_rows([["case", "problem", "dtype", *pieces]]),
        "|" + "---|" * (len(pieces) + 3),
    ]
    for found in measurements:
        cells = [_cell(found["pieces"][piece]) for piece in pieces]
        lines += _rows([[found["case"], _problem(found), found["dtype"], *cells]])
    return "\n".join(lines) + "\n"


def _rows(rows: Sequence[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(row) + " |" for row in rows]


def _cell(piece: dict[str, Any]) -> str:
    """Our time, every other's, and how many times ours the first of them is."""
    ours = piece[OURS]["median_us"] / 1e3
    others = [
        f"{name} {times['median_us'] / 1e3:.3f}"
        for name, times in piece.items()
        if name not in (OURS, RATIO)
    ]
    if not others:
        return f"{ours:.3f}"
    return f"{ours:.3f}; {', '.join(others)} ({piece[RATIO]:.1f}x)"


def _problem(found: dict[str, Any]) -> str:
    shape = "x".join(map(str, found["spatial"]))
    window = "x".join(map(str, found["kernel_size"]))
    gaps = set(found["dilation"]) - {1}
    dilation = f", dilation {max(gaps)}" if gaps else ""
    return (
        f"batch {found['batch']}, {found['heads']} heads x {found['head_dim']}, {shape}, "
        f"window {window}{dilation}"
    )
