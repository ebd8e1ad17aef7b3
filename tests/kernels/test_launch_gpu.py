"""From a row to a result on a real device."""

from __future__ import annotations

import dataclasses
import timeit
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cupyna.kernels import loader, modules
from cupyna.kernels.compiler import Compiler, compile_variant
from cupyna.kernels.launch import launch
from cupyna.kernels.sources import Sources
from cupyna.kernels.store import Store
from cupyna.kernels.variant import Variant

cupy = pytest.importorskip("cupy")

SOURCE = """
struct Params {
  int* out;
  double scale;
  int extent[3];
};

extern "C" __global__ void __launch_bounds__(CUPYNA_THREADS)
CUPYNA_SYMBOL(const __grid_constant__ Params params) {
  extern __shared__ int row[];
  row[threadIdx.x] = params.extent[threadIdx.x % 3];
  __syncthreads();
  const int other = CUPYNA_THREADS - 1 - threadIdx.x;
  params.out[blockIdx.x * CUPYNA_THREADS + threadIdx.x] = row[other] * int(params.scale);
}
"""
FIELDS = [("out", np.int64), ("scale", np.float64), ("extent", np.int32, 3)]
PARAMS = np.dtype(FIELDS, align=True)

# More dynamic shared memory than a block gets without asking.
ROW = Variant("struct", "float32", 1, threads=128, smem_bytes=64 * 1024)


@pytest.fixture
def struct_sources(tmp_path: Path) -> Sources:
    (tmp_path / "src" / "kernels").mkdir(parents=True)
    (tmp_path / "src" / ROW.source).write_text(SOURCE)
    return Sources(tmp_path / "src")


@pytest.fixture
def struct_store(
    struct_sources: Sources, compiler: Compiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Store:
    store = Store(struct_sources, tmp_path / "shipped", tmp_path / "cache", compiler)
    monkeypatch.setattr(modules, "_STORE", store)
    monkeypatch.setattr(loader, "_kernels", {})
    return store


def packed(out: Any) -> np.ndarray[Any, Any]:
    params = np.zeros((), PARAMS)
    params["out"], params["scale"], params["extent"] = out.data.ptr, 2.0, (3, 5, 7)
    return params


def expected(blocks: int) -> np.ndarray[Any, Any]:
    row = np.array([3, 5, 7], np.int32)[np.arange(128) % 3][::-1]
    return np.tile(2 * row, blocks)


def test_the_source_of_these_tests_compiles(
    struct_sources: Sources, compiler: Compiler, scratch: Path
) -> None:
    compiled = compile_variant(compiler, struct_sources, ROW, "sm_80", scratch)
    assert compiled.resources.spill_bytes == 0


@pytest.mark.gpu
def test_a_struct_arrives_whole_on_any_stream(struct_store: Store) -> None:
    for device in range(cupy.cuda.runtime.getDeviceCount()):
        kernel = loader.load(ROW, device)
        with cupy.cuda.Device(device):
            for stream in (cupy.cuda.Stream.null, cupy.cuda.Stream(non_blocking=True)):
                with stream:
                    out = cupy.full(5 * 128, -1, np.int32)
                # The caller's current device is another one wherever there is another.
                with cupy.cuda.Device(0):
                    launch(kernel, (5,), (128,), ROW.smem_bytes, stream.ptr, packed(out))
                stream.synchronize()
                np.testing.assert_array_equal(out.get(), expected(5))


@pytest.mark.gpu
def test_a_launch_is_captured_in_a_graph(struct_store: Store) -> None:
    kernel = loader.load(ROW, 0)
    out = cupy.full(2 * 128, -1, np.int32)
    stream = cupy.cuda.Stream(non_blocking=True)
    cupy.cuda.Stream.null.synchronize()
    with stream:
        stream.begin_capture()
        launch(kernel, (2,), (128,), ROW.smem_bytes, stream.ptr, packed(out))
        graph = stream.end_capture()
        assert (out.get(stream=cupy.cuda.Stream.null) == -1).all()
        graph.launch(stream=stream)
    stream.synchronize()
    np.testing.assert_array_equal(out.get(), expected(2))


@pytest.mark.gpu
@pytest.mark.benchmark
def test_a_launch_takes_the_host_at_most_six_microseconds(struct_store: Store) -> None:
    kernel = loader.load(dataclasses.replace(ROW, smem_bytes=1024), 0)
    out = cupy.zeros(128, np.int32)
    params = packed(out)
    stream = cupy.cuda.Stream.null

    def queue() -> None:
        launch(kernel, (1, 1, 1), (128, 1, 1), 1024, stream.ptr, params)

    times = []
    for _ in range(20):
        # Few enough not to fill the queue, where a launch waits for the device.
        times.append(timeit.timeit(queue, number=200) / 200 * 1e6)
        stream.synchronize()
    assert min(times) <= 6.0, f"{min(times):.2f} us"
