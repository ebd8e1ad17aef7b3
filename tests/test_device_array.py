"""Layouts of GPU memory, told from numbers alone."""

from __future__ import annotations

import numpy as np
import pytest

from cupyna.arrays import DeviceArray, has_vector_rows
from cupyna.overlap import overlaps_itself, share_memory


def rows(
    pointer: int = 4096,
    shape: tuple[int, ...] = (1, 6, 2, 16),
    strides: tuple[int, ...] = (192, 32, 16, 1),
    dtype: str = "float16",
) -> DeviceArray:
    return DeviceArray(pointer, shape, strides, dtype, 0)


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (rows(), True),
        (rows(pointer=4098), False),
        (rows(strides=(192, 36, 16, 1)), False),
        (rows(strides=(3, 32, 16, 1)), True),  # no step is taken along an axis of length one
        (rows(strides=(192, 32, 16, 2)), False),
        (rows(shape=(1, 6, 2, 12)), False),
        (rows(shape=(1, 6, 2, 12), strides=(144, 24, 12, 1), dtype="float64"), True),
    ],
)
def test_rows_that_move_in_vectors(array: DeviceArray, expected: bool) -> None:
    assert has_vector_rows(array) is expected


def test_hosts_do_not_care() -> None:
    assert has_vector_rows(np.ones((1, 6, 2, 3), np.float16)[..., ::2])


def test_gpu_addresses_overlap_like_host_addresses() -> None:
    q = rows()
    assert share_memory(q, rows(pointer=4096 + 2 * 191))
    assert not share_memory(q, rows(pointer=4096 + 2 * 192))
    packed = [rows(pointer=4096 + 2 * i, strides=(576, 96, 48, 3)) for i in range(3)]
    assert not share_memory(packed[0], packed[1])
    assert not overlaps_itself(q)
    assert overlaps_itself(rows(strides=(192, 8, 16, 1)))
    assert not share_memory(q, np.ones(4))
