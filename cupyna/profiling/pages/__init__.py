"""Pages of the documentation, made from files of results when it is built.

A page whose results are not there is left out; no page holds a number that was typed, but for the
paper's own.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from . import cases, families, models, paper, patterns, scaling, why
from .results import documents, kinds

__all__ = ["PAGES", "unmeasured", "write_pages"]

# By file in docs/performance/: suites and what else it shows, and who writes its measured part.
PAGES: dict[str, tuple[set[str], Callable[[Path, Path], str]]] = {
    "paper": ({"paper-1d", "paper-2d", "paper-3d"}, paper.write),
    "cases": ({"cases", "dense"}, cases.write),
    "why": ({"profile"}, why.write),
    "scaling": ({"scaling", "longest"}, scaling.write),
    "patterns": ({"patterns"}, patterns.write),
    "models": ({"models", "overhead"}, models.write),
}


def unmeasured(docs: Path) -> list[str]:
    """Pages that have no results yet, as Sphinx's `exclude_patterns` names them."""
    there = {kind for _, document in documents(docs / "results") for kind in kinds(document)}
    return [f"performance/{page}.md" for page, (shown, _) in PAGES.items() if not shown & there]


def write_pages(docs: Path) -> None:
    """Write every measured part, and the list of pages that have one, into `docs/generated`."""
    results, generated = docs / "results", docs / "generated"
    generated.mkdir(exist_ok=True)
    left_out = unmeasured(docs)
    present = [page for page in PAGES if f"performance/{page}.md" not in left_out]
    for page in present:
        text = PAGES[page][1](results, generated)
        (generated / f"{page}.md").write_text(text + "\n", "utf-8")
    contents = ["```{toctree}", ":maxdepth: 1", "", *(f"performance/{page}" for page in present)]
    listed = "\n".join([*contents, "```", ""]) if present else ""
    (generated / "performance.md").write_text(listed, "utf-8")
    # Parts of pages that are there without results, too.
    (generated / "families.md").write_text(families.write_cases(results) + "\n", "utf-8")
    (generated / "kernels.md").write_text(families.write_sweep(results) + "\n", "utf-8")
