"""Shapes, tiles and choices of the small-window forward on Hopper, without a GPU."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cupyna.backends.hopper_window import CudaHopperWindow
from cupyna.dispatch import select
from cupyna.kernels.hopper.tensor_map import most_tokens
from cupyna.kernels.window.ring_costs import window_ring_choice, window_ring_choices
from cupyna.kernels.window.shapes import WARP_ROWS
from cupyna.problem import Problem
from cupyna.profiling.gpus import GPUS
from cupyna.profiling.problems import find
from cupyna.testing import problems
from cupyna.tiles import TilePlan

H200 = GPUS["H200"].spec
A100 = GPUS["A100"].spec
E = find("E").problem("float16")


@settings(max_examples=40)
@given(problem=problems(dtypes=("float16",), max_tokens=400), pick=st.integers(0, 2**16))
def test_every_choice_can_be_launched(problem: Problem, pick: int) -> None:
    problem = replace(problem, head_dim=32, value_dim=32, has_bias=False)
    choices = list(window_ring_choices(problem, H200))
    if not choices:
        return
    choice = choices[pick % len(choices)]
    assert math.prod(choice.warp_tile) == WARP_ROWS
    box = TilePlan(problem.axes, choice.warp_tile, choice.warp_tile, "query").largest_box
    assert all(b <= s for b, s in zip(box, choice.slot_box(problem), strict=True))
    slices = choice.stages * choice.slices
    assert slices - choice.slices >= box[0], "a warp's box is in the ring at one time"
    assert all(b <= k for b, k in zip(choice.slot_box(problem)[1:], choice.key_box, strict=True))
    extents = (choice.slices, *choice.key_box)
    assert all(e <= most_tokens(d) for e, d in zip(extents, problem.dilation, strict=True))
    stage_bytes = choice.slices * math.prod(choice.key_box) * choice.shape.head_dim * 2
    assert stage_bytes % 128 == 0
    assert 2 * choice.stages * stage_bytes + 10240 <= choice.shape.smem_bytes == H200.smem_bytes


def test_small_windows_run_here() -> None:
    assert select(E, "forward", H200, None).name == "cuda-hopper-window"
    choice = CudaHopperWindow().choice(E, "forward", H200)
    assert choice.kernel.startswith("cupyna_window_forward_sm90_float16_head_dim64")
    assert choice.kv_tile == (16, 16)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"dtype": "float32"}, "computes in float16 and bfloat16, not in float32"),
        ({"has_bias": True}, "adds no bias"),
        ({"has_vector_rows": False}, "contiguous and aligned to 16 bytes"),
        ({"has_forward_strides": False}, "not broadcast or reversed"),
        ({"dilation": (1, 9)}, "needs a dilation of at most 8, got 9"),
        ({"head_dim": 128}, "finds no tiles"),
        ({"kernel_size": (13, 17)}, "finds no tiles"),
    ],
)
def test_what_it_refuses(change: dict[str, object], reason: str) -> None:
    assert reason in CudaHopperWindow().refusals(replace(E, **change), "forward", H200)[0]


def test_where_others_are_faster() -> None:
    backend = CudaHopperWindow()
    assert "needs compute capability 9.0" in backend.refusals(E, "forward", A100)[0]
    assert "has a forward only" in backend.refusals(E, "backward", H200)[0]
    dilated = find("H").problem("float16")
    assert backend.refusals(dilated, "forward", H200) == ()
    assert select(dilated, "forward", H200, None).name == "cuda-window"
    line = Problem(1, (64,), 1, 1, 64, 64, "float16", (7,), (1,), (1,), (False,))
    assert window_ring_choice(line, H200) is None
