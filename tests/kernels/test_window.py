"""Shapes, tiles and parameters of the small-window kernels, without a GPU."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cupyna.kernels.window.costs import (
    window_choices,
    window_forward_choice,
    window_gradient_choices,
)
from cupyna.kernels.window.shapes import (
    WARP_ROWS,
    WINDOW_FORWARD_SHAPES,
    WINDOW_GRADIENT_SHAPES,
)
from cupyna.problem import DeviceSpec, Problem
from cupyna.profiling.gpus import GPUS
from cupyna.testing import problems
from cupyna.tiles import TilePlan

H200 = GPUS["H200"].spec
L4 = DeviceSpec("L4", "cuda", 0, 58, (8, 9), 101_376, 50_331_648, 3e5, 3e7)


@settings(max_examples=30)
@given(problem=problems(dtypes=("float16",), max_tokens=400), pick=st.integers(0, 2**16))
def test_every_choice_can_be_launched(problem: Problem, pick: int) -> None:
    shapes = (*WINDOW_FORWARD_SHAPES, *WINDOW_GRADIENT_SHAPES)
    shape = shapes[pick % len(shapes)]
    choices = list(window_choices(problem, H200, shape))
    if not choices:
        return
    choice = choices[pick % len(choices)]
    assert math.prod(choice.warp_tile) == WARP_ROWS
    assert choice.smem_bytes(problem) <= shape.smem_bytes <= H200.smem_bytes
    assert 1 <= choice.warps <= shape.warps
    assert problem.kv_heads % choice.heads == 0
    assert all(s <= b for s, b in zip(choice.slot_box, choice.column_tile, strict=True))
    boxes = TilePlan(problem.axes, choice.warp_tile, choice.slot_box, shape.side).largest_box
    assert all(b <= shape.passes * s for s, b in zip(choice.slot_box, boxes, strict=True))
    keys = itertools.product(*map(range, choice.column_tile))
    rows = [sum(x * p for x, p in zip(key, choice.pitch, strict=True)) for key in keys]
    assert len(set(rows)) == len(rows), "no two keys share a row"
    assert max(rows) == choice.box_tokens - 1


@settings(max_examples=30)
@given(problem=problems(dtypes=("float16",), max_tokens=400))
def test_neighboring_slots_lie_in_different_banks(problem: Problem) -> None:
    for choice in itertools.islice(window_choices(problem, H200, WINDOW_FORWARD_SHAPES[0]), 20):
        for slot, key in enumerate(itertools.product(*map(range, choice.slot_box))):
            row = sum(x * p for x, p in zip(key, choice.pitch, strict=True))
            assert row % 8 == slot % 8


def image(**fields: object) -> Problem:
    usual = {
        "batch": 64, "spatial": (56, 56), "heads": 4, "kv_heads": 4, "head_dim": 32,
        "value_dim": 32, "dtype": "float16", "kernel_size": (7, 7), "stride": (1, 1),
        "dilation": (1, 1), "is_causal": (False, False),
    }  # fmt: skip
    return Problem(**{**usual, **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize("device", [H200, L4], ids=lambda device: device.name)
def test_an_image_of_small_windows_is_served(device: DeviceSpec) -> None:
    choice = window_forward_choice(image(), device)
    assert choice is not None
    assert choice.shape.variant(image()).smem_bytes <= device.smem_bytes
    assert choice.works(image()) * math.prod(choice.row_tile) >= 64 * 4 * 56 * 56


@pytest.mark.parametrize(
    "fields",
    [{"dtype": "float32"}, {"has_bias": True}, {"head_dim": 136}, {"kernel_size": (25, 25)}],
)
def test_what_no_shape_serves_is_left_to_the_general_kernel(fields: dict[str, object]) -> None:
    assert window_forward_choice(image(**fields), H200) is None


def test_keys_at_a_border_go_through_their_slots_again_where_that_is_cheaper() -> None:
    problem = image(spatial=(64, 64), heads=16, kv_heads=16, head_dim=64, value_dim=64,
                    kernel_size=(13, 13), batch=16)  # fmt: skip
    passes = window_gradient_choices(problem, H200)
    assert passes is not None and [chosen.shape.side for chosen in passes] == ["query", "key"]
    _, keys = passes
    assert keys.slot_box == (16, 16)
    assert TilePlan(problem.axes, keys.warp_tile, keys.slot_box, "key").largest_box == (22, 22)


def test_heads_lie_side_by_side_where_a_tile_is_a_whole_dilation_group() -> None:
    problem = image(dilation=(18, 18), kernel_size=(3, 3))
    passes = (window_forward_choice(problem, H200), *(window_gradient_choices(problem, H200) or ()))
    assert len(passes) == 3
    assert all(chosen is not None and chosen.heads > 1 for chosen in passes)
    whole = window_forward_choice(image(), H200)
    assert whole is not None and whole.heads == 1


def test_backward_takes_few_steps_through_few_slots() -> None:
    passes = window_gradient_choices(image(dilation=(14, 14), kernel_size=(3, 3)), H200)
    assert passes is not None
    for chosen in passes:
        assert chosen.slot_box == (4, 4) and chosen.slots_taken == WARP_ROWS


def test_heads_that_share_keys_have_no_gradients_here() -> None:
    assert window_gradient_choices(image(kv_heads=2), H200) is None
