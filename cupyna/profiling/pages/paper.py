"""The paper's Tables 1 to 4 for this library, beside the paper's own numbers."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..records import NOISE
from .plots import Curves, curves
from .published import PAPER_BEATEN, PAPER_FLASH, PAPER_GAINS
from .results import Found, Results, load, machine, table

__all__ = ["write"]

_DIMENSIONS = {"1-D": "paper-1d", "2-D": "paper-2d", "3-D": "paper-3d"}
_METHODS = ("naive", "gemm", "fused")

# Problems that are named.
_WORST = 5
_NAMED = 3

# Times that launches decide.
_SHORT_US = 20

_PAIRS = (("gemm", "naive"), ("fused", "naive"), ("fused", "gemm"))

# The very kernels that the paper calls naive, where they were measured.
_PAPER_NAIVE = "NATTEN 0.17.5 naive"


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
        lines += _missed(swept)
        lines += _behind(swept)
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
    return 100 * sum(ratio * (1 + NOISE) >= 1 for ratio in ratios) / len(ratios)


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
    paper = PAPER_BEATEN.get((dtype, dimensions, method), {}).get(other)
    if "FlashAttention-2" in other and dtype == "float16":
        paper = PAPER_FLASH.get((dimensions, method))
    theirs = "" if paper is None else f"; A100 {paper:g} %"
    return f"{_share(ratios):.0f} % ({len(ratios)}){theirs}"


def _gains(swept: Results, direction: str, title: str) -> Iterator[str]:
    pairs = list(_PAIRS)
    if _PAPER_NAIVE in swept.implementations(direction):
        pairs += [("gemm", _PAPER_NAIVE), ("fused", _PAPER_NAIVE)]
    rows = []
    for dtype in swept.dtypes:
        for dimensions, suite in _DIMENSIONS.items():
            gains = [_ratios(swept.of(dtype, suite), *pair, direction) for pair in pairs]
            if not any(gains):
                continue
            rows.append((f"{dtype} {dimensions}", swept.gpu, *map(_gain_cell, gains)))
            paper = PAPER_GAINS.get((direction, dtype, dimensions), {})
            if paper:
                cells = [_percent_cell(paper.get(_as_paper(*pair))) for pair in pairs]
                rows.append(("", "A100, the paper", *cells))
    if rows:
        yield f"### {title}: improvement"
        yield ""
        yield (
            "Average (least / largest) of how much longer the second one takes, as the paper "
            "counts it, and the geometric mean of the ratio. What the paper calls naive are the "
            f"kernels of {_PAPER_NAIVE}; ours of that name are faster."
        )
        yield ""
        names = (f"{fast} over {slow}" for fast, slow in pairs)
        yield from table(("problems", "GPU", *names), rows)


def _as_paper(fast: str, slow: str) -> tuple[str, str]:
    """A pair by the paper's names."""
    return fast, "naive" if slow == _PAPER_NAIVE else slow


def _missed(swept: Results) -> Iterator[str]:
    """What is below the paper's, over the paper's own naive kernels if they were measured."""
    rows, compared = [], 0

    def compare(what: str, fast: str, slow: str, key: tuple[str, str, str], paper: float) -> None:
        nonlocal compared
        direction, dtype, dimensions = key
        found = swept.of(dtype, _DIMENSIONS[dimensions])
        bases = [_PAPER_NAIVE, "naive"] if slow == "naive" else [slow]
        measured = [(base, _ratios(found, fast, base, direction)) for base in bases]
        base, ratios = next(((b, r) for b, r in measured if r), ("", []))
        if not ratios:
            return
        compared += 1
        is_share = what == "matched or beaten"
        ours = _share(ratios) if is_share else 100 * (statistics.fmean(ratios) - 1)
        if ours < paper:
            cells = (f"{value:.0f} %" if is_share else f"{value:+.0f} %" for value in (ours, paper))
            rows.append((f"{fast} over {base}", what, direction, f"{dtype} {dimensions}", *cells))

    for key, gains in PAPER_GAINS.items():
        for (fast, slow), (average, _, _) in gains.items():
            compare("average gain", fast, slow, key, average)
    for (dtype, dimensions, fast), shares in PAPER_BEATEN.items():
        for slow, share in shares.items():
            compare("matched or beaten", fast, slow, ("forward", dtype, dimensions), share)
    if compared:
        yield "### Below the paper's numbers"
        yield ""
        yield (
            f"{len(rows)} of {compared} averages and shares are smaller here than the paper's on "
            "an A100. What one of our methods gains over another of ours is small where that one "
            "is faster than the paper's."
        )
        yield ""
        if rows:
            columns = ("", "number", "direction", "problems", "here", "the paper's")
            yield from table(columns, rows)


def _behind(swept: Results) -> Iterator[str]:
    """In how many problems a method is slower than a simpler one, or than another library."""
    rows = []
    for direction, dtype in itertools.product(("forward", "forward+backward"), swept.dtypes):
        for method, other in itertools.product(
            ("gemm", "fused"), swept.implementations(direction, dtype)
        ):
            ratios = {
                found.name: other_us / mine_us
                for found in swept.of(dtype)
                if (mine_us := found.time_us(method, direction)) is not None
                and (other_us := found.time_us(other, direction)) is not None
                and mine_us > _SHORT_US
            }
            slower = sorted((r, name) for name, r in ratios.items() if r * (1 + NOISE) < 1)
            if slower and (method, other) != ("gemm", "fused"):
                worst = "; ".join(f"{name}: {1 / ratio:.2f}x" for ratio, name in slower[:_NAMED])
                count = f"{len(slower)} of {len(ratios)}"
                rows.append((method, other, direction, dtype, count, worst))
    yield "### Where a method is slower"
    yield ""
    yield (
        f"Problems of more than {_SHORT_US} us in which a method takes more than "
        f"{100 * NOISE:.0f} % longer than a simpler one, or than another library, when it "
        'is asked for by name; `method="auto"` takes the one that it expects to be fastest.'
    )
    yield ""
    if rows:
        columns = ("method", "slower than", "direction", "dtype", "problems", "by the most")
        yield from table(columns, rows)
    else:
        yield "None."
        yield ""


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
