"""The geometry against its definition, and its device twin against it."""

from __future__ import annotations

import ctypes
import itertools
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cupyna.geometry import Axis, Line
from cupyna.testing import axes
from cupyna.tiles import TilePlan

ROOT = Path(__file__).parent.parent
LONGEST = 12


def small_lines() -> Iterator[Line]:
    for length in range(1, LONGEST + 1):
        for kernel_size in range(1, length + 1):
            for stride in range(1, kernel_size + 1):
                for is_causal in (False, True):
                    yield Line(length, kernel_size, stride, is_causal)


def small_axes() -> Iterator[Axis]:
    for length in range(1, LONGEST + 1):
        for kernel_size in range(1, length + 1):
            for dilation in range(1, length // kernel_size + 1):
                for stride in range(1, kernel_size + 1):
                    for is_causal in (False, True):
                        yield Axis(length, kernel_size, stride, dilation, is_causal)


def window_by_definition(line: Line, p: int) -> range:
    n, w, s = line.length, line.kernel_size, line.stride
    if line.is_causal:
        leader = min((p // s) * s + s - 1, n - 1)
        return range(max(leader - w + 1, 0), min(p + 1, n))
    leader = min((p // s) * s + s // 2, n - 1)
    start = min(max(leader - w // 2, 0), n - w)
    return range(start, start + w)


def check_line(line: Line) -> None:
    positions = np.arange(line.length)
    windows = [window_by_definition(line, p) for p in range(line.length)]
    np.testing.assert_array_equal(line.window_begin(positions), [w.start for w in windows])
    np.testing.assert_array_equal(line.window_end(positions), [w.stop for w in windows])
    for key in range(line.length):
        seeing = [p for p, window in enumerate(windows) if key in window]
        assert seeing == list(range(int(line.query_begin(key)), int(line.query_end(key))))
        assert key in windows[key], "a query sees itself"


def test_every_small_line_is_as_defined() -> None:
    for line in small_lines():
        check_line(line)


@given(axis=axes(max_length=200))
def test_any_line_is_as_defined(axis: Axis) -> None:
    check_line(axis.line(0))


@pytest.mark.parametrize(
    ("line", "windows"),
    [
        # Worked by hand: shifted borders, an even window, shared windows, shrinking causal ones.
        (Line(5, 3, 1, False), [(0, 3), (0, 3), (1, 4), (2, 5), (2, 5)]),
        (Line(5, 4, 1, False), [(0, 4), (0, 4), (0, 4), (1, 5), (1, 5)]),
        (Line(6, 3, 3, False), [(0, 3), (0, 3), (0, 3), (3, 6), (3, 6), (3, 6)]),
        (Line(4, 2, 1, True), [(0, 1), (0, 2), (1, 3), (2, 4)]),
        (Line(5, 4, 2, True), [(0, 1), (0, 2), (0, 3), (0, 4), (1, 5)]),
        (Line(3, 1, 1, False), [(0, 1), (1, 2), (2, 3)]),
    ],
)
def test_windows_worked_by_hand(line: Line, windows: list[tuple[int, int]]) -> None:
    p = np.arange(line.length)
    found = list(zip(line.window_begin(p).tolist(), line.window_end(p).tolist(), strict=True))
    assert found == windows


@given(axis=axes(max_length=40))
def test_inverse_neighbors_invert_neighbors(axis: Axis) -> None:
    keys, is_key = axis.neighbors()
    pairs = {
        (query, slot, int(keys[query, slot]))
        for query, slot in itertools.product(range(axis.length), range(axis.kernel_size))
        if is_key[query, slot]
    }
    queries, slots, is_query = axis.inverse_neighbors()
    inverse = {
        (int(queries[key, r]), int(slots[key, r]), key)
        for key, r in itertools.product(range(axis.length), range(queries.shape[1]))
        if is_query[key, r]
    }
    assert inverse == pairs
    assert all(query % axis.dilation == key % axis.dilation for query, _, key in pairs)


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    library = tmp_path_factory.mktemp("twin") / "geometry_twin.so"
    command = ["g++", "-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    subprocess.run(
        [*command, "-I", ROOT / "cuda_src", ROOT / "tests/geometry_twin.cpp", "-o", library],
        check=True,
    )
    return ctypes.CDLL(str(library))


def check_twin_line(twin: ctypes.CDLL, line: Line) -> None:
    bounds = np.full((4, line.length), -1, np.int32)
    twin.line_bounds(
        line.length, line.kernel_size, line.stride, int(line.is_causal), pointer(bounds)
    )
    p = np.arange(line.length)
    expected = [line.window_begin(p), line.window_end(p), line.query_begin(p), line.query_end(p)]
    np.testing.assert_array_equal(bounds, np.stack(expected), err_msg=repr(line))


def check_twin_tiles(twin: ctypes.CDLL, axis: Axis, extent: int, box_extent: int) -> None:
    for is_key_side, side in enumerate(("query", "key")):
        plan = TilePlan((axis,), (extent,), (box_extent,), side)
        fields = np.full((axis.length + axis.dilation, 7), -1, np.int32)
        count = twin.axis_tiles(
            axis.length, axis.kernel_size, axis.stride, axis.dilation, int(axis.is_causal),
            extent, is_key_side, pointer(fields),
        )  # fmt: skip
        tiles = list(plan.tiles())
        expected = [
            (t.group, t.begin, t.end, t.box_begin, t.box_end, t.common_begin, t.common_end)
            for (t,) in (tile.axes for tile in tiles)
        ]
        assert fields[:count].tolist() == [list(t) for t in expected], (axis, extent, side)
        for tile, row in zip(tiles, fields, strict=False):
            dense = np.full(axis.length, -1, np.int32)
            boxes = twin.box_tiles(pointer(row), box_extent, pointer(dense))
            assert dense[:boxes].tolist() == [int(b.is_dense) for b in plan.box_tiles(tile)]


def pointer(array: np.ndarray) -> ctypes.c_void_p:
    return array.ctypes.data_as(ctypes.c_void_p)


def test_twin_lines_exhaustively(twin: ctypes.CDLL) -> None:
    for line in small_lines():
        check_twin_line(twin, line)


def test_twin_tiles_exhaustively(twin: ctypes.CDLL) -> None:
    for axis in small_axes():
        if axis.length <= 9:
            for extent in (1, 2, 3, 5):
                check_twin_tiles(twin, axis, extent, 2)


@given(axis=axes(max_length=5000))
def test_twin_lines_of_any_length(twin: ctypes.CDLL, axis: Axis) -> None:
    check_twin_line(twin, axis.line(axis.dilation - 1))


@given(axis=axes(max_length=400), extent=st.integers(1, 130), box_extent=st.integers(1, 130))
def test_twin_tiles_of_any_length(
    twin: ctypes.CDLL, axis: Axis, extent: int, box_extent: int
) -> None:
    check_twin_tiles(twin, axis, extent, box_extent)


@given(begin=st.integers(-40, 80), size=st.integers(0, 80), first=st.integers(-40, 80))
def test_twin_interval_bits(twin: ctypes.CDLL, begin: int, size: int, first: int) -> None:
    twin.interval_bits.restype = ctypes.c_uint
    expected = sum(1 << i for i in range(32) if begin <= first + i < begin + size)
    assert twin.interval_bits(begin, begin + size, first) == expected


@given(
    begins=st.tuples(*[st.integers(0, 3000)] * 3),
    sizes=st.tuples(*[st.integers(1, 1500)] * 3),
    offsets=st.tuples(*[st.integers(-600, 600)] * 3),
    at=st.tuples(*[st.integers(0, 63)] * 3),
)
def test_twin_packed_windows(
    twin: ctypes.CDLL,
    begins: tuple[int, ...],
    sizes: tuple[int, ...],
    offsets: tuple[int, ...],
    at: tuple[int, ...],
) -> None:
    origin = [max(0, begin + offset) for begin, offset in zip(begins, offsets, strict=True)]
    spans = list(zip(begins, sizes, strict=True))
    bounds = np.array([[b, b + s] for b, s in spans], np.int32)
    expected = all(b <= o + a < b + s for (b, s), o, a in zip(spans, origin, at, strict=True))
    packed = twin.window_contains(
        pointer(bounds), pointer(np.array(origin, np.int32)), pointer(np.array(at, np.int32))
    )
    assert bool(packed) == expected


@st.composite
def boxes_with_windows(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A box of at most 510 columns, a kernel size, and a window that may have shrunk."""
    box, window, kernel_size = [], [], []
    room = 510
    for _ in range(3):
        begin, extent = draw(st.integers(0, 50)), draw(st.integers(1, room))
        room //= extent
        size = draw(st.integers(1, 12))
        first = draw(st.integers(max(0, begin - 12), begin + extent))
        box.append((begin, begin + extent))
        window.append((first, first + draw(st.integers(1, size))))
        kernel_size.append(size)
    return tuple(np.array(a, np.int32) for a in (box, window, kernel_size))  # type: ignore


@given(drawn=boxes_with_windows())
def test_twin_slots_of_columns(
    twin: ctypes.CDLL, drawn: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> None:
    box, window, kernel_size = drawn
    at = np.full((512, 3), -1, np.int32)
    first = np.full(512, -1, np.int32)
    count = twin.part_slots(*(pointer(a) for a in (box, window, kernel_size, at, first)))
    columns = list(itertools.product(*(range(*span) for span in box)))
    assert at[:count].tolist() == [list(column) for column in columns]
    keys = list(itertools.product(*(range(*span) for span in window)))
    for column, found in zip(columns, first[:count], strict=True):
        from_here = [key for key in keys if key >= column]
        expected = int(np.prod(kernel_size))
        if from_here:
            offset = np.array(min(from_here)) - window[:, 0]
            expected = int(np.ravel_multi_index(tuple(offset), tuple(kernel_size)))
        assert found == expected, (column, window)


@given(
    begins=st.tuples(*[st.integers(0, 40)] * 3),
    sizes=st.tuples(*[st.integers(1, 40)] * 3),
    offsets=st.tuples(*[st.integers(-30, 30)] * 3),
    extents=st.tuples(*[st.integers(1, 7)] * 3),
)
def test_twin_window_columns(
    twin: ctypes.CDLL,
    begins: tuple[int, ...],
    sizes: tuple[int, ...],
    offsets: tuple[int, ...],
    extents: tuple[int, ...],
) -> None:
    origin = [max(0, begin + offset) for begin, offset in zip(begins, offsets, strict=True)]
    bounds = np.array([[b, b + s] for b, s in zip(begins, sizes, strict=True)], np.int32)
    words = 12
    bits = np.zeros(words, np.uint32)
    twin.window_columns(
        pointer(bounds), pointer(np.array(origin, np.int32)),
        pointer(np.array(extents, np.int32)), words, pointer(bits),
    )  # fmt: skip
    columns = itertools.product(*(range(extent) for extent in extents))
    expected = [
        all(b <= o + a < b + s for b, s, o, a in zip(begins, sizes, origin, at, strict=True))
        for at in columns
    ]
    found = (bits[:, None] >> np.arange(32, dtype=np.uint32) & 1).astype(bool).reshape(-1)
    np.testing.assert_array_equal(found[: len(expected)], expected)
    assert not found[len(expected) :].any()
