"""Recorded calls: repeated on other memory they launch what the call itself would launch there."""

from __future__ import annotations

import ctypes
import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given

from cupyna.arguments import Options
from cupyna.arrays import Device, DeviceArray
from cupyna.problem import DeviceSpec, Problem
from cupyna.testing import problems

cupy = pytest.importorskip("cupy")
recording = pytest.importorskip("cupyna.kernels.recording")

from cupyna import arguments, dispatch, operations, plans  # noqa: E402
from cupyna.kernels import launch as launch_module  # noqa: E402
from cupyna.kernels.fused import tuning as fused_tuning  # noqa: E402
from cupyna.kernels.hopper import tensor_map  # noqa: E402
from cupyna.kernels.loader import Kernel  # noqa: E402

GPU = DeviceSpec(
    "made up", "cuda", processors=132, compute_capability=(9, 0), smem_bytes=232448,
    l2_bytes=50 << 20, bytes_per_us=4.8e6, flops_per_us=6e7,
)  # fmt: skip
ITEM_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}

Launches = list[tuple[Any, ...]]


class Memory:
    """A library of arrays without content, one behind the other."""

    name = "made up"

    def __init__(self, start: int) -> None:
        self.next = start

    def empty(self, shape: tuple[int, ...], dtype: str, device: Any = None) -> DeviceArray:
        array = DeviceArray.contiguous(self.next, shape, dtype, 0)
        self.next += -(-array.size * array.item_bytes // 512) * 512
        return array

    def check(self, array: Any, argument: str) -> None: ...

    def dtype(self, array: DeviceArray) -> str:
        return array.dtype

    def device(self, array: DeviceArray) -> Device:
        return Device("cuda", 0)

    def view(self, array: DeviceArray) -> DeviceArray:
        return array

    def hand_back(self, carrier: Any, like: Any) -> Any:
        return carrier

    def stream(self, device: Any) -> int:
        return 0x5EED


class Functions:
    """Kernels that only take notes of what they were launched with."""

    def __init__(self) -> None:
        self.launches: Launches = []
        self.params: dict[Any, np.dtype[Any]] = {}

    def load(self, variant: Any, device: int) -> Kernel:
        def function(grid: Any, block: Any, given: Any, smem_bytes: int, stream: Any) -> None:
            params = self.params[variant]
            content = ctypes.string_at(given[0].ptr, params.itemsize)
            words = recording.words_of(np.frombuffer(content, params)).tolist()
            self.launches.append((variant, grid, block, words, smem_bytes, stream.ptr))

        return Kernel(variant, device, function)


@pytest.fixture
def functions(monkeypatch: pytest.MonkeyPatch) -> Iterator[Functions]:
    notes, real = Functions(), launch_module.launch
    kernels: dict[Any, Kernel] = {}

    def load(variant: Any, device: int) -> Kernel:
        return kernels.setdefault((variant, device), notes.load(variant, device))

    def launch(kernel: Kernel, *given: Any) -> None:
        notes.params[kernel.variant] = given[-1].dtype
        real(kernel, *given)

    monkeypatch.setattr("cupyna.kernels.loader.load", load)
    monkeypatch.setattr(launch_module, "launch", launch)
    for module in (launch_module, recording):
        monkeypatch.setattr(module, "getDevice", lambda: 0)
    for module in (operations, plans):
        monkeypatch.setattr(module, "device_spec", lambda device: GPU)
    yield notes


class Driver:
    """Descriptors that hide the address somewhere in them, as a driver's may."""

    WORD, MASK = 5, 0x5A5A

    def encode(self, pointer: int, dtype: str, axes: tuple[Any, ...]) -> bytes:
        words = np.full(16, hash((dtype, axes)) & 0xFFFF, np.uint64)
        words[self.WORD] = (pointer ^ self.MASK) << 3
        return words.tobytes()

    def replace_address(self, place: int, pointer: int) -> None:
        assert place % 64 == 0
        hidden = (pointer ^ self.MASK) << 3
        ctypes.memmove(place + 8 * self.WORD, hidden.to_bytes(8, "little"), 8)


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensor_map, "_encode", Driver().encode)
    monkeypatch.setattr(tensor_map, "replace_address", Driver().replace_address)


@pytest.fixture(scope="module")
def library() -> Iterator[list[Memory]]:
    """Where arrays come from now; Hypothesis repeats a test within one fixture."""
    current = [Memory(0)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arguments, "library_of", lambda array, name: current[0])
        yield current


