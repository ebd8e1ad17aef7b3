"""What the fused backward on Hopper is told, chooses and refuses, without a GPU."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import assume, given

from cupyna.backends.hopper import CudaHopper
from cupyna.dispatch import select
from cupyna.kernels.fused.params import BackwardRoom
from cupyna.kernels.hopper.gradient_heuristics import (
    hopper_gradient_choices,
    hopper_gradient_passes,
    passes_us,
)
from cupyna.kernels.hopper.gradient_params import pack_hopper_gradient
from cupyna.kernels.hopper.gradient_schedule import gradient_schedule
from cupyna.kernels.hopper.gradient_shapes import HOPPER_GRADIENT_SHAPES
from cupyna.kernels.hopper.shapes import CONSUMER_ROWS
from cupyna.kernels.hopper.tensor_map import BoxOrder, most_tokens
from cupyna.operands import BackwardArrays
from cupyna.problem import Problem
from cupyna.testing import problems

from .test_hopper import A100, H200, LARGE, encoded, rows

__all__ = ["encoded"]


@given(problem=problems(dtypes=("float16", "bfloat16"), max_tokens=4096))
def test_any_problem_gets_passes_that_fit(problem: Problem) -> None:
    problem = replace(problem, head_dim=64, value_dim=64, has_bias=False)
    assume(not CudaHopper().refusals(problem, "backward", H200))
    for deterministic in (False, True):
        asked = replace(problem, deterministic=deterministic)
        passes = hopper_gradient_passes(asked, H200)
        sides = [(choice.shape.side, choice.shape.sums_queries) for choice in passes]
        assert sides in ([("key", True)], [("query", False), ("key", False)])
        assert len(passes) == 2 or not deterministic
        assert passes_us(asked, H200, passes) > 0
        for choice in passes:
            assert math.prod(choice.consumer_tile) == CONSUMER_ROWS
            assert math.prod(choice.row_tile) == choice.shape.rows
            assert math.prod(choice.column_tile) <= choice.shape.columns
            for tile in (choice.consumer_tile, choice.column_tile):
                for count, gap in zip(tile, problem.dilation, strict=True):
                    assert count <= most_tokens(gap)


def test_shapes_fit_a_multiprocessor() -> None:
    assert all(shape.smem_bytes <= H200.smem_bytes for shape in HOPPER_GRADIENT_SHAPES)
    symbols = {shape.variant("float16").symbol for shape in HOPPER_GRADIENT_SHAPES}
    assert len(symbols) == len(HOPPER_GRADIENT_SHAPES)


def test_parameters(encoded: list[tuple]) -> None:
    problem = replace(LARGE, batch=2, kv_heads=6, deterministic=True)
    q, k = rows(problem, 24, 128), rows(problem, 6, 128)
    dq, dk = replace(q, pointer=64), replace(k, pointer=128)
    arrays = BackwardArrays(q, k, k, None, q, q, q, None, dq, dk, k, None)
    room = BackwardRoom(7)
    of_queries, of_keys = hopper_gradient_passes(problem, H200)
    (packed,) = pack_hopper_gradient(problem, -0.5, of_keys, arrays, room)
    tiles = math.prod(-(-256 // extent) for extent in of_keys.row_tile)
    assert packed["tiles"] == tiles and packed["row_heads"] == 6 and packed["head_group"] == 4
    assert packed["items"] == tiles * 6 * 2 and packed["rotation"] == packed["reversed_planes"] == 0
    assert packed["box_order"] == BoxOrder.BATCH_OUTERMOST
    assert packed["split_axis"] == 1 + of_keys.split_axis and packed["scale"] == -0.5
    assert packed["gradient"]["data"].tolist() == [128, k.pointer]
    assert packed["statistics"] == 7 and packed["query_sums"] == 0
    assert [tile["row_extent"] for tile in packed["tile"]] == [1, *of_keys.row_tile]
    assert [1 << tile["rows_log2"] for tile in packed["tile"]] == [1, *of_keys.consumer_tile]
    boxes = [[axis[2] for axis in axes] for axes in encoded]
    assert boxes[0] == boxes[1] == [64, 1, *of_keys.consumer_tile[::-1], 1]
    assert boxes[2] == boxes[3] == [64, 1, *of_keys.column_tile[::-1], 1]
    (packed,) = pack_hopper_gradient(problem, 0.5, of_queries, arrays, room)
    assert packed["gradient"]["data"].tolist() == [64, 0] and packed["row_heads"] == 24


@pytest.mark.parametrize(
    ("channels", "compiled"), [(8, 32), (32, 32), (40, 64), (72, 96), (96, 96)]
)
def test_channels_have_their_own_shapes(channels: int, compiled: int) -> None:
    for deterministic in (False, True):
        problem = replace(LARGE, head_dim=channels, value_dim=channels, deterministic=deterministic)
        for chosen in hopper_gradient_passes(problem, H200):
            assert chosen.shape.head_dim == compiled


def test_blocks_stay_and_share_the_tiles() -> None:
    (chosen,) = hopper_gradient_passes(LARGE, H200)
    grid = gradient_schedule(LARGE, chosen, H200)
    assert grid.blocks == H200.processors and 1 <= grid.imbalance < 1.1
    small = replace(LARGE, heads=1, kv_heads=1, spatial=(32, 32), kernel_size=(9, 9))
    (*_, of_keys) = hopper_gradient_passes(small, H200)
    tiles = math.prod(-(-32 // extent) for extent in of_keys.row_tile)
    assert gradient_schedule(small, of_keys, H200).blocks == tiles


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"dtype": "float32"}, "not in float32"),
        ({"has_bias": True}, "adds no bias"),
        ({"head_dim": 136}, "up to 128, got 136"),
    ],
)
def test_what_it_cannot_do_is_refused(change: dict, reason: str) -> None:
    assert reason in CudaHopper().refusals(replace(LARGE, **change), "backward", H200)[0]


def test_it_is_chosen_where_it_is_expected_to_be_faster() -> None:
    for deterministic in (False, True):
        large = replace(LARGE, deterministic=deterministic)
        assert select(large, "backward", H200, None).name == "cuda-hopper"
        choice = CudaHopper().choice(large, "backward", H200)
        numbers = 2 if deterministic else 2 + 128
        assert choice.workspace_bytes == 4 * numbers * 24 * 256 * 256
        assert choice.kernel.count("fused_gradient_sm90") == 1 + deterministic
    assert "needs compute capability 9.0" in CudaHopper().refusals(LARGE, "backward", A100)[0]
    small = replace(LARGE, kernel_size=(3, 3), head_dim=32, value_dim=32)
    assert select(small, "backward", H200, None).name == "cuda-window"
    few_tiles = replace(LARGE, spatial=(128, 128), kernel_size=(3, 3), heads=8, kv_heads=8)
    assert select(few_tiles, "backward", H200, None).name == "cuda-hopper"


def test_sums_of_dilated_lines_are_expected_to_take_longer() -> None:
    """Their tokens have no neighbors in memory, and are added one by one."""
    dilated = replace(LARGE, kernel_size=(40, 40), dilation=(1, 2))
    across = replace(LARGE, kernel_size=(40, 40), dilation=(2, 1))

    def least_us(problem: Problem) -> float:
        choices = hopper_gradient_choices(problem, H200)
        return min(choice.time_us for choice in choices if choice.shape.sums_queries)

    assert least_us(dilated) > 1.05 * least_us(across)
