"""The rules of the house that a program can check (docs/design.md says why they hold)."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "cupyna"
DEVICE = ROOT / "cuda_src"

# Each floor imports from the floors above it in this list, and from no other on its own floor.
PYTHON_FLOORS = (
    ("_version", "geometry"),
    ("problem",),
    ("arrays", "operands", "tiles"),
    ("execution", "overlap", "reference"),
    ("tolerance",),
    ("kernels",),
    ("devices",),
    ("backends",),
    ("dispatch",),
    ("arguments", "explanation"),
    ("operations", "plans"),
    ("api",),
    ("ranked",),
    ("fixed",),
    ("naive", "gemm", "fused"),
    ("__init__",),
    ("torch",),
    ("demo", "profiling", "testing"),
    ("cli",),
    ("__main__",),
)
DEVICE_FLOORS = (
    ("ptx",),
    ("common",),
    ("geometry", "softmax", "pipeline"),
    ("mainloop", "epilogue"),
    ("kernels",),
)

LONGEST_FILE = 450
TEXT = {".py", ".cu", ".cuh", ".md", ".rst", ".cfg", ".toml", ".yaml", ".cff", ".in", ".json", ""}


def _level(unit: str, floors: tuple[tuple[str, ...], ...]) -> int:
    found = [level for level, floor in enumerate(floors) if unit in floor]
    assert found, f"{unit} stands on no floor: give it one in tests/test_house.py"
    return found[0]


def _allowed(unit: str, other: str, floors: tuple[tuple[str, ...], ...]) -> bool:
    return unit == other or _level(other, floors) < _level(unit, floors)


def _unit(parts: tuple[str, ...]) -> str:
    return parts[0] if parts else "__init__"


def _imported_units(path: Path) -> Iterator[tuple[str, int]]:
    """Units of the package that a module imports, wherever in the file, with the line."""
    package = path.relative_to(PACKAGE).parent.parts
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                head, *rest = alias.name.split(".")
                if head == "cupyna":
                    yield _unit(tuple(rest)), node.lineno
        elif isinstance(node, ast.ImportFrom):
            named = tuple((node.module or "").split(".")) if node.module else ()
            if node.level:
                named = (*package[: len(package) - node.level + 1], *named)
            elif named[:1] == ("cupyna",):
                named = named[1:]
            else:
                continue
            if named:
                yield _unit(named), node.lineno
                continue
            for alias in node.names:
                module = (PACKAGE / alias.name).with_suffix(".py").exists()
                is_unit = module or (PACKAGE / alias.name).is_dir()
                yield alias.name if is_unit else "__init__", node.lineno


def _python_files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def _device_files() -> list[Path]:
    return sorted(path for path in DEVICE.rglob("*") if path.suffix in (".cu", ".cuh"))


def _project_files() -> list[Path]:
    folders = ("cupyna", "cuda_src", "tests", "docs", ".ci")
    inside = [path for folder in folders for path in (ROOT / folder).rglob("*")]
    made = {".git", "__pycache__", "_build", "_cubin", "generated"}
    return [
        path
        for path in [*ROOT.iterdir(), *inside]
        if path.is_file() and path.suffix in TEXT and not made.intersection(path.parts)
    ]


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", _python_files(), ids=_name)
def test_imports_point_down(path):
    unit = _unit(path.relative_to(PACKAGE).with_suffix("").parts)
    wrong = [
        f"line {line}: {unit} imports {other}"
        for other, line in _imported_units(path)
        if not _allowed(unit, other, PYTHON_FLOORS)
    ]
    assert not wrong


@pytest.mark.parametrize("path", _device_files(), ids=_name)
def test_includes_point_down(path):
    folder = path.relative_to(DEVICE).parts[0]
    wrong = []
    for included in re.findall(r'^\s*#\s*include\s+"([^"]+)"', path.read_text("utf-8"), re.M):
        beside, below = (path.parent / included).resolve(), (DEVICE / included).resolve()
        target = beside if beside.exists() else below
        assert target.is_file(), f"{included} is not in cuda_src"
        if not _allowed(folder, target.relative_to(DEVICE).parts[0], DEVICE_FLOORS):
            wrong.append(f"{folder} includes {included}")
    assert not wrong


@pytest.mark.parametrize("path", _device_files(), ids=_name)
def test_inline_assembly_stays_in_ptx(path):
    code = re.sub(r"//[^\n]*|/\*.*?\*/", "", path.read_text("utf-8"), flags=re.S)
    in_ptx = path.relative_to(DEVICE).parts[0] == "ptx"
    assert in_ptx or not re.search(r"\b(asm|__asm__)\b", code)


def test_every_file_is_readable_in_one_sitting():
    lengths = {
        _name(path): len(path.read_text("utf-8").splitlines())
        for path in _project_files()
        if path.suffix in (".py", ".cu", ".cuh", ".md", ".rst")
    }
    assert {name: count for name, count in lengths.items() if count > LONGEST_FILE} == {}


@pytest.mark.parametrize(
    "pattern",
    [
        r"(?<![\w.$~}/-])/(?:root|home|work|Users|opt|mnt|private)/",
        r"\b[A-Z]:\\Users",
        r"pypi\.org|pythonhosted\.org|npmjs\.(?:org|com)|deb\.debian\.org",
    ],
    ids=["unix-path", "windows-path", "registry"],
)
def test_no_file_names_a_machine_or_a_registry(pattern):
    found = [
        f"{_name(path)}: {match[0]}"
        for path in _project_files()
        for match in re.finditer(pattern, path.read_text("utf-8", errors="replace"))
    ]
    assert not found


def test_the_version_has_one_source():
    version = re.search(r'"(.+)"', (PACKAGE / "_version.py").read_text("utf-8"))[1]
    others = [ROOT / name for name in ("setup.cfg", "setup.py", "pyproject.toml", "CITATION.cff")]
    pattern = rf"(?m)^\s*version\s*[:=]\s*[\"']?{re.escape(version)}"
    assert not [path.name for path in others if re.search(pattern, path.read_text("utf-8"))]