def options_of(problem: Problem, method: str) -> Options:
    return Options(
        problem.kernel_size, problem.stride, problem.dilation, problem.is_causal, 0.3, method
    )


def keywords(options: Options) -> dict[str, Any]:
    return {name: getattr(options, name) for name in options.__slots__}


def forward_inputs(problem: Problem, memory: Memory) -> dict[str, DeviceArray | None]:
    grid = (problem.batch, *problem.spatial)
    bias = memory.empty(problem.bias_shape, problem.dtype) if problem.has_bias else None
    return {
        "q": memory.empty((*grid, problem.heads, problem.head_dim), problem.dtype),
        "k": memory.empty((*grid, problem.kv_heads, problem.head_dim), problem.dtype),
        "v": memory.empty((*grid, problem.kv_heads, problem.value_dim), problem.dtype),
        "bias": bias,
    }


def backward_inputs(problem: Problem, memory: Memory, with_dlse: bool) -> dict[str, Any]:
    heads = (problem.batch, *problem.spatial, problem.heads)
    rows, statistics = (*heads, problem.value_dim), problem.accumulator
    return {
        **forward_inputs(problem, memory),
        "out": memory.empty(rows, problem.dtype),
        "dout": memory.empty(rows, problem.dtype),
        "lse": memory.empty(heads, statistics),
        "dlse": memory.empty(heads, statistics) if with_dlse else None,
    }


def repeated(
    plan: plans.Plan, inputs: dict[str, Any], memory: Memory, notes: Functions
) -> Launches:
    notes.launches = []
    addresses = [array.pointer for array in inputs.values() if array is not None]
    addresses += [memory.empty(shape, dtype).pointer for shape, dtype in plan.results.values()]
    plan.recording(addresses, memory.next, 0x5EED)
    return notes.launches


@pytest.mark.parametrize("method", ["naive", "gemm", "fused"])
@pytest.mark.parametrize("with_lse", [False, True])
@pytest.mark.usefixtures("driver")
def test_forward(method: str, with_lse: bool, functions: Functions, library: list[Memory]) -> None:
    @given(problem=problems(dtypes=("float16", "float32")))
    def any_problem(problem: Problem) -> None:
        if method != "naive":
            fields = {"dtype": "float16", "head_dim": 16, "value_dim": 24}
            problem = dataclasses.replace(problem, **fields)
        options = options_of(problem, method)
        library[0] = memory = Memory(1 << 30)
        plan = plans.plan_forward(forward_inputs(problem, memory), options, with_lse)
        assert plan is not None
        assert functions.launches == []
        for start in (1 << 30, 5 << 40):
            library[0] = memory = Memory(start)
            functions.launches = []
            inputs = forward_inputs(problem, memory)
            operations.neighborhood_attention(**inputs, return_lse=with_lse, **keywords(options))
            expected = functions.launches
            assert (len(expected) == 1) == (method == "fused")
            memory = Memory(start)
            assert repeated(plan, forward_inputs(problem, memory), memory, functions) == expected
        functions.launches = []

    any_problem()


@pytest.mark.parametrize("method", ["naive", "gemm", "fused"])
@pytest.mark.parametrize("with_dlse", [False, True])
@pytest.mark.usefixtures("driver")
def test_backward(
    method: str, with_dlse: bool, functions: Functions, library: list[Memory]
) -> None:
    @given(problem=problems(dtypes=("float16", "float64")))
    def any_problem(problem: Problem) -> None:
        if method != "naive":
            fields = {"dtype": "float16", "head_dim": 16, "value_dim": 24, "has_bias": False}
            problem = dataclasses.replace(problem, **fields)
        options = options_of(problem, method)
        library[0] = memory = Memory(1 << 30)
        plan = plans.plan_backward(backward_inputs(problem, memory, with_dlse), options)
        assert plan is not None
        library[0] = memory = Memory(3 << 33)
        functions.launches = []
        inputs = backward_inputs(problem, memory, with_dlse)
        operations.neighborhood_attention_backward(**inputs, **keywords(options))
        expected = functions.launches
        assert len(expected) >= (6 if method == "naive" else 2)
        memory = Memory(3 << 33)
        inputs = backward_inputs(problem, memory, with_dlse)
        assert repeated(plan, inputs, memory, functions) == expected
        functions.launches = []

    any_problem()


