"""The docstrings' examples are run, and the reference leaves nothing out."""

from __future__ import annotations

import doctest
import re
from importlib import import_module
from pathlib import Path

import pytest

import cupyna
import cupyna.testing

PACKAGE = Path(cupyna.__file__).parent
DOCS = Path(__file__).resolve().parents[1] / "docs"


def _modules_with_examples() -> list[str]:
    files = [path for path in PACKAGE.rglob("*.py") if ">>>" in path.read_text("utf-8")]
    parts = [path.relative_to(PACKAGE.parent).with_suffix("").parts for path in sorted(files)]
    return [".".join(part for part in names if part != "__init__") for names in parts]


@pytest.mark.parametrize("name", _modules_with_examples())
def test_examples(name):
    results = doctest.testmod(import_module(name))
    assert results.attempted
    assert not results.failed


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("api.md", set(cupyna.__all__) - {"__version__"}),
        ("testing.md", set(cupyna.testing.__all__)),
        ("torch.md", None),
    ],
)
def test_the_reference_is_complete(page, names):
    if names is None:
        names = set(pytest.importorskip("cupyna.torch").__all__)
    text = (DOCS / page).read_text("utf-8")
    assert {name for name in names if not re.search(rf"\b{name}$", text, re.M)} == set()
