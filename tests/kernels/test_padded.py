"""What is copied to rows of whole vectors, without a GPU; tests/emulation runs it."""

from __future__ import annotations

from dataclasses import replace

from cupyna.arrays import DeviceArray
from cupyna.backends.fused import CudaFused
from cupyna.backends.padded import CudaPadded
from cupyna.dispatch import select
from cupyna.kernels.copies import pack_copy
from cupyna.problem import Problem
from cupyna.profiling.gpus import GPUS

H200 = GPUS["H200"].spec
WHOLE = Problem(2, (64, 64), 4, 2, 40, 40, "float16", (7, 7), (1, 1), (1, 1), (False, False))


def test_only_rows_that_need_it_are_copied() -> None:
    backend = CudaPadded()
    assert "these are" in backend.refusals(WHOLE, "forward", H200)[0]
    for change in ({"head_dim": 20, "has_vector_rows": False}, {"has_vector_rows": False}):
        problem = replace(WHOLE, **change)
        assert CudaFused().refusals(problem, "forward", H200)
        assert backend.refusals(problem, "forward", H200) == ()
        assert select(problem, "forward", H200, "fused").name == backend.name
    wide = replace(WHOLE, head_dim=257, has_vector_rows=False)
    assert "up to 256, got 264" in backend.refusals(wide, "forward", H200)[0]
    double = replace(WHOLE, dtype="float64", has_vector_rows=False)
    assert "not in float64" in backend.refusals(double, "forward", H200)[0]


def test_copies_are_counted_and_told() -> None:
    problem = replace(WHOLE, head_dim=20, value_dim=36, has_vector_rows=False)
    choice = CudaPadded().choice(problem, "forward", H200)
    direct = CudaFused().choice(replace(WHOLE, head_dim=24), "forward", H200)
    assert choice.workspace_bytes == 2 * 64 * 64 * (4 + 2) * (24 + 40) * 2
    assert "copies rows, to head_dim 24, value_dim 40" in choice.notes
    assert choice.time_us > direct.time_us
    backward = CudaPadded().choice(problem, "backward", H200)
    assert backward.workspace_bytes > 2 * choice.workspace_bytes


def test_parameters() -> None:
    source = DeviceArray(2, (2, 5, 3, 20), (300, 60, 20, 1), "float16", 0)
    target = DeviceArray.contiguous(4096, (2, 5, 3, 24), "float16", 0)
    (there,), (back,) = pack_copy(source, target), pack_copy(target, source)
    assert (there["source_channels"], there["target_channels"]) == (20, 24)
    assert (back["source_channels"], back["target_channels"]) == (20, 20)
    assert there["length"].tolist() == [1, 1, 5] and there["source"]["data"] == 2
