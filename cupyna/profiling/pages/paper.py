"""The paper's Tables 1 to 4 for this library, beside the paper's own numbers."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

from .plots import Curves, curves
from .results import Found, Results, load, machine, table

__all__ = ["write"]

_DIMENSIONS = {"1-D": "paper-1d", "2-D": "paper-2d", "3-D": "paper-3d"}
_METHODS = ("naive", "gemm", "fused")

# As slow as this is as fast: the noise of one machine.
_NOISE = 1.03

# Problems that are named.
_WORST = 5

# Hassani, Hwu and Shi, "Faster Neighborhood Attention", NeurIPS 2024, on an A100. Tables 1 and 2:
# percent of problems matched or beaten, by dtype, dimensions and method.
_PAPER_BEATEN: dict[tuple[str, str, str], dict[str, float]] = {
    ("float16", "1-D", "gemm"): {"naive": 98.7},
    ("float16", "1-D", "fused"): {"naive": 100, "gemm": 100},
    ("float16", "2-D", "gemm"): {"naive": 84.0},
    ("float16", "2-D", "fused"): {"naive": 100, "gemm": 100},
    ("float16", "3-D", "fused"): {"naive": 100},
    ("float32", "1-D", "gemm"): {"naive": 99.9, "fused": 37.7},
    ("float32", "1-D", "fused"): {"naive": 100, "gemm": 64.8},
    ("float32", "2-D", "gemm"): {"naive": 89.5, "fused": 28.1},
    ("float32", "2-D", "fused"): {"naive": 96.0, "gemm": 74.0},
    ("float32", "3-D", "fused"): {"naive": 100},
}
# FlashAttention-2 on the same tokens, Table 1.
_PAPER_FLASH = {
    ("1-D", "gemm"): 54.2, ("1-D", "fused"): 98.2, ("2-D", "gemm"): 29.8, ("2-D", "fused"): 92.4,
    ("3-D", "naive"): 20.2, ("3-D", "fused"): 87.0,
}  # fmt: skip

# Tables 3 and 4: average, least and largest improvement in percent, by direction, dtype and
# dimensions, and by the faster and the slower method.
_PAPER_GAINS = {
    ("forward", "float16", "1-D"): {
        ("gemm", "naive"): (548, -53, 3025), ("fused", "naive"): (1759, 60, 11885),
        ("fused", "gemm"): (180, 71, 466),
    },
    ("forward", "float16", "2-D"): {
        ("gemm", "naive"): (193, -57, 862), ("fused", "naive"): (958, 0, 7169),
        ("fused", "gemm"): (257, 38, 1199),
    },
    ("forward", "float16", "3-D"): {("fused", "naive"): (1135, 118, 5497)},
    ("forward", "float32", "1-D"): {
        ("gemm", "naive"): (874, -31, 3565), ("fused", "naive"): (978, 13, 4419),
        ("fused", "gemm"): (17, -54, 136),
    },
    ("forward", "float32", "2-D"): {
        ("gemm", "naive"): (386, -43, 1933), ("fused", "naive"): (564, -30, 4043),
        ("fused", "gemm"): (43, -53, 451),
    },
    ("forward", "float32", "3-D"): {("fused", "naive"): (712, 25, 3029)},
    ("forward+backward", "float16", "1-D"): {
        ("gemm", "naive"): (502, -48, 3017), ("fused", "naive"): (844, -20, 7605),
        ("fused", "gemm"): (57, -50, 229),
    },
    ("forward+backward", "float16", "2-D"): {
        ("gemm", "naive"): (92, -70, 474), ("fused", "naive"): (385, -61, 3723),
        ("fused", "gemm"): (150, -49, 855),
    },
    ("forward+backward", "float16", "3-D"): {("fused", "naive"): (447, -45, 2824)},
}  # fmt: skip
_PAIRS = (("gemm", "naive"), ("fused", "naive"), ("fused", "gemm"))


def write(results: Path, generated: Path) -> str:
    """Markdown of every file of the sweep; plots go beside it."""
    lines: list[str] = []
    for swept in load(results, *_DIMENSIONS.values()):
        lines += [f"## {swept.gpu}", "", machine(swept), ""]
        lines += _beaten(swept)
        for direction, title in (
            ("forward", "Forward"),
            ("forward+backward", "Forward + backward"),
        ):
            lines += _gains(swept, direction, title)
        lines += _peers(swept)
        lines += _least(swept)
        lines += _spread(swept, generated)
    return "\n".join(lines)


def _ratios(found: Sequence[Found], fast: str, slow: str, direction: str) -> list[float]:
    """How many times the fast one's time the slow one takes, where both have one."""
    ratios = []
    for one in found:
        mine, other = one.time_us(fast, direction), one.time_us(slow, direction)
        if mine is not None and other is not None:
            ratios.append(other / mine)
    return ratios


def _share(ratios: Sequence[float]) -> float:
    """Percent of problems in which the first matches or beats the second."""
    return 100 * sum(ratio * _NOISE >= 1 for ratio in ratios) / len(ratios)


def _beaten(swept: Results) -> Iterator[str]:
    yield "### Problems matched or beaten"
    yield ""
    yield (
        "Forward. In brackets the number of problems; after it the paper's share on an A100, of "
        "problems of its own."
    )
    yield ""
    for dtype in swept.dtypes:
        others = [name for name in swept.implementations("forward", dtype) if name not in _METHODS]
        columns = (*_METHODS, *others)
        rows = []
        for dimensions, suite in _DIMENSIONS.items():
            for method in _METHODS:
                cells = [
                    _beaten_cell(swept.of(dtype, suite), dtype, dimensions, method, other)
                    for other in columns
                ]
                if any(cell != "-" for cell in cells):
                    rows.append((dimensions, method, *cells))
        yield from table((dtype, "method", *(f"vs {name}" for name in columns)), rows)


