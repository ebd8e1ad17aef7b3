"""The argument of the naive kernels has one layout on both sides."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cupyna.arrays import DeviceArray
from cupyna.kernels.compiler import CompilerMissingError, compile_variant, find_compiler
from cupyna.kernels.params import (
    PARAMS,
    axis_fields,
    bias_fields,
    pack,
    row_fields,
    statistic_fields,
)
from cupyna.kernels.sources import Sources, installed_sources
from cupyna.kernels.variant import Variant
from cupyna.problem import Problem

PROBE = Variant("probe", "float32", 0, threads=32)


def asserts(dtype: np.dtype, name: str) -> list[str]:
    """Offsets of every field of a struct, and its size."""
    lines = [f"static_assert(sizeof({name}) == {dtype.itemsize});"]
    for field, (_, offset, *_) in dtype.fields.items():
        lines.append(f"static_assert(__builtin_offsetof({name}, {field}) == {offset});")
    return lines


@pytest.mark.build
def test_the_mirror_is_the_struct(tmp_path: Path) -> None:
    try:
        compiler = find_compiler()
    except CompilerMissingError as error:
        pytest.skip(str(error))
    structs = {
        "cupyna::Params": PARAMS,
        "cupyna::Array": PARAMS["query"],
        "cupyna::AxisParams": PARAMS["axis"].base,
    }
    lines = [line for name, dtype in structs.items() for line in asserts(dtype, name)]
    header = installed_sources().root / "common" / "params.cuh"
    (tmp_path / "src" / "kernels").mkdir(parents=True)
    (tmp_path / "src" / PROBE.source).write_text(
        header.read_text("utf-8").replace("#pragma once", "")
        + "\n".join(lines)
        + '\nextern "C" __global__ void CUPYNA_SYMBOL(cupyna::Params params) {}\n'
    )
    compile_variant(compiler, Sources(tmp_path / "src"), PROBE, "sm_80", tmp_path)


def test_packed_fields_are_found_by_name() -> None:
    rows = DeviceArray(4096, (2, 5, 6, 3, 8), (720, 144, 24, 8, 1), "float16", 0)
    lse = DeviceArray(64, (2, 5, 6, 3), (90, 18, 3, 1), "float32", 0)
    bias = DeviceArray(128, (3, 5, 7), (35, 7, 1), "float16", 0)
    problem = Problem(2, (5, 6), 3, 3, 8, 8, "float16", (3, 4), (1, 2), (1, 1), (False, True))
    packed = pack(
        {
            "query": row_fields(rows), "lse": statistic_fields(lse), "bias": bias_fields(bias),
            "axis": axis_fields(problem), "scale": 0.5, "empty": -np.inf, "items": 77,
            "weights": 2**63,
        }
    )[0]  # fmt: skip

    def fields(name: str) -> list[int]:
        array = packed[name]
        return [*(int(array[f]) for f in ("data", "batch", "head", "channel")), *array["axis"]]

    assert fields("query") == [4096, 720, 8, 1, 0, 144, 24]
    assert fields("lse") == [64, 90, 1, 0, 0, 18, 3]
    assert fields("bias") == [128, 0, 35, 0, 0, 7, 1]
    assert packed["key"]["data"] == 0
    axes = [tuple(axis) for axis in packed["axis"]]
    assert axes == [(1, 1, 1, 1, 0), (5, 3, 1, 1, 0), (6, 4, 2, 1, 1)]
    assert (packed["scale"], packed["empty"], packed["items"]) == (0.5, -np.inf, 77)
    assert (packed["weights"], packed["gradient"], packed["keys"]) == (2**63, 0, 0)
