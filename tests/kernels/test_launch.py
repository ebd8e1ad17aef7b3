"""Loading and launching, with functions and devices that only take notes."""

from __future__ import annotations

import ctypes
import threading
import timeit
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cupyna.kernels import loader
from cupyna.kernels.loader import Kernel
from cupyna.kernels.variant import Variant
from cupyna.problem import DeviceSpec

cupy = pytest.importorskip("cupy")
launch_module = pytest.importorskip("cupyna.kernels.launch")

FIELDS = [("pointer", np.int64), ("scale", np.float32), ("extent", np.int32, 3)]
PARAMS = np.dtype(FIELDS, align=True)


class Notes:
    """Stands for a CuPy function: keeps the bytes that a launch would have copied."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def __call__(
        self, grid: tuple[int, ...], block: tuple[int, ...], arguments: Any, smem: int, stream: Any
    ) -> None:
        (pointer,) = arguments
        assert isinstance(pointer, cupy.cuda.function.CPointer)
        content = ctypes.string_at(pointer.ptr, PARAMS.itemsize) if pointer.ptr else b""
        self.calls.append((grid, block, content, smem, stream.ptr))


@pytest.fixture
def params() -> np.ndarray[Any, Any]:
    value = np.zeros((), PARAMS)
    value["pointer"], value["scale"], value["extent"] = 1 << 40, 0.5, (3, 5, 7)
    return value


@pytest.mark.parametrize("shape", [(), (1,)])
def test_a_launch_passes_the_struct_and_the_raw_stream(
    shape: tuple[int, ...],
    params: np.ndarray[Any, Any],
    tiny: Variant,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(launch_module, "getDevice", lambda: 0)
    notes = Notes()
    launch_module.launch(Kernel(tiny, 0, notes), (4, 2), (128,), 96, 0x5EED, params.reshape(shape))
    assert notes.calls == [((4, 2), (128,), params.tobytes(), 96, 0x5EED)]


def test_a_launch_goes_to_the_device_of_its_kernel(
    params: np.ndarray[Any, Any], tiny: Variant, monkeypatch: pytest.MonkeyPatch
) -> None:
    current = [0]

    class Device:
        def __init__(self, index: int) -> None:
            self.index = index

        def __enter__(self) -> None:
            self.before, current[0] = current[0], self.index

        def __exit__(self, *error: object) -> None:
            current[0] = self.before

    seen = []

    def function(*arguments: Any) -> None:
        seen.append(current[0])

    monkeypatch.setattr(launch_module, "getDevice", lambda: current[0])
    monkeypatch.setattr(launch_module, "Device", Device)
    for device in (0, 1):
        launch_module.launch(Kernel(tiny, device, function), (1,), (1,), 0, 0, params)
    assert seen == [0, 1]
    assert current == [0]


def test_the_installed_cupy_takes_any_stream_with_a_handle() -> None:
    """A launch without a driver gets as far as reading the stream; one without `ptr` does not."""
    if cupy.cuda.is_available():
        pytest.skip("a null function must not be launched on a real device")
    function_type = cupy.cuda.function.Function
    function = function_type.__new__(function_type)
    arguments = (cupy.cuda.function.CPointer(8),)
    with pytest.raises(AttributeError, match="ptr"):
        function((1,), (1,), arguments, 0, object())
    with pytest.raises(Exception, match=r"(?i)driver|libcuda|device"):
        function((1,), (1,), arguments, 0, launch_module.Stream(0x5EED))


@pytest.mark.benchmark
def test_a_launch_adds_little_to_what_cupy_takes(
    params: np.ndarray[Any, Any], tiny: Variant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch_module, "getDevice", int)
    kernel = Kernel(tiny, 0, lambda *arguments: None)
    call: Callable[[], None] = lambda: launch_module.launch(  # noqa: E731
        kernel, (1, 1, 1), (128, 1, 1), 0, 0, params
    )
    best_us = min(timeit.repeat(call, number=2000, repeat=20)) / 2000 * 1e6
    assert best_us < 4.0, f"{best_us:.2f} us"


class FakeRawKernel:
    def __init__(self) -> None:
        self.max_dynamic_shared_size_bytes = 0
        self.kernel = object()


class FakeModule:
    def __init__(self) -> None:
        self.loaded: list[FakeRawKernel] = []

    def get_function(self, symbol: str) -> FakeRawKernel:
        self.loaded.append(FakeRawKernel())
        return self.loaded[-1]


@pytest.fixture
def fake_module(monkeypatch: pytest.MonkeyPatch) -> FakeModule:
    module = FakeModule()
    spec = DeviceSpec("fake", "cuda", compute_capability=(8, 6), smem_bytes=101376)
    monkeypatch.setattr(loader, "device_spec", lambda index: spec)
    monkeypatch.setattr(loader, "_kernels", {})
    monkeypatch.setattr("cupyna.kernels.modules.ready_module", lambda *row: module)
    monkeypatch.setattr(cupy.cuda.runtime, "driverGetVersion", lambda: 13000)
    monkeypatch.setattr(cupy.cuda, "Device", lambda index: nullcontext())
    return module


def test_a_kernel_is_loaded_once_per_device(fake_module: FakeModule, tiny: Variant) -> None:
    found: list[Kernel] = []
    threads = [
        threading.Thread(target=lambda: found.append(loader.load(tiny, 0))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(map(id, found))) == 1
    assert loader.load(tiny, 1) is not found[0]
    assert len(fake_module.loaded) == 2
    assert found[0].function is fake_module.loaded[0].kernel


@pytest.mark.parametrize(("smem_bytes", "expected"), [(0, 0), (49152, 0), (65536, 65536)])
def test_large_shared_memory_is_asked_for_at_load(
    smem_bytes: int, expected: int, fake_module: FakeModule
) -> None:
    loader.load(Variant("tiny", "float32", 2, 128, smem_bytes), 0)
    assert fake_module.loaded[0].max_dynamic_shared_size_bytes == expected


def test_a_device_that_does_not_fit_is_refused_with_both_numbers(
    fake_module: FakeModule, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"needs 163840 bytes .* has 101376"):
        loader.load(Variant("tiny", "float32", 2, 128, 163840), 0)
    with pytest.raises(ValueError, match=r"9\.0, and this device has 8\.6"):
        loader.load(Variant("tiny", "float32", 2, 128, hopper=True), 0)
    assert fake_module.loaded == []


def test_an_old_driver_is_refused_with_both_numbers(
    fake_module: FakeModule, tiny: Variant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cupy.cuda.runtime, "driverGetVersion", lambda: 12080)
    with pytest.raises(RuntimeError, match=r"CUDA 12\.8, and the kernels need 13\.0.*580"):
        loader.load(tiny, 0)