@pytest.mark.parametrize(
    ("spatial", "kv_heads"), [((4096,), 16), ((64, 48), 4), ((16, 16, 16), 16)]
)
@pytest.mark.parametrize("with_lse", [False, True])
@pytest.mark.usefixtures("driver")
def test_descriptors_follow_their_arrays(
    spatial: tuple[int, ...], kv_heads: int, with_lse: bool, functions: Functions,
    library: list[Memory],
) -> None:  # fmt: skip
    rank = len(spatial)
    kernel_size = tuple(length // 2 + 3 for length in spatial)
    problem = Problem(
        2, spatial, 16, kv_heads, 128, 128, "float16", kernel_size,
        (1,) * rank, (1,) * rank, (False,) * rank,
    )  # fmt: skip
    assert dispatch.select(problem, "forward", GPU, None).name == "cuda-hopper"
    options = options_of(problem, "auto")
    library[0] = memory = Memory(1 << 30)
    plan = plans.plan_forward(forward_inputs(problem, memory), options, with_lse)
    assert plan is not None
    for start in (1 << 30, 5 << 40):
        library[0] = memory = Memory(start)
        functions.launches = []
        inputs = forward_inputs(problem, memory)
        operations.neighborhood_attention(**inputs, return_lse=with_lse, **keywords(options))
        (expected,) = functions.launches
        memory = Memory(start)
        (found,) = repeated(plan, forward_inputs(problem, memory), memory, functions)
        assert found == expected


def test_a_descriptor_of_no_array_is_not_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensor_map, "replace_address", Driver().replace_address)
    array = DeviceArray.contiguous(0, (4,), "float32", 0)
    kernel = Kernel(None, 0, None)  # type: ignore[arg-type]
    params = np.dtype([("one", np.uint64), ("maps", tensor_map.TENSOR_MAP, (2,))])

    def recorded(address_of: Any) -> Any:
        def call(arrays: Any, empty: Any) -> None:
            maps = [Driver().encode(address_of(arrays["x"].pointer), "float16", ())] * 2
            packed = np.array([(7, maps)], params)
            launch_module.launch(kernel, (1,), (1,), 0, 0, packed)

        return recording.record({"x": array}, 0, call)

    assert recorded(lambda address: address) is not None
    assert recorded(lambda address: 4096) is not None
    assert recorded(lambda address: address + 16) is None


def test_addresses_that_are_hidden_are_not_recorded() -> None:
    array = DeviceArray.contiguous(0, (4,), "float32", 0)
    kernel = Kernel(None, 0, None)  # type: ignore[arg-type]

    def recorded(word_of: Any) -> Any:
        def call(arrays: Any, empty: Any) -> None:
            words = np.array([word_of(arrays["x"].pointer), 7], np.uint64)
            launch_module.launch(kernel, (1,), (1,), 0, 0, words)

        return recording.record({"x": array}, 0, call)

    assert recorded(lambda address: address) is not None
    assert recorded(lambda address: address + 4096) is not None
    assert recorded(lambda address: address >> 1) is None
    assert recorded(lambda address: math.isqrt(address)) is None
    counter = iter(range(9))
    assert recorded(lambda address: next(counter)) is None


def test_launches_of_other_threads_are_not_kept_back(functions: Functions) -> None:
    import threading

    kernel = functions.load("other", 0)
    params = np.zeros(2, np.uint64)

    def call(arrays: Any, empty: Any) -> None:
        other = threading.Thread(
            target=launch_module.launch, args=(kernel, (1,), (1,), 0, 3, params)
        )
        other.start()
        other.join()

    recording.record({}, 0, call)
    assert len(functions.launches) == 2  # a call is made twice to be recorded


@pytest.mark.usefixtures("functions")
def test_a_tuned_call_is_recorded_once_it_was_measured(
    library: list[Memory], monkeypatch: pytest.MonkeyPatch
) -> None:
    # What the general kernels alone serve: they are what is tuned.
    problem = Problem(1, (30, 10), 2, 1, 136, 136, "float16", (3, 5), (1, 1), (9, 1), (False,) * 2)
    options = dataclasses.replace(options_of(problem, "fused"), tune=True)
    library[0] = memory = Memory(1 << 30)
    measured: list[Any] = [None]
    monkeypatch.setattr(fused_tuning, "recalled_passes", lambda *given: measured[0])
    assert plans.plan_forward(forward_inputs(problem, memory), options, False) is None
    measured[0] = fused_tuning.model_passes(problem, "forward", GPU)
    assert plans.plan_forward(forward_inputs(problem, memory), options, False) is not None
    untuned = dataclasses.replace(options_of(problem, "naive"), tune=True)
    assert plans.plan_forward(forward_inputs(problem, memory), untuned, False) is not None
