"""The command line: `cupyna <command>`.

A command is a function of its own name in `cupyna/cli/<command>.py`. The module of a command is
imported when that command is called, so that listing the commands stays quick and a missing
optional package stops only the command that needs it.
"""

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Annotated

import typer

from cupyna._version import __version__

COMMANDS = {
    "demo": "Denoise a picture, a volume or a signal with neighborhood attention.",
    "bench": "Time the methods on this machine.",
    "profile": "Show work, traffic, time, occupancy and memory of one call.",
    "build": "Compile the CUDA kernels ahead of time. Needs no GPU.",
    "kernels": "List the compiled kernels and the resources they use.",
    "doctor": "Say what this machine has, what would run and what to install.",
}

_EXTRA_OF_MODULE = {
    "cupy": "cuda",
    "nvidia": "cuda",
    "torch": "torch",
    "imageio": "demo",
    "matplotlib": "demo",
    "nibabel": "demo",
    "pywt": "demo",
    "skimage": "demo",
    "sklearn": "demo",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line.

    Parameters
    ----------
    arguments : sequence of str, optional
        The words after the program's name. Taken from `sys.argv` when absent.

    Raises
    ------
    SystemExit
        Always: 0 on success, 1 where a command failed, 2 where the arguments are wrong.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    called = next((word for word in words if not word.startswith("-")), None)
    try:
        _app(called)(args=words, prog_name="cupyna")
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in _EXTRA_OF_MODULE:
            raise
        extra = _EXTRA_OF_MODULE[missing]
        typer.echo(
            f"cupyna {called}: the Python package {missing!r} is not installed. "
            f'Install it with: pip install "cupyna[{extra}]"',
            err=True,
        )
        raise SystemExit(1) from None


def _app(called: str | None) -> typer.Typer:
    """Build the application, with the real function of the called command only."""
    app = typer.Typer(
        add_completion=False,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_options)
    for name, summary in COMMANDS.items():
        function = _load(name) if name == called else _listed
        if isinstance(function, typer.Typer):  # a command with commands of its own
            app.add_typer(function, name=name)
        else:
            app.command(name, help=summary if name != called else None)(function)
    return app


def _load(name: str) -> Callable[..., None] | typer.Typer:
    function: Callable[..., None] | typer.Typer = getattr(import_module(f"{__name__}.{name}"), name)
    return function


def _listed() -> None:
    """Stand for a command that `--help` lists and nobody has called."""


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"cupyna {__version__}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Neighborhood attention for NumPy, CuPy and PyTorch arrays."""
