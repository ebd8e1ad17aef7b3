"""`cupyna doctor`: what runs here."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cupyna.kernels.diagnosis import diagnose
from cupyna.kernels.machine import examine

__all__ = ["doctor"]

_MARKS = {"ok": "[green]ok[/]", "note": "[yellow]note[/]", "problem": "[red]problem[/]"}


def doctor() -> None:
    """Say what this machine has, what would run and what to install."""
    table = Table(show_header=False, box=None, padding=(0, 1))
    for finding in diagnose(examine()):
        text = escape(finding.text)
        if finding.remedy:
            text += f"\n[bold]{escape(finding.remedy)}[/]"
        table.add_row(_MARKS[finding.state], finding.topic, text)
    Console(highlight=False).print(table)
