"""The command line itself; each command has its own tests."""

from __future__ import annotations

import subprocess
import sys
import types
from importlib import import_module
from pathlib import Path

import pytest

import cupyna
from cupyna import cli

HEAVY = ("cupy", "torch", "matplotlib", "skimage", "scipy")


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as exit_:
        cli.main(words)
    return exit_.value.code


def test_every_command_file_is_a_command():
    folder = Path(cli.__file__).parent
    assert {path.stem for path in folder.glob("[!_]*.py")} == set(cli.COMMANDS)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_a_command_is_a_documented_function_of_its_name(name, capsys):
    function = getattr(import_module(f"cupyna.cli.{name}"), name)
    assert function.__doc__
    assert run(name, "--help") == 0
    assert name in capsys.readouterr().out


def test_help_lists_every_command(capsys):
    assert run("--help") == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in cli.COMMANDS)


def test_version(capsys):
    assert run("--version") == 0
    assert capsys.readouterr().out == f"cupyna {cupyna.__version__}\n"


def test_an_unknown_command_is_refused(capsys):
    assert run("attend") == 2
    assert "attend" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--help"], ["--version"]])
def test_help_and_version_import_no_heavy_package(words):
    code = f"""
import sys
from cupyna.cli import main
try:
    main({words})
except SystemExit:
    pass
print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(cupyna.__file__).parents[1],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert done.stderr.strip() == "[]"


@pytest.fixture
def command(monkeypatch):
    """Make a function the command `made_up`."""

    def register(function):
        module = types.ModuleType("cupyna.cli.made_up")
        module.made_up = function
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setitem(cli.COMMANDS, "made_up", "Do nothing.")

    return register


def test_a_missing_optional_package_is_named_with_its_extra(command, monkeypatch, capsys):
    def made_up():
        import pywt  # noqa: F401

    command(made_up)
    monkeypatch.setitem(sys.modules, "pywt", None)
    assert run("made_up") == 1
    message = capsys.readouterr().err
    assert "'pywt'" in message
    assert 'pip install "cupyna[demo]"' in message


def test_other_import_errors_are_not_hidden(command):
    def made_up():
        import no_such_module  # noqa: F401

    command(made_up)
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        cli.main(["made_up"])
