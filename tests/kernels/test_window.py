"""Shapes, tiles and parameters of the small-window kernels, without a GPU."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cupyna.kernels.window.costs import window_choices, window_forward_choice
from cupyna.kernels.window.shapes import WARP_ROWS, WINDOW_FORWARD_SHAPES
from cupyna.problem import DeviceSpec, Problem
from cupyna.testing import problems

H200 = DeviceSpec("H200", "cuda", 0, 132, (9, 0), 232_448, 62_914_560, 4.8e6, 6.7e7)
L4 = DeviceSpec("L4", "cuda", 0, 58, (8, 9), 101_376, 50_331_648, 3e5, 3e7)


@settings(max_examples=30)
@given(problem=problems(dtypes=("float16",), max_tokens=400), pick=st.integers(0, 2**16))
def test_every_choice_can_be_launched(problem: Problem, pick: int) -> None:
    shape = WINDOW_FORWARD_SHAPES[pick % len(WINDOW_FORWARD_SHAPES)]
    choices = list(window_choices(problem, H200, shape))
    if not choices:
        return
    choice = choices[pick % len(choices)]
    assert math.prod(choice.warp_tile) == WARP_ROWS
    assert choice.smem_bytes(problem) <= shape.smem_bytes <= H200.smem_bytes
    assert 1 <= choice.warps <= shape.warps
    assert all(s <= b for s, b in zip(choice.slot_box, choice.column_tile, strict=True))
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
