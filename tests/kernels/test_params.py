"""The NumPy mirrors of the parameter structs, against the compiler that lays the structs out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cupyna.arrays import DeviceArray
from cupyna.arrays.host import host_dtype
from cupyna.kernels.compiler import find_compiler
from cupyna.kernels.copies import COPY_PARAMS
from cupyna.kernels.direct.params import DIRECT_GRADIENT_PARAMS, DIRECT_PARAMS
from cupyna.kernels.fused.params import (
    ATTENTION_PARAMS,
    BESIDE_GRADIENT_PARAMS,
    BIAS_GRADIENT_PARAMS,
    FORWARD_PARAMS,
    GRADIENT_PARAMS,
    BackwardRoom,
    pack_attention,
    pack_gradient,
)
from cupyna.kernels.gemm.params import GEMM_PARAMS, VECTORS, pack_gemm
from cupyna.kernels.hopper.gradient_params import HOPPER_GRADIENT_PARAMS
from cupyna.kernels.hopper.params import HOPPER_PARAMS
from cupyna.kernels.params import PARAMS
from cupyna.kernels.window.params import WINDOW_GRADIENT_PARAMS, WINDOW_PARAMS
from cupyna.operands import BackwardArrays, ForwardArrays
from cupyna.problem import Problem

DEVICE_SOURCES = Path(__file__).parents[2] / "cuda_src"


def assertions(struct: str, dtype: np.dtype) -> Iterator[str]:
    """One static assertion for the size, and one for each field."""
    yield f'static_assert(sizeof({struct}) == {dtype.itemsize}, "size of {struct}");'
    for name, (field, offset, *_) in dtype.fields.items():
        where = f"__builtin_offsetof({struct}, {name})"
        size = f"sizeof((({struct}*)0)->{name})"
        yield f'static_assert({where} == {offset}, "{name}");'
        yield f'static_assert({size} == {field.itemsize}, "size of {name}");'


@pytest.mark.build
@pytest.mark.parametrize(
    ("header", "struct", "dtype"),
    [
        ("params.cuh", "Params", PARAMS),
        ("attention_params.cuh", "AttentionParams", ATTENTION_PARAMS),
        ("attention_params.cuh", "ForwardParams", FORWARD_PARAMS),
        ("copy_params.cuh", "CopyParams", COPY_PARAMS),
        ("gemm_params.cuh", "GemmParams", GEMM_PARAMS),
        ("hopper_params.cuh", "HopperParams", HOPPER_PARAMS),
        ("hopper_gradient_params.cuh", "HopperGradientParams", HOPPER_GRADIENT_PARAMS),
        ("attention_params.cuh", "GradientParams", GRADIENT_PARAMS),
        ("window_params.cuh", "WindowParams", WINDOW_PARAMS),
        ("attention_params.cuh", "BiasGradientParams", BIAS_GRADIENT_PARAMS),
        ("attention_params.cuh", "BesideGradientParams", BESIDE_GRADIENT_PARAMS),
        ("window_params.cuh", "WindowGradientParams", WINDOW_GRADIENT_PARAMS),
        ("direct_params.cuh", "DirectParams", DIRECT_PARAMS),
        ("direct_params.cuh", "DirectGradientParams", DIRECT_GRADIENT_PARAMS),
    ],
)
def test_the_mirror_lies_like_the_struct(
    header: str, struct: str, dtype: np.dtype, tmp_path: Path
) -> None:
    program = [f'#include "common/{header}"', *assertions(f"cupyna::{struct}", dtype)]
    source = tmp_path / "probe.cu"
    source.write_text("\n".join([*program, 'extern "C" __global__ void probe() {}']))
    options = ("-std=c++17", f"-I{DEVICE_SOURCES}")
    find_compiler().compile(source, "sm_80", options, tmp_path)
    source.write_text(source.read_text().replace(f"== {dtype.itemsize},", "== 1,"))
    with pytest.raises(RuntimeError, match="size of"):
        find_compiler().compile(source, "sm_80", options, tmp_path)


def test_attention_parameters() -> None:
    problem = Problem(
        1, (8, 9), 4, 2, 16, 24, "float16", (3, 5), (1, 2), (2, 1), (False, True)
    )  # fmt: skip
    q = DeviceArray(4096, (1, 8, 9, 4, 16), (4608, 576, 64, 16, 1), "float16", 0)
    kv = DeviceArray(8192, (1, 8, 9, 2, 24), (0, 432, 48, 24, 1), "float16", 0)
    lse = DeviceArray(256, (1, 8, 9, 4), (288, 36, 4, 1), "float32", 0)
    (packed,) = pack_attention(
        problem, -0.5, (8, 16), (2, 3), ForwardArrays(q, kv, kv, None, q, lse)
    )
    assert packed["q"]["data"] == 4096 and packed["bias"]["data"] == 0
    assert packed["k"]["axis"].tolist() == [0, 432, 48] and packed["k"]["head"] == 24
    assert packed["lse"]["head"] == 1
    assert [tuple(axis) for axis in packed["axis"]] == [
        (1, 1, 1, 1, 0), (8, 3, 1, 2, 0), (9, 5, 2, 1, 1),
    ]  # fmt: skip
    # Two dilation groups of four tokens, and one tile of sixteen.
    assert [tuple(tile) for tile in packed["tile"]] == [(0, 1, 1), (3, 2, 2), (4, 3, 1)]
    assert (packed["head_group"], packed["head_dim"], packed["value_dim"]) == (2, 16, 24)
    assert packed["scale"] == 0.5 and packed["query_flip"] == 0x80008000


def test_gemm_parameters() -> None:
    axes = ((1, 1, 1, 1, 0), (8, 3, 1, 2, 0), (9, 5, 2, 1, 1))
    tiles = ((0, 0, 1), (1, 2, 3), (3, 0, 2))
    arrays = {"query": (4096, 1, (2, 3, 4), 5, 6), "statistics": (512, 7, (8, 9, 10), 11, 12)}
    (packed,) = pack_gemm(
        {**arrays, "maxima": 1 << 40, "scale": -0.5, "axis": axes, "tile": tiles, "slab": 7,
         "is_precise": 1}
    )  # fmt: skip
    for name, (data, *_, channel) in arrays.items():
        assert (packed[name]["data"], packed[name]["channel"]) == (data, channel)
    assert packed["statistics"]["axis"].tolist() == [8, 9, 10] and packed["key"]["data"] == 0
    assert packed["maxima"] == 1 << 40
    assert [tuple(axis) for axis in packed["axis"]] == list(axes)
    assert [tuple(tile) for tile in packed["tile"]] == list(tiles)
    assert (packed["scale"], packed["slab"], packed["is_precise"]) == (-0.5, 7, 1)
    header = (DEVICE_SOURCES / "common" / "gemm_params.cuh").read_text()
    listed = header.partition("enum GemmArray {")[2].partition("}")[0]
    names = [name.strip()[1:].removesuffix("Array").lower() for name in listed.split(",")]
    assert {name: 1 << bit for bit, name in enumerate(names)} == VECTORS


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_a_negative_scale_inverts_the_signs_and_no_other_bit(dtype: str) -> None:
    storage = host_dtype(dtype)
    problem = Problem(1, (8,), 1, 1, 16, 16, dtype, (3,), (1,), (1,), (False,))
    rows = DeviceArray(0, (1, 8, 1, 16), (128, 16, 16, 1), dtype, 0)
    arrays = ForwardArrays(rows, rows, rows, None, rows, None)
    (packed,) = pack_attention(problem, -0.5, (64,), (3,), arrays)
    queries = np.linspace(-2, 3, 16).astype(storage)
    words = (queries.view(np.uint32) & packed["query_keep"]) ^ packed["query_flip"]
    np.testing.assert_array_equal(words.view(storage), -queries)


def test_a_scale_of_zero_clears_the_queries() -> None:
    problem = Problem(1, (8,), 1, 1, 16, 16, "float16", (3,), (1,), (1,), (False,))
    rows = DeviceArray(0, (1, 8, 1, 16), (128, 16, 16, 1), "float16", 0)
    arrays = ForwardArrays(rows, rows, rows, None, rows, None)
    (packed,) = pack_attention(problem, 0.0, (64,), (3,), arrays)
    assert (packed["query_keep"], packed["query_flip"], packed["scale"]) == (0, 0, 1.0)


def test_gradient_parameters() -> None:
    problem = Problem(
        2, (4, 5), 4, 2, 16, 24, "float16", (3, 5), (1, 2), (2, 1), (False, True)
    )  # fmt: skip
    q, k, out, lse = (
        DeviceArray(pointer, shape, tuple(np.cumprod((1, *shape[:0:-1]))[::-1]), "float16", 0)
        for pointer, shape in [
            (1024, (2, 4, 5, 4, 16)),
            (2048, (2, 4, 5, 2, 16)),
            (4096, (2, 4, 5, 4, 24)),
            (8192, (2, 4, 5, 4)),
        ]
    )
    arrays = BackwardArrays(q, k, k, None, out, lse, out, None, q, k, k, None)
    (packed,) = pack_gradient(problem, -0.5, (8, 8), (4, 8), arrays, BackwardRoom(512))
    assert packed["scale"] == -0.5 and packed["dlse"]["data"] == 0
    assert packed["dq"]["data"] == 1024 and packed["dk"]["data"] == 2048
    assert packed["statistics"] == 512 and packed["query_sums"] == 0
    assert packed["row_lanes"] == 4  # of 24 channels
