"""The distances between tiles that the fused method sums the gradient of a bias by."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cupyna.backends.fused import CudaFused
from cupyna.geometry import Axis
from cupyna.kernels.fused.bias import bias_gradient_choice
from cupyna.problem import DeviceSpec, Problem
from cupyna.profiling.gpus import GPUS
from cupyna.testing import axes, problems
from cupyna.tiles import TilePlan

H200 = GPUS["H200"].spec
L4 = DeviceSpec("L4", "cuda", 0, 58, (8, 9), 101376, 48 << 20, 3.0e5, 3.0e7)
PROBLEM = Problem(
    2, (40, 33), 4, 2, 64, 64, "float16", (9, 12), (1, 3), (2, 1), (False, True), has_bias=True
)  # fmt: skip


def line(axis: Axis) -> Problem:
    """A problem whose only axis this is."""
    return Problem(
        1, (axis.length,), 1, 1, 32, 32, "float16", (axis.kernel_size,), (axis.stride,),
        (axis.dilation,), (axis.is_causal,), has_bias=True,
    )  # fmt: skip


@given(axis=axes(max_length=300), device=st.sampled_from([H200, L4]))
def test_every_pair_of_tokens_is_at_one_distance_and_has_its_entry(axis, device) -> None:
    choice = bias_gradient_choice(line(axis), device)
    (rows,), (columns,) = choice.tiling.row_tile, choice.tiling.column_tile
    ((first, tiles),) = choice.distances
    # Pairs by distance of their tiles and by offset, as a block leaves them.
    sums = np.zeros((tiles, rows + columns - 1), int)
    for tile in TilePlan((axis,), (rows,), (columns,)).axis_tiles[0]:
        query, key = pairs_of(axis, tile.group)
        is_mine = (tile.begin <= query) & (query < tile.end)
        query, key = query[is_mine] - tile.begin, key[is_mine] - tile.begin
        distance = (key - first) // columns
        assert (distance >= 0).all() and (distance < tiles).all()
        to = key - (first + distance * columns)
        np.add.at(sums, (distance, to - query + rows - 1), 1)
    pairs = [pairs_of(axis, group) for group in range(axis.dilation)]
    offsets = np.concatenate([key - query for query, key in pairs])
    # An entry, as a second kernel adds it up.
    size = axis.kernel_size
    for entry in range(2 * size - 1):
        from_first = entry - (size - 1) - first
        assert from_first >= 0
        past = min((from_first + rows - 1) // columns + 1, tiles)
        found = sum(
            sums[i, from_first - i * columns + rows - 1] for i in range(from_first // columns, past)
        )
        assert found == (offsets == entry - (size - 1)).sum()


def pairs_of(axis: Axis, group: int) -> tuple[np.ndarray, np.ndarray]:
    """Queries of a dilation group and the keys that they see, as positions."""
    along = axis.line(group)
    query, key = np.arange(along.length)[:, None], np.arange(along.length)
    return np.nonzero((along.window_begin(query) <= key) & (key < along.window_end(query)))


@given(problem=problems(dtypes=("float16", "float32"), max_tokens=4096, max_head_dim=128))
def test_any_problem_has_work_for_every_part(problem: Problem) -> None:
    problem = replace(problem, has_bias=True)
    choice = bias_gradient_choice(problem, H200)
    counts = choice.tiling.plan(problem).counts
    assert 1 <= choice.parts <= max(1, problem.batch * counts.tiles)
    assert choice.parts <= 65535 and 1 <= choice.lanes <= 32
    assert choice.lanes & (choice.lanes - 1) == 0
    parts, heads, blocks, offsets = choice.partial_sums(problem)
    assert (parts, heads) == (choice.parts, problem.heads)
    tiles = choice.tiling.row_tile, choice.tiling.column_tile
    assert offsets == math.prod(r + c - 1 for r, c in zip(*tiles, strict=True))
    assert blocks == math.prod(distances.tiles for distances in choice.distances)


def test_explain_says_what_the_bias_costs() -> None:
    backend = CudaFused()
    assert backend.refusals(PROBLEM, "backward", H200) == ()
    choice = backend.choice(PROBLEM, "backward", H200)
    without = backend.choice(replace(PROBLEM, has_bias=False), "backward", H200)
    assert "fused_bias_gradient" in choice.kernel
    assert any(note.startswith("gradient of the bias") for note in choice.notes)
    assert choice.workspace_bytes > without.workspace_bytes
    assert "fused_bias_gradient" not in backend.choice(PROBLEM, "forward", H200).kernel


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_every_device_has_a_shape_for_every_head_dim(dtype: str) -> None:
    for head_dim in (8, 32, 40, 64, 128, 256):
        problem = replace(PROBLEM, dtype=dtype, head_dim=head_dim, value_dim=head_dim)
        for device in (H200, L4):
            is_too_large = dtype == "float32" and head_dim == 256 and device is L4
            assert (bias_gradient_choice(problem, device) is None) == is_too_large
            refusals = CudaFused().refusals(problem, "backward", device)
            assert (refusals == ()) == (not is_too_large), refusals
