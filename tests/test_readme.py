"""The README is run: its Python as programs, its links and tables against what is there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import cupyna
from cupyna.cli import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def _programs():
    for page in PAGES:
        for match in re.finditer(r"```python\n(.*?)```", page.read_text("utf-8"), re.S):
            code = match[1]
            line = page.read_text("utf-8").count("\n", 0, match.start()) + 2
            marks = [pytest.mark.gpu] if "import cupy as" in code else []
            yield pytest.param(code, id=f"{page.stem}:{line}", marks=marks)


@pytest.mark.parametrize("code", list(_programs()))
def test_program(code):
    if "import jax" in code:
        pytest.importorskip("jax")
    if "import torch" in code:
        pytest.importorskip("torch")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=Path(cupyna.__file__).parents[1],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page):
    targets = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text("utf-8"))
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_the_readme_names_every_environment_variable():
    sources = "".join(path.read_text("utf-8") for path in (ROOT / "cupyna").rglob("*.py"))
    read = set(re.findall(r"environ(?:\.get)?[\[(]\s*\"(CUPYNA_\w+)\"", sources))
    assert "CUPYNA_NUM_THREADS" in read
    assert read - set(re.findall(r"CUPYNA_\w+", (ROOT / "README.md").read_text("utf-8"))) == set()


def test_the_manual_has_every_command():
    headings = re.findall(r"^## `cupyna (\w+)`", (ROOT / "docs/cli.md").read_text("utf-8"), re.M)
    assert headings == list(COMMANDS)
