"""Plans of the gemm kernels keep what the device sources rely on."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cupyna.backends.gemm import CudaGemm
from cupyna.dispatch import candidates
from cupyna.kernels.gemm.heuristics import Kind, gemm_plan, smem_bytes
from cupyna.kernels.gemm.shapes import MOST_SLAB_ROWS, SMEM_BYTES, WARP_ROWS, WARPS, chunk_of
from cupyna.problem import DeviceSpec, Problem
from cupyna.testing import problems
from cupyna.tiles import TilePlan

H200 = DeviceSpec(
    "H200", "cuda", 0, 132, (9, 0), 232448, 60 * 2**20, bytes_per_us=4.8e6, flops_per_us=6.7e7
)
KINDS: tuple[Kind, ...] = ("forward", "scores", "score_gradients", "outputs", "inverse")


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
    assert plan.smem_bytes == smem_bytes(problem, kind, plan.slab_rows, plan.stages)

    boxes = TilePlan(problem.axes, plan.tile, plan.tile, plan.side)
    own = TilePlan(problem.axes, plan.warp_tile, plan.warp_tile, plan.side)
    chunk = chunk_of(problem.item_bytes)
    for tile in boxes.tiles():
        extents = list(tile.box_shape)
        if plan.side == "query":
            extents = [max(e, k) for e, k in zip(extents, problem.kernel_size, strict=True)]
        rows = min(plan.slab, extents[plan.split]) * math.prod(extents[plan.split + 1 :])
        assert rows <= plan.slab_rows <= MOST_SLAB_ROWS
        slabs = math.prod(tile.box_shape[: plan.split]) * -(
            -tile.box_shape[plan.split] // plan.slab
        )
        assert plan.stages == 2 or slabs == 1
    if plan.side == "query":
        for tile in own.tiles():
            extents = [max(e, k) for e, k in zip(tile.box_shape, problem.kernel_size, strict=True)]
            columns = min(plan.slab, extents[plan.split]) * math.prod(extents[plan.split + 1 :])
            met = -(-extents[plan.split] // plan.slab) + 1
            chunks = met * math.prod(extents[: plan.split]) * -(-columns // chunk)
            assert chunks <= plan.chunks


def test_the_shape_of_a_plan_follows_the_window() -> None:
    plane = Problem(
        16, (64, 64), 16, 16, 64, 64, "float16", (13, 13), (1, 1), (1, 1), (False, False)
    )  # fmt: skip
    plan = gemm_plan(plane, H200, "forward", 64)
    # Warps of 4 x 4 need the fewest keys, and those of a block see the same slabs.
    assert plan.warp_tile == (4, 4) and plan.warps == (1, 4)
    line = replace(
        plane, spatial=(4096,), kernel_size=(511,), stride=(1,), dilation=(1,), is_causal=(False,)
    )
    assert gemm_plan(line, H200, "forward", 64).tile == (64,)


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
