"""What the cost model picks on several GPUs; `python -m tests.kernels.picks` writes the table.

A change of the model or of the compiled shapes shows here as a difference to be looked at.
"""

from __future__ import annotations

import json
from pathlib import Path

from cupyna.kernels.fused.heuristics import FusedChoice, is_served
from cupyna.kernels.fused.tuning import model_passes
from cupyna.problem import DeviceSpec, Operation, Problem
from cupyna.profiling.problems import rows

TABLE = Path(__file__).with_suffix(".json")

# Figures of the data sheets: multiprocessors, shared memory of a block, L2, bytes and float32
# operations in a microsecond.
DEVICES = (
    DeviceSpec("A100", "cuda", 0, 108, (8, 0), 166912, 40 << 20, 2.04e6, 1.95e7),
    DeviceSpec("L4", "cuda", 0, 58, (8, 9), 101376, 48 << 20, 3.0e5, 3.03e7),
    DeviceSpec("RTX 4090", "cuda", 0, 128, (8, 9), 101376, 72 << 20, 1.01e6, 8.26e7),
    DeviceSpec("H100", "cuda", 0, 132, (9, 0), 232448, 50 << 20, 3.35e6, 6.69e7),
    DeviceSpec("H200", "cuda", 0, 132, (9, 0), 232448, 60 << 20, 4.8e6, 6.69e7),
)
DTYPES = ("float16", "float32")
OPERATIONS: tuple[Operation, ...] = ("forward", "backward")


def picks(device: DeviceSpec) -> dict[str, dict[str, str]]:
    """Of each problem of the suite "cases": its passes, forward and backward."""
    found = {}
    for row in rows("cases"):
        for dtype in DTYPES:
            problem = row.problem(dtype)
            found[f"{row.name} {dtype}"] = {
                operation: _described(problem, operation, device) for operation in OPERATIONS
            }
    return found


def _described(problem: Problem, operation: Operation, device: DeviceSpec) -> str:
    if not is_served(problem, device, operation):
        return "not served"
    return "; ".join(_line(chosen) for chosen in model_passes(problem, operation, device))


def _line(chosen: FusedChoice) -> str:
    shape = chosen.shape
    side = "both" if shape.sums_queries else shape.side
    tiles = (" x ".join(map(str, tile)) for tile in (chosen.row_tile, chosen.column_tile))
    return (
        f"{side} side, {shape.head_dim} channels, {shape.warps} warps of {shape.warp_rows} rows, "
        f"{shape.columns} columns by {shape.column_block}: {' against '.join(tiles)}"
    )


def main() -> None:
    table = {device.name: picks(device) for device in DEVICES}
    TABLE.write_text(json.dumps(table, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