def _beaten_cell(
    found: Sequence[Found], dtype: str, dimensions: str, method: str, other: str
) -> str:
    ratios = _ratios(found, method, other, "forward") if method != other else []
    if not ratios:
        return "-"
    paper = _PAPER_BEATEN.get((dtype, dimensions, method), {}).get(other)
    if "FlashAttention-2" in other and dtype == "float16":
        paper = _PAPER_FLASH.get((dimensions, method))
    theirs = "" if paper is None else f"; A100 {paper:g} %"
    return f"{_share(ratios):.0f} % ({len(ratios)}){theirs}"


def _gains(swept: Results, direction: str, title: str) -> Iterator[str]:
    rows = []
    for dtype in swept.dtypes:
        for dimensions, suite in _DIMENSIONS.items():
            gains = [_ratios(swept.of(dtype, suite), *pair, direction) for pair in _PAIRS]
            if not any(gains):
                continue
            rows.append((f"{dtype} {dimensions}", swept.gpu, *map(_gain_cell, gains)))
            paper = _PAPER_GAINS.get((direction, dtype, dimensions), {})
            if paper:
                cells = [_percent_cell(paper.get(pair)) for pair in _PAIRS]
                rows.append(("", "A100, the paper", *cells))
    if rows:
        yield f"### {title}: improvement"
        yield ""
        yield (
            "Average (least / largest) of how much longer the second one takes, as the paper "
            "counts it, and the geometric mean of the ratio."
        )
        yield ""
        names = (f"{fast} over {slow}" for fast, slow in _PAIRS)
        yield from table(("problems", "GPU", *names), rows)


def _gain_cell(ratios: Sequence[float]) -> str:
    if not ratios:
        return "-"
    percents = [100 * (ratio - 1) for ratio in ratios]
    triple = (statistics.fmean(percents), min(percents), max(percents))
    return f"{_percent_cell(triple)}; {statistics.geometric_mean(ratios):.2f}x"


def _percent_cell(triple: tuple[float, float, float] | None) -> str:
    if triple is None:
        return "-"
    average, least, largest = triple
    return f"{average:+.0f} % ({least:+.0f} / {largest:+.0f})"


def _peers(swept: Results) -> Iterator[str]:
    """Every method beside every other library, by direction."""
    rows = []
    for direction, dtype in itertools.product(
        ("forward", "backward", "forward+backward"), swept.dtypes
    ):
        others = [n for n in swept.implementations(direction, dtype) if n not in _METHODS]
        for mine, other, (dimensions, suite) in itertools.product(
            _METHODS, others, _DIMENSIONS.items()
        ):
            ratios = _ratios(swept.of(dtype, suite), mine, other, direction)
            if ratios:
                rows.append(
                    (
                        mine, other, direction, dtype, dimensions, f"{_share(ratios):.0f} %",
                        _gain_cell(ratios), str(len(ratios)),
                    )
                )  # fmt: skip
    if rows:
        yield "### Beside other libraries"
        yield ""
        yield "Average (least / largest) of how much longer they take, and the geometric mean."
        yield ""
        columns = (
            "method", "library", "direction", "dtype", "", "matched or beaten",
            "gain of the method", "problems",
        )  # fmt: skip
        yield from table(columns, rows)


def _least(swept: Results) -> Iterator[str]:
    """The problems in which the fused method is least ahead of each other one."""
    rows = []
    for dtype in swept.dtypes:
        for other in swept.implementations("forward", dtype):
            both = [
                (other_us / mine_us, found.name)
                for found in swept.of(dtype)
                if (mine_us := found.time_us("fused", "forward")) is not None
                and (other_us := found.time_us(other, "forward")) is not None
            ]
            if both and other != "fused":
                worst = "; ".join(f"{name}: {ratio:.2f}x" for ratio, name in sorted(both)[:_WORST])
                rows.append((dtype, other, worst))
    if rows:
        yield "### Where the fused method is least ahead"
        yield ""
        yield "Forward: how many times its time the other one takes."
        yield ""
        yield from table(("dtype", "other", "problems"), rows)


def _spread(swept: Results, generated: Path) -> Iterator[str]:
    """Every problem's ratio of naive to fused, in order."""
    plots, rows = [], []
    for dtype in swept.dtypes:
        lines = {}
        for dimensions, suite in _DIMENSIONS.items():
            ratios = sorted(_ratios(swept.of(dtype, suite), "fused", "naive", "forward"))
            if len(ratios) < 2:
                continue
            last = len(ratios) - 1
            lines[dimensions] = [(100 * i / last, ratio) for i, ratio in enumerate(ratios)]
            at = [ratios[round(share * last)] for share in (0, 0.1, 0.25, 0.5, 0.75, 0.9, 1)]
            rows.append((dtype, dimensions, *(f"{ratio:.2f}x" for ratio in at)))
        if lines:
            title = f"{dtype}: naive over fused, forward"
            plots.append(Curves(title, "percent of problems", "ratio", lines, log_x=False))
    if plots:
        name = f"{swept.stem}-ratios.svg"
        curves(generated / name, plots)
        yield "### Every problem"
        yield ""
        yield f"![Ratios of naive to fused over the share of problems](../generated/{name})"
        yield ""
        shares = ("least", "10 %", "25 %", "median", "75 %", "90 %", "largest")
        yield from table(("dtype", "", *shares), rows)
