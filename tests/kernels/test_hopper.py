"""What the fused forward on Hopper is told, chooses and refuses, without a GPU."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given

from cupyna.arrays import DeviceArray
from cupyna.backends.hopper import CudaHopper
from cupyna.dispatch import select
from cupyna.kernels.hopper import tensor_map
from cupyna.kernels.hopper.costs import key_tile_us, tile_us
from cupyna.kernels.hopper.heuristics import hopper_choice
from cupyna.kernels.hopper.params import pack_hopper
from cupyna.kernels.hopper.schedule import Schedule, balanced, schedule
from cupyna.kernels.hopper.shapes import CONSUMER_ROWS, HOPPER_SHAPES
from cupyna.kernels.hopper.short_tiles import ShortTiles
from cupyna.kernels.hopper.tensor_map import BoxOrder, encode_boxes, most_tokens
from cupyna.operands import ForwardArrays
from cupyna.problem import DeviceSpec, Problem
from cupyna.profiling.gpus import GPUS
from cupyna.testing import problems
from cupyna.tiles import TilePlan

H200 = GPUS["H200"].spec
A100 = DeviceSpec("A100", "cuda", 0, 108, (8, 0), 166912, 40 << 20, 2.0e6, 1.95e7)

LARGE = Problem(
    1, (256, 256), 24, 24, 128, 128, "float16", (80, 80), (1, 1), (1, 1), (False, False)
)


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """Descriptors that were asked for, instead of those that a driver would make."""
    asked: list[tuple] = []

    def encode(pointer: int, dtype: str, axes: tuple) -> bytes:
        asked.append(axes)
        return bytes(tensor_map.TENSOR_MAP_BYTES)

    monkeypatch.setattr(tensor_map, "_encode", encode)
    return asked


def rows(problem: Problem, heads: int, channels: int) -> DeviceArray:
    shape = (problem.batch, *problem.spatial, heads, channels)
    strides = [1]
    for length in shape[:0:-1]:
        strides.append(strides[-1] * length)
    return DeviceArray(4096, shape, tuple(strides[::-1]), problem.dtype, 0)


@given(problem=problems(dtypes=("float16", "bfloat16"), max_tokens=4096))
def test_any_problem_gets_tiles_that_fit(problem: Problem) -> None:
    problem = replace(problem, head_dim=64, value_dim=64, has_bias=False)
    assume(not CudaHopper().refusals(problem, "forward", H200))
    choice = hopper_choice(problem, H200)
    assert choice.shape in HOPPER_SHAPES and choice.time_us > 0
    assert math.prod(choice.consumer_tile) == CONSUMER_ROWS
    assert math.prod(choice.row_tile) == choice.shape.rows
    assert math.prod(choice.column_tile) <= choice.shape.keys
    for tile in (choice.consumer_tile, choice.column_tile):
        for count, gap in zip(tile, problem.dilation, strict=True):
            assert count <= most_tokens(gap)


def test_shapes_fit_a_multiprocessor() -> None:
    assert all(shape.smem_bytes <= H200.smem_bytes for shape in HOPPER_SHAPES)
    assert len({shape.variant("float16").symbol for shape in HOPPER_SHAPES}) == len(HOPPER_SHAPES)


def test_blocks_take_many_tiles_unless_one_would_keep_the_others_waiting() -> None:
    line = replace(
        LARGE, spatial=(16384,), kernel_size=(1024,), stride=(1,), dilation=(1,), heads=16,
        kv_heads=16, is_causal=(False,),
    )  # fmt: skip
    causal = replace(line, is_causal=(True,))
    dense = replace(causal, kernel_size=(16384,))
    alone = replace(dense, heads=1, kv_heads=1, spatial=(32768,), kernel_size=(32768,))
    for problem, reversed_planes in ((line, 0), (causal, None), (dense, 2), (alone, 3)):
        choice = hopper_choice(problem, H200)
        items = choice.plan(problem).counts.tiles * problem.heads
        found = schedule(problem, choice, H200)
        assert items > 132 and found.blocks == (items if found.reversed_planes == 3 else 132)
        assert reversed_planes in (None, found.reversed_planes)
    few = replace(line, heads=1, kv_heads=1, spatial=(2048,))
    choice = hopper_choice(few, H200)
    assert schedule(few, choice, H200).blocks == choice.plan(few).counts.tiles < 132


def test_heads_begin_at_different_tiles_where_borders_would_meet() -> None:
    # Every fourth tile of a head has the largest box: without rotation some blocks get only those.
    image = replace(LARGE, batch=8, spatial=(64, 64), heads=16, kv_heads=16, head_dim=64,
                    value_dim=64, kernel_size=(31, 31))  # fmt: skip
    choice = hopper_choice(image, H200)
    found = schedule(image, choice, H200)
    box_tiles = choice.plan(image).box_tiles_of_each.ravel()
    planes = image.batch * image.heads

    def imbalance(rotation: int) -> float:
        busy = np.zeros(132)
        for item in range(planes * box_tiles.size):
            plane, index = divmod(item, box_tiles.size)
            tile = (index + plane * rotation) % box_tiles.size
            busy[item % 132] += tile_us() + box_tiles[tile] * key_tile_us(choice.shape)
        return float(busy.max() / busy.mean())

    assert imbalance(found.rotation) == pytest.approx(found.imbalance)
    assert found.imbalance <= imbalance(0) and found.imbalance < 1.1


@pytest.mark.parametrize(
    ("spatial", "kernel_size", "heads", "is_short"),
    [((4096,), (4096,), 16, True), ((8192,), (8192,), 16, True), ((16384,), (1023,), 8, True),
     ((32768,), (32768,), 16, False), ((2048,), (2048,), 8, False),
     ((64, 64), (13, 13), 99, False)],
)  # fmt: skip
def test_short_tiles_even_the_last_turn_out(
    spatial: tuple[int, ...], kernel_size: tuple[int, ...], heads: int, is_short: bool
) -> None:
    rank = len(spatial)
    problem = replace(LARGE, spatial=spatial, kernel_size=kernel_size, stride=(1,) * rank,
                      dilation=(1,) * rank, is_causal=(False,) * rank, heads=heads, kv_heads=heads,
                      head_dim=64, value_dim=64)  # fmt: skip
    choice = hopper_choice(problem, H200)
    found = schedule(problem, choice, H200)
    assert (found.shorts is not None) == is_short
    if found.shorts is None:
        return
    axis, shorts = choice.split_axis, found.shorts
    whole, rest = divmod(shorts.begin, choice.row_tile[axis])
    assert rest == 0 and 0 <= spatial[axis] - shorts.begin <= shorts.extent * shorts.count
    assert spatial[axis] - shorts.begin > shorts.extent * (shorts.count - 1)
    assert shorts.extent == choice.consumer_tile[axis] * (choice.shape.consumers - 1)
    whole_us = tile_us() + key_tile_us(choice.shape) * choice.plan(problem).box_tiles_of_each
    fewer = replace(choice.shape, consumers=choice.shape.consumers - 1)
    box_tiles = TilePlan.of(problem, (shorts.extent,), choice.column_tile).box_tiles_of_each
    short_us = tile_us() + key_tile_us(fewer) * box_tiles.mean()
    items = [*np.tile(whole_us[:whole], heads), *[short_us] * heads * shorts.count]
    busy_us = max(sum(items[block::132]) for block in range(132))
    assert found.imbalance == pytest.approx(busy_us * 132 / (heads * whole_us.sum()))
    before = balanced(whole_us, heads, 132, is_causal=False)
    assert found.imbalance < before.imbalance


def test_turns_are_for_consumers_that_need_the_same_keys() -> None:
    dense = replace(LARGE, spatial=(4096,), kernel_size=(4096,), stride=(1,), dilation=(1,),
                    is_causal=(False,))  # fmt: skip
    small = replace(dense, kernel_size=(31,))
    for problem, turns in ((dense, True), (small, False)):
        choice = hopper_choice(problem, H200)
        assert schedule(problem, choice, H200).takes_turns == turns


def test_parameters(encoded: list[tuple]) -> None:
    problem = replace(LARGE, batch=2, kv_heads=6)
    q, k = rows(problem, 24, 128), rows(problem, 6, 128)
    choice = hopper_choice(problem, H200)
    grid = schedule(problem, choice, H200)
    arrays = ForwardArrays(q, k, k, None, q, None)
    (packed,) = pack_hopper(problem, -0.5, choice, arrays, grid)
    tiles = math.prod(-(-256 // extent) for extent in choice.row_tile)
    assert packed["tiles"] == tiles and packed["items"] == tiles * 48
    assert packed["head_group"] == 4 and packed["box_order"] == BoxOrder.BATCH_OUTERMOST
    assert packed["split_axis"] == 1 + choice.split_axis
    assert packed["sign"] == -1 and packed["scale"] == 0.5 and packed["lse"]["data"] == 0
    assert [tile["row_extent"] for tile in packed["tile"]] == [1, *choice.row_tile]
    assert [1 << tile["rows_log2"] for tile in packed["tile"]] == [1, *choice.consumer_tile]
    assert [axis[2] for axis in encoded[0]] == [64, 1, *choice.consumer_tile[::-1], 1]
    grid = Schedule(132, rotation=5, takes_turns=True)
    (packed,) = pack_hopper(problem, 0.0, choice, arrays, grid)
    assert packed["sign"] == 0 and packed["scale"] == 1
    assert packed["rotation"] == 5 and packed["takes_turns"] == 1
    assert packed["shorts"]["first_item"] == packed["items"]
    grid = Schedule(132, shorts=ShortTiles(192, 8, 8))
    choice = replace(choice, consumer_tile=(8, 8), split_axis=0)
    (packed,) = pack_hopper(problem, 0.0, choice, arrays, grid)
    assert [tile["row_tiles"] for tile in packed["tile"]] == [1, 192 // 16, 32]
    assert packed["tiles"] == 12 * 32 and packed["shorts"]["first_item"] == 12 * 32 * 48
    assert packed["items"] == (12 + 8) * 32 * 48
    assert tuple(packed["shorts"])[1:] == (8 * 32, 192, 8, 8)


def test_boxes(encoded: list[tuple]) -> None:
    grid = DeviceArray(0, (2, 6, 7, 3, 40), (5040, 840, 120, 40, 1), "float16", 0)
    encode_boxes(grid, BoxOrder.BATCH_OUTERMOST, (4, 5), (1, 3))
    assert encoded.pop() == (
        (40, 1, 64, 1), (3, 40, 1, 1), (7, 120, 13, 3), (6, 840, 4, 1), (2, 5040, 1, 1)
    )  # fmt: skip
    line = DeviceArray(0, (2, 7, 3, 40), (840, 120, 40, 1), "float16", 0)
    encode_boxes(line, BoxOrder.BATCH_OUTERMOST, (5,), (1,))
    assert encoded.pop()[2:] == ((7, 120, 5, 1), (1, 1, 1, 1), (2, 840, 1, 1))
    volume = DeviceArray(0, (2, 5, 6, 7, 3, 64), (40320, 8064, 1344, 192, 64, 1), "float16", 0)
    encode_boxes(volume, BoxOrder.HEADS_FOLDED, (1, 2, 3), (1, 1, 1))
    assert encoded.pop() == (
        (192, 1, 64, 1), (7, 192, 3, 1), (6, 1344, 2, 1), (5, 8064, 1, 1), (2, 40320, 1, 1)
    )  # fmt: skip
    encode_boxes(volume, BoxOrder.AXIS_OUTERMOST, (1, 2, 3), (1, 1, 1))
    assert encoded.pop() == (
        (64, 1, 64, 1), (3, 64, 1, 1), (7, 192, 3, 1), (6, 1344, 2, 1), (5, 8064, 1, 1)
    )  # fmt: skip


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"dtype": "float32"}, "not in float32"),
        ({"has_bias": True}, "adds no bias"),
        ({"has_vector_rows": False}, "aligned to 16 bytes"),
        ({"has_forward_strides": False}, "not broadcast or reversed"),
        ({"head_dim": 264}, "up to 256, got 264"),
        ({"dilation": (3, 1), "spatial": (256, 256)}, None),
        ({"dilation": (1, 9), "kernel_size": (80, 28)}, "a dilation of at most 8, got 9"),
        (
            {"spatial": (4096,), "kernel_size": (500,), "stride": (1,), "dilation": (8,),
             "is_causal": (False,)},
            "no box of 64 queries",
        ),
        (
            {"spatial": (16, 16, 16), "kernel_size": (9, 9, 9), "stride": (1, 1, 1), "batch": 2,
             "dilation": (1, 1, 1), "is_causal": (False,) * 3, "head_dim": 80, "value_dim": 80},
            "64, 96, 128, 192 or 256 where there are three axes and a batch, got 80 and 80",
        ),
    ],
)  # fmt: skip
def test_refusals(change: dict, reason: str | None) -> None:
    refusals = CudaHopper().refusals(replace(LARGE, **change), "forward", H200)
    if reason is None:
        assert refusals == ()
    else:
        assert any(reason in refusal for refusal in refusals)


def test_other_devices_and_operations_are_left_to_the_portable_family() -> None:
    assert "needs compute capability 9.0" in CudaHopper().refusals(LARGE, "forward", A100)[0]
    assert "stores no weights" in CudaHopper().refusals(LARGE, "qk", H200)[0]
    assert CudaHopper().refusals(LARGE, "forward", H200) == ()
    small = replace(LARGE, kernel_size=(3, 3), head_dim=32, value_dim=32)
    assert select(small, "forward", H200, None).name != "cuda-hopper"
