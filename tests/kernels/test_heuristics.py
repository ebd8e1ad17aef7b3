"""The cost model picks tiles that the kernels can run, the same ones every time."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cupyna.kernels.fused.costs import expected_us
from cupyna.kernels.fused.heuristics import (
    FusedChoice,
    fused_forward_choice,
    fused_gradient_choices,
    is_served,
)
from cupyna.kernels.fused.params import axis_tiles
from cupyna.kernels.fused.shapes import FORWARD_SHAPES, GRADIENT_SHAPES
from cupyna.kernels.fused.tile_costs import warp_tile
from cupyna.kernels.fused.tuning import model_passes
from cupyna.problem import DeviceSpec, Problem
from cupyna.testing import axes, problems
from cupyna.tiles import TilePlan

H200 = DeviceSpec("H200", "cuda", 0, 132, (9, 0), 232448, 60 << 20, 4.8e6, 6.7e7)
A100 = DeviceSpec("A100", "cuda", 0, 108, (8, 0), 166912, 40 << 20, 2.0e6, 1.95e7)
L4 = DeviceSpec("L4", "cuda", 0, 58, (8, 9), 101376, 48 << 20, 3.0e5, 3.0e7)
DEVICES = (H200, A100, L4)
DTYPES = ("float16", "bfloat16", "float32")


SHAPES = {
    "forward": FORWARD_SHAPES,
    "query gradient": [s for s in GRADIENT_SHAPES if s.side == "query"],
    "key gradient": [s for s in GRADIENT_SHAPES if s.side == "key" and not s.sums_queries],
}


def choices(problem: Problem, device: DeviceSpec) -> tuple[FusedChoice, ...]:
    return fused_forward_choice(problem, device), *fused_gradient_choices(problem, device)


@given(
    problem=problems(dtypes=DTYPES, max_tokens=4096, max_head_dim=256),
    device=st.sampled_from(DEVICES),
    deterministic=st.booleans(),
)
def test_any_problem_gets_tiles_that_fit(
    problem: Problem, device: DeviceSpec, deterministic: bool
) -> None:
    problem = replace(problem, deterministic=deterministic)
    assert is_served(problem, device, "forward")
    assert is_served(replace(problem, has_bias=False), device, "backward")
    for choice in choices(problem, device):
        assert choice.shape.head_dim >= max(problem.head_dim, problem.value_dim)
        assert choice.shape.item_bytes == problem.item_bytes
        assert choice.shape.smem_bytes <= device.smem_bytes
        assert choice.shape.takes_bias or not problem.has_bias
        assert not (deterministic and choice.shape.sums_queries)
        assert math.prod(choice.row_tile) == choice.shape.rows
        assert all(extent & (extent - 1) == 0 for extent in choice.row_tile)
        assert math.prod(choice.column_tile) <= choice.shape.columns
        assert choice.time_us > 0


def float32(
    spatial: tuple[int, ...], kernel: int, head_dim: int, dilation: int = 1, heads: int = 8
) -> Problem:
    rank = len(spatial)
    return Problem(
        8, spatial, heads, heads, head_dim, head_dim, "float32", (kernel,) * rank, (1,) * rank,
        (dilation,) * rank, (False,) * rank,
    )  # fmt: skip


@pytest.mark.parametrize("head_dim", [32, 64])
def test_float32_takes_small_blocks_where_windows_skip_and_large_ones_in_full_groups(
    head_dim: int,
) -> None:
    skipping, full = float32((32, 32, 32), 7, head_dim), float32((64, 64), 31, head_dim, 2)
    assert [choice.shape.warps for choice in choices(skipping, H200)] == [2, 2, 2]
    assert fused_forward_choice(full, H200).shape.warps == 4
    # A multiprocessor of an A100 does not hold as many.
    assert fused_forward_choice(skipping, A100).shape.warps == 4


@given(problem=problems(dtypes=("float32",), max_tokens=4096, max_head_dim=128))
def test_plain_tf32_has_a_variant_wherever_it_is_allowed(problem: Problem) -> None:
    for choice in choices(replace(problem, allow_tf32=True, has_bias=False), H200):
        assert not choice.shape.is_exact
        assert ("TF32", 1) in choice.shape.row("float32", allow_tf32=True).defines


@pytest.mark.parametrize("device", DEVICES, ids=lambda device: device.name)
@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("item_bytes", [2, 4])
def test_every_device_has_a_shape_for_every_head_dim(
    item_bytes: int, name: str, device: DeviceSpec
) -> None:
    held = [
        shape
        for shape in SHAPES[name]
        if shape.item_bytes == item_bytes and shape.smem_bytes <= device.smem_bytes
    ]
    assert {8, 32, 64, 128, 256} <= {
        head_dim for head_dim in range(8, 257, 8) if any(s.head_dim >= head_dim for s in held)
    }


def test_more_channels_than_any_kernel_has() -> None:
    problem = Problem(1, (8,), 1, 1, 264, 8, "float16", (3,), (1,), (1,), (False,))
    with pytest.raises(ValueError, match="264 channels"):
        fused_forward_choice(problem, H200)


@given(axis=axes(max_length=300), extent=st.sampled_from([1, 2, 4, 8, 16, 32, 64, 128]))
def test_tiles_are_counted_like_the_plan_counts_them(axis, extent) -> None:
    counts = TilePlan((axis,), (extent,), (1,)).counts
    assert axis_tiles(axis.length, axis.dilation, extent) == counts.tiles


@pytest.mark.parametrize(
    ("tile", "rows", "expected"),
    [
        ((16, 8), 32, (4, 8)),
        ((8, 4, 4), 16, (1, 4, 4)),
        ((128,), 32, (32,)),
        ((2, 64), 16, (1, 16)),
    ],
)
def test_a_warp_owns_the_first_rows_of_a_tile(tile, rows, expected) -> None:
    assert warp_tile(tile, rows) == expected


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("operation", ["forward", "backward"])
def test_few_blocks_take_as_long_as_one_for_each_multiprocessor(
    operation: Literal["forward", "backward"], dtype: str
) -> None:
    line = Problem(
        1, (512,), 1, 1, 64, 64, dtype, (512,), (1,), (1,), (False,), deterministic=True
    )  # fmt: skip

    def time_us(heads: int) -> float:
        problem = replace(line, heads=heads, kv_heads=heads)
        return expected_us(problem, operation, H200, model_passes(problem, operation, H200))

    times = [time_us(heads) for heads in (1, 8, 16, 132, 264, 528, 1056)]
    assert times == sorted(times)
    assert times[1] < 1.3 * times[0] and times[-1] > 1.8 * times[-2]
