"""`cupyna kernels`: the compiled kernels and what they take."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from cupyna.kernels.manifest import targets
from cupyna.kernels.resources import read_golden
from cupyna.kernels.store import Store, default_store
from cupyna.kernels.variant import ARCHITECTURES, Variant

__all__ = ["kernels"]


def kernels(
    arch: Annotated[
        list[str] | None,
        typer.Option(help="Architecture to list. Repeat it for several. Without it: all."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the compiled kernels and the resources they use."""
    store = default_store()
    _, golden = read_golden()
    rows = [
        _row(store, variant, name, golden)
        for variant, name in targets(ARCHITECTURES if arch is None else arch)
    ]
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    table = Table(box=None, padding=(0, 1))
    for title in (
        "kernel",
        "arch",
        "threads",
        "registers",
        "shared memory",
        "spills",
        "size",
        "is",
    ):
        table.add_column(title, justify="left" if title in ("kernel", "arch", "is") else "right")
    for row in rows:
        table.add_row(
            row["symbol"],
            row["arch"],
            str(row["threads"]),
            _number(row["registers"]),
            _number(row["smem_bytes"]),
            _number(row["spill_bytes"]),
            _number(row["size_bytes"]),
            row["state"],
        )
    console = Console(highlight=False)
    if not console.is_terminal:
        # A pipe has no width, and a cut symbol is no use to a program.
        console = Console(highlight=False, width=160)
    console.print(table)
    console.print(f"{len(rows)} kernels; shared memory, spills and size in bytes")


def _row(store: Store, variant: Variant, arch: str, golden: Any) -> dict[str, Any]:
    record = store.record(variant, arch)
    resources = golden.get(variant.symbol, {}).get(arch) if record is None else record.resources
    if record is None:
        state = "not built"
    else:
        state = "shipped" if store.path(variant, arch).parent == store.shipped else "cached"
    fields: dict[str, Any] = {} if resources is None else asdict(resources)
    return {
        "symbol": variant.symbol,
        "arch": arch,
        "threads": variant.threads,
        "registers": fields.get("registers"),
        "smem_bytes": None if resources is None else resources.smem_bytes + variant.smem_bytes,
        "spill_bytes": fields.get("spill_bytes"),
        "size_bytes": None if record is None else record.size_bytes,
        "compiler": None if record is None else record.compiler,
        "state": state,
    }


def _number(value: int | None) -> str:
    return "" if value is None else str(value)
