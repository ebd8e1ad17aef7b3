"""Plans of the gemm kernels keep what the device sources rely on."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cupyna.backends.gemm import CudaGemm
from cupyna.dispatch import candidates
from cupyna.kernels.gemm.heuristics import gemm_plan
from cupyna.kernels.gemm.plan import COMPACT, Kind, smem_bytes
from cupyna.kernels.gemm.products import _planes_of_block
from cupyna.kernels.gemm.shapes import MOST_SLAB_ROWS, SMEM_BYTES, WARP_ROWS, WARPS, chunk_of
from cupyna.problem import DeviceSpec, Problem
from cupyna.testing import problems
from cupyna.tiles import TilePlan

H200 = DeviceSpec(
    "H200", "cuda", 0, 132, (9, 0), 232448, 60 * 2**20, bytes_per_us=4.8e6, flops_per_us=6.7e7
)
KINDS: tuple[Kind, ...] = ("forward", "query_gradients", "key_gradients", *COMPACT)


@given(
    problem=problems(max_tokens=2000, max_head_dim=128),
    long=st.booleans(),
    kind=st.sampled_from(KINDS),
)
def test_a_slab_holds_what_a_chunk_names(problem: Problem, long: bool, kind: Kind) -> None:
    if long:
        axes = (problem.spatial[0] * 50, *problem.spatial[1:])
        sizes = (problem.kernel_size[0] * 40, *problem.kernel_size[1:])
        problem = replace(problem, spatial=axes, kernel_size=sizes)
    try:
        plan = gemm_plan(problem, H200, kind, problem.head_dim)
    except ValueError as error:
        assert "too long" in str(error)
        return
    assert math.prod(plan.warp_tile) == WARP_ROWS and math.prod(plan.warps) == WARPS
    assert plan.smem_bytes <= SMEM_BYTES
    assert plan.smem_bytes == smem_bytes(problem, kind, plan.cut, plan.stages)

    cut = plan.cut
    boxes = TilePlan(problem.axes, plan.tile, plan.tile, plan.side)
    own = TilePlan(problem.axes, plan.warp_tile, plan.warp_tile, plan.side)
    chunk = chunk_of(problem.item_bytes)
    keeps_slots = kind in COMPACT and plan.side == "query"
    for tile in boxes.tiles():
        extents = list(tile.box_shape)
        if keeps_slots:
            extents = [max(e, k) for e, k in zip(extents, problem.kernel_size, strict=True)]
        rows = min(cut.slab, extents[cut.split]) * math.prod(extents[cut.split + 1 :])
        assert rows <= cut.slab_rows <= MOST_SLAB_ROWS
        slabs = math.prod(tile.box_shape[: cut.split]) * -(-tile.box_shape[cut.split] // cut.slab)
        assert slabs <= cut.slabs
        assert kind not in COMPACT or plan.stages == 2 or slabs == 1
    for tile in own.tiles():
        extents = list(tile.box_shape)
        columns = min(cut.slab, extents[cut.split]) * math.prod(extents[cut.split + 1 :])
        assert columns <= 16 * cut.part_groups
        met = -(-extents[cut.split] // cut.slab) + 1 if cut.slabs > 1 else 1
        parts = met * math.prod(extents[: cut.split])
        assert parts * -(-columns // chunk) <= cut.chunks
        assert parts * -(-columns // 16) <= cut.groups


def test_the_shape_of_a_plan_follows_the_window() -> None:
    plane = Problem(
        16, (64, 64), 16, 16, 64, 64, "float16", (13, 13), (1, 1), (1, 1), (False, False)
    )  # fmt: skip
    plan = gemm_plan(plane, H200, "forward", 64)
    # Warps of a block share the keys of a slab.
    assert max(plan.warp_tile) <= 8 and plan.warps == (1, 4)
    line = replace(
        plane, spatial=(4096,), kernel_size=(511,), stride=(1,), dilation=(1,), is_causal=(False,)
    )
    assert gemm_plan(line, H200, "forward", 64).tile == (64,)


def test_blocks_take_many_planes_unless_one_of_them_ends_late() -> None:
    # All blocks run at once, and being set up is most of what they do.
    assert _planes_of_block(64, 64, 528, 3.0, 1.0) == 8
    assert _planes_of_block(256, 8, 264, 0.1, 1.0) == 8
    # A third of the time would go by while the longest of them runs alone.
    assert _planes_of_block(256, 8, 264, 0.1, 1.34) == 2


def test_keys_at_a_border_have_the_largest_boxes() -> None:
    line = Problem(1, (16384,), 8, 8, 128, 128, "float32", (511,), (1,), (1,), (False,))
    assert gemm_plan(line, H200, "query_rows", 128).spread(line) < 1.01
    assert gemm_plan(line, H200, "key_rows", 128).spread(line) > 1.3


def test_what_does_not_fit_is_refused_with_a_reason() -> None:
    problem = Problem(1, (64,), 1, 1, 1024, 1024, "float64", (9,), (1,), (1,), (False,))
    backend = CudaGemm()
    (reason,) = backend.refusals(problem, "backward", H200)
    assert "1024 channels in float64 are too long" in reason
    older = replace(H200, compute_capability=(7, 0))
    (reason,) = backend.refusals(replace(problem, head_dim=64), "forward", older)
    assert "compute capability" in reason


@pytest.mark.parametrize("operation", ["forward", "backward", "qk", "av"])
def test_the_faster_unfused_method_comes_first(operation: str) -> None:
    large = Problem(1, (4096,), 8, 8, 64, 64, "float16", (511,), (1,), (1,), (False,))
    small = replace(large, kernel_size=(3,), spatial=(64,))
    for problem in (large, small):
        answers = [
            answer
            for answer in candidates(problem, operation, H200)  # type: ignore[arg-type]
            if answer.method != "fused"
        ]
        times = [answer.choice.time_us for answer in answers if answer.choice is not None]
        assert len(times) == 2 and times == sorted(times)
