"""What a compiled kernel takes of a multiprocessor, read from the assembler's report.

`resources.json` records it for every kernel, by one release of the NVRTC wheel that it names;
nvcc and other releases may allocate registers differently.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from .variant import ARCHITECTURES

__all__ = ["GOLDEN_FILE", "Resources", "complaints", "parse_report", "read_golden", "write_golden"]

GOLDEN_FILE = Path(__file__).with_name("resources.json")

_SPILL = re.compile(
    r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", re.ASCII
)
_REGISTERS = re.compile(r"Used (\d+) registers", re.ASCII)
_SMEM = re.compile(r"(\d+)(?:\+\d+)? bytes smem", re.ASCII)

# Notes with which the assembler keeps a program right and takes its speed away.
_SLOW = re.compile(r".*(?:wgmma\S* instructions are serialized|setmaxnreg.*ignored).*", re.I)


@dataclass(frozen=True, slots=True)
class Resources:
    """Resources of one kernel on one architecture.

    Parameters
    ----------
    registers : int
        Per thread.
    smem_bytes : int
        Static shared memory of one block; what a launch asks for comes on top.
    stack_bytes : int
        Local memory of one thread, spills included.
    spill_bytes : int
        Spilled stores plus loads of one thread.
    """

    registers: int
    smem_bytes: int
    stack_bytes: int
    spill_bytes: int


def parse_report(log: str) -> Resources:
    """Read what ``ptxas -v`` printed for a file with one kernel.

    Raises
    ------
    RuntimeError
        If `log` holds no report of exactly one kernel.
    """
    registers = _REGISTERS.findall(log)
    if len(registers) != 1:
        raise RuntimeError(f"expected the report of one kernel, found {len(registers)} in:\n{log}")
    functions = [tuple(map(int, found)) for found in _SPILL.findall(log)]
    return Resources(
        registers=int(registers[0]),
        smem_bytes=sum(map(int, _SMEM.findall(log))),
        stack_bytes=max((stack for stack, _, _ in functions), default=0),
        # Functions that were not inlined spill on their own lines.
        spill_bytes=sum(stores + loads for _, stores, loads in functions),
    )


def complaints(log: str, resources: Resources) -> tuple[str, ...]:
    """List why a kernel that compiled is still not fit to be shipped."""
    spills = (f"{resources.spill_bytes} bytes of register spills",) if resources.spill_bytes else ()
    return (*spills, *(line.strip() for line in _SLOW.findall(log)))


def read_golden(path: Path = GOLDEN_FILE) -> tuple[str, dict[str, dict[str, Resources]]]:
    """Read the recorded table.

    Returns
    -------
    compiler : str
        Identity of the compiler that gave these numbers.
    table : dict
        Resources by symbol, then by architecture.
    """
    if not path.is_file():
        return "", {}
    stored = json.loads(path.read_text("utf-8"))
    table = {
        symbol: {arch: Resources(**fields) for arch, fields in row.items()}
        for symbol, row in stored["kernels"].items()
    }
    return stored["compiler"], table


def write_golden(
    compiler: str, table: Mapping[str, Mapping[str, Resources]], path: Path = GOLDEN_FILE
) -> None:
    """Record the table, one line for each kernel."""
    rows = [
        f"  {json.dumps(symbol)}: "
        + json.dumps({arch: asdict(row[arch]) for arch in sorted(row, key=ARCHITECTURES.index)})
        for symbol, row in sorted(table.items())
    ]
    body = ",\n".join(rows)
    text = f'{{\n "compiler": {json.dumps(compiler)},\n "kernels": {{\n{body}\n }}\n}}\n'
    path.write_text(text, "utf-8")
