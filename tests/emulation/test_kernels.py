"""The device code of every portable method against the oracle, on a machine without a GPU."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("cupy")

from cupyna.arrays.host import host_dtype
from cupyna.backends.direct import CudaDirect
from cupyna.backends.fused import CudaFused
from cupyna.backends.gemm import CudaGemm
from cupyna.backends.naive import CudaNaive
from cupyna.backends.padded import CudaPadded
from cupyna.backends.window import CudaWindow
from cupyna.execution import Backend, Execution
from cupyna.kernels import launch, loader
from cupyna.kernels.direct import costs as direct_costs
from cupyna.kernels.direct.shapes import DIRECT_GRADIENT_SHAPES, DirectShape
from cupyna.kernels.fused import heuristics
from cupyna.kernels.gemm import products, schedule
from cupyna.kernels.gemm.heuristics import gemm_plan
from cupyna.kernels.gemm.parts import foldings
from cupyna.kernels.hopper import tensor_map
from cupyna.kernels.window import costs
from cupyna.kernels.window.launches import launch_window_ring
from cupyna.kernels.window.ring_costs import WindowRingChoice, window_ring_choices
from cupyna.kernels.window.shapes import WINDOW_FORWARD_SHAPES, WINDOW_GRADIENT_SHAPES
from cupyna.operands import BackwardArrays, ForwardArrays
from cupyna.problem import DeviceSpec, Operation, Problem
from cupyna.testing import (
    Inputs,
    expected_backward,
    expected_forward,
    inputs,
    stored_forward,
)
from cupyna.testing.cases import small_problems

from . import boxes
from .emulator import H200, Emulator, Memory, described, execution

BACKENDS: dict[str, tuple[Backend, tuple[str, ...]]] = {
    "naive": (CudaNaive(), ("float16", "float64")),
    "gemm": (CudaGemm(), ("float16", "float32", "float64")),
    "fused": (CudaFused(), ("float16", "bfloat16", "float32")),
    "padded": (CudaPadded(), ("float16", "bfloat16", "float32")),
}


def served(operation: Operation) -> list[object]:
    """Every method with every small problem that it takes."""
    return [
        pytest.param(backend, problem, id=f"{method}-{name}")
        for method, (backend, dtypes) in BACKENDS.items()
        for name, problem in small_problems(dtypes)
        if not getattr(backend, "limits", backend.refusals)(problem, operation, H200)
    ]


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Emulator:
    compiler = shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    return Emulator(compiler, tmp_path_factory.mktemp("emulation"))


@pytest.fixture(autouse=True)
def _on_the_host(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "load", emulator.load)
    monkeypatch.setattr(launch, "launch", emulator.launch)
    # Copies meet kernels that run here, whatever the models hold of them.
    monkeypatch.setattr(CudaPadded, "_inner", (CudaFused(),))


def rounding(backend: Backend, problem: Problem) -> str:
    """The type in which a method rounds weights."""
    return "float32" if backend.method == "naive" else problem.dtype


@pytest.mark.parametrize(("backend", "problem"), served("forward"))
def test_forward(backend: Backend, problem: Problem) -> None:
    check_forward(backend, problem)


def check_forward(
    backend: Backend,
    problem: Problem,
    weights: str | None = None,
    given: Inputs | None = None,
) -> None:
    given, memory = inputs(problem) if given is None else given, Memory()
    q, k, v = (described(memory.put(array)) for array in (given.q, given.k, given.v))
    bias = None if given.bias is None else described(memory.put(given.bias))
    shape = (problem.batch, *problem.spatial, problem.heads)
    out = memory.empty((*shape, problem.value_dim), host_dtype(problem.dtype))
    lse = memory.empty(shape, host_dtype(problem.accumulator))
    arrays = ForwardArrays(q, k, v, bias, described(out), described(lse))
    backend.forward(problem, given.scale, execution(memory), arrays)
    weights = rounding(backend, problem) if weights is None else weights
    expected = expected_forward(problem, given, weights=weights)
    expected["out"].check(out)
    expected["lse"].check(lse)


def check_backward(
    backend: Backend, problem: Problem, given: Inputs, weights: str | None = None
) -> None:
    memory = Memory()
    out, lse = stored_forward(problem, given)
    stored = (given.dout, given.q, given.k, given.v, out, lse, given.dlse)
    dout, q, k, v, out, lse, dlse = map(memory.put, stored)
    gradients = [memory.empty(array.shape, array.dtype) for array in (q, k, v)]
    bias = dbias = None
    if given.bias is not None:
        gradients.append(memory.empty(given.bias.shape, given.bias.dtype))
        bias, dbias = described(memory.put(given.bias)), described(gradients[3])
    arrays = BackwardArrays(
        *map(described, (q, k, v)), bias, *map(described, (out, lse, dout, dlse, *gradients[:3])),
        dbias,
    )  # fmt: skip
    backend.backward(problem, given.scale, execution(memory), arrays)
    weights = rounding(backend, problem) if weights is None else weights
    expected = expected_backward(problem, given, with_dlse=True, weights=weights)
    for name, gradient in zip(("dq", "dk", "dv", "dbias"), gradients, strict=False):
        expected[name].check(gradient)


@pytest.mark.parametrize(("backend", "problem"), served("backward"))
def test_backward(backend: Backend, problem: Problem) -> None:
    check_backward(backend, replace(problem, deterministic=True), inputs(problem))


# More than one tile. Above 128 channels a warp sums 64 of queries: all, half of them, or none.
_WIDE = [
    (f"head-dim-{head_dim}-{value_dim}-{dtype}", Problem(
        1, (11, 13), 2, 1, head_dim, value_dim, dtype, (3, 5), (1, 1), (1, 2), (False, True)
    ))
    for head_dim, value_dim, dtype in (
        (128, 96, "float16"), (256, 256, "float16"), (216, 136, "bfloat16"), (80, 256, "float16"),
    )
]  # fmt: skip

ONE_PASS = [
    pytest.param(problem, id=name)
    for name, problem in (*small_problems(BACKENDS["fused"][1]), *_WIDE)
    if not BACKENDS["fused"][0].refusals(problem, "backward", H200)
    if heuristics.lone_gradient_choice(problem, H200) is not None
]


@pytest.mark.parametrize("problem", ONE_PASS)
def test_gradients_in_one_pass(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    lone = heuristics.lone_gradient_choice(problem, H200)
    monkeypatch.setattr(heuristics, "fused_gradient_choices", lambda *_: (lone,))
    check_backward(BACKENDS["fused"][0], problem, inputs(problem))


SMALL_WINDOWS = [
    pytest.param(problem, id=name)
    for name, problem in small_problems(("float16", "bfloat16"))
    if not CudaWindow().refusals(problem, "forward", H200)
]


@pytest.mark.parametrize("problem", SMALL_WINDOWS)
def test_small_windows(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = (shape for shape in WINDOW_FORWARD_SHAPES if shape.serves(problem))
    shape = min(shapes, key=lambda one: one.head_dim)
    choices = sorted(costs.window_choices(problem, H200, shape), key=lambda one: one.time_us)
    for choice in {choices[0], choices[len(choices) // 2], choices[-1]}:
        monkeypatch.setattr(costs, "window_forward_choice", lambda *_, choice=choice: choice)
        check_forward(CudaWindow(), problem)


_PLANE, _VOLUME = ((1, 1), (1, 1), (False,) * 2), ((1,) * 3, (1,) * 3, (False,) * 3)
WARP_BOXES = [
    pytest.param(problem, scale, id=f"{name}-{scale}")
    for name, problem, *scales in (
        ("sixteen", Problem(1, (18, 18), 1, 1, 64, 64, "float16", (13, 13), *_PLANE),
         None, 0.0, -0.7, 2.0, -40.0),
        ("sixteen-padded", Problem(
            1, (15, 20), 2, 1, 64, 40, "bfloat16", (8, 13), (2, 1), (1, 1), (True, False)
        ), None, -2.0),
        ("sixteen-few-channels", Problem(1, (18, 18), 1, 1, 32, 24, "float16", (12, 13), *_PLANE),
         None, 30.0),
        ("eight", Problem(
            2, (13, 20), 1, 1, 64, 64, "float16", (13, 5), (1, 1), (1, 2), (False, True)
        ), None, -30.0),
        ("short", Problem(1, (19, 5), 1, 1, 128, 128, "float16", (17, 1), *_PLANE), None, 0.0),
        ("volume", Problem(1, (5, 4, 12), 1, 1, 32, 32, "bfloat16", (5, 3, 5), *_VOLUME),
         None, 2.0),
    )
    for scale in scales
]  # fmt: skip


@pytest.mark.parametrize(("problem", "scale"), WARP_BOXES)
def test_boxes_of_small_windows(
    problem: Problem, scale: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every box of a warp, some with lines that divide sixteen slots, in the smallest block."""
    shapes = (shape for shape in WINDOW_FORWARD_SHAPES if shape.serves(problem))
    shape = min(shapes, key=lambda one: one.head_dim)
    warp_boxes = {
        choice.slot_box: choice
        for choice in sorted(
            costs.window_choices(problem, H200, shape),
            key=lambda one: (-math.prod(one.warp_tiles), one.warps),
        )
    }
    assert any(16 % box[-1] == 0 for box in warp_boxes)
    given = inputs(problem)
    given = given if scale is None else replace(given, scale=scale)
    for choice in warp_boxes.values():
        free = replace(choice, time_us=0.0)
        monkeypatch.setattr(costs, "window_forward_choice", lambda *_, free=free: free)
        check_forward(BACKENDS["fused"][0], problem, given=given)


def ring_problems() -> list[object]:
    """What the ring serves among the small problems, and some that fill it."""
    plain = dict(small_problems(("float16", "bfloat16")))
    for dtype in ("float16", "bfloat16"):
        flat, cube = ((1, 1), (1, 1), (False,) * 2), ((1,) * 3, (1,) * 3, (False,) * 3)
        plain |= {
            f"2d-shared-heads-{dtype}": Problem(
                1, (20, 18), 4, 2, 64, 40, dtype, (5, 8), (1, 3), (2, 1), (False, True)
            ),
            f"2d-many-{dtype}": Problem(1, (25, 18), 2, 2, 64, 64, dtype, (13, 13), *flat),
            f"2d-dilated-{dtype}": Problem(
                1, (23, 15), 1, 1, 32, 32, dtype, (7, 7), (1, 1), (3, 2), (False, False)
            ),
            f"3d-batch-{dtype}": Problem(2, (6, 7, 9), 2, 2, 32, 32, dtype, (5, 5, 5), *cube),
            f"3d-flat-{dtype}": Problem(1, (5, 6, 9), 2, 2, 64, 64, dtype, (3, 3, 3), *cube),
            f"3d-causal-{dtype}": Problem(
                1, (6, 10, 9), 2, 2, 32, 24, dtype,
                (3, 2, 5), (2, 1, 3), (1, 2, 1), (True, False, True),
            ),
        }  # fmt: skip
    return [
        pytest.param(problem, id=name)
        for name, problem in plain.items()
        if any(window_ring_choices(problem, H200))
    ]


@pytest.mark.parametrize("problem", ring_problems())
def test_small_windows_through_a_ring(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few multiprocessors, so a block goes through several tiles, and every compiled shape."""
    monkeypatch.setattr(tensor_map, "_encode", boxes.encode)
    device = replace(H200, processors=2)
    found = sorted(window_ring_choices(problem, device), key=lambda one: one.time_us)
    cheapest = {choice.shape: choice for choice in reversed(found)}
    for choice in {*cheapest.values(), found[len(found) // 2]}:
        check_ring(problem, device, choice)


def check_ring(problem: Problem, device: DeviceSpec, choice: WindowRingChoice) -> None:
    given, memory = inputs(problem), Memory()
    q, k, v = (described(memory.put(array)) for array in (given.q, given.k, given.v))
    shape = (problem.batch, *problem.spatial, problem.heads)
    out = memory.empty((*shape, problem.value_dim), host_dtype(problem.dtype))
    lse = memory.empty(shape, host_dtype(problem.accumulator))
    arrays = ForwardArrays(q, k, v, None, described(out), described(lse))
    launch_window_ring(problem, given.scale, choice, device, 0, arrays)
    expected = expected_forward(problem, given, weights=problem.dtype)
    expected["out"].check(out)
    expected["lse"].check(lse)


SMALL_WINDOWS_BACKWARD = [
    pytest.param(problem, id=name)
    for name, problem in small_problems(("float16", "bfloat16"))
    if not CudaWindow().refusals(problem, "backward", H200)
]


@pytest.mark.parametrize("problem", SMALL_WINDOWS_BACKWARD)
def test_gradients_of_small_windows(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    # Few multiprocessors: a block goes through several tiles.
    device = replace(H200, processors=2)
    few = Execution(device, 0, Memory().workspace)
    monkeypatch.setitem(globals(), "execution", lambda _: few)
    check_backward(CudaWindow(), problem, inputs(problem))


SHORT_GROUPS = [
    Problem(2, (40,), 4, 4, 32, 24, "float16", (7,), (1,), (3,), (False,)),
    Problem(2, (11, 9), 6, 6, 64, 56, "float16", (3, 3), (1, 1), (3, 2), (False, False)),
    Problem(2, (5, 6, 7), 4, 4, 128, 120, "float16", (2, 3, 2), (1,) * 3, (2, 1, 3), (False,) * 3),
]


@pytest.mark.parametrize("problem", SHORT_GROUPS, ids=["1d", "2d", "3d"])
def test_heads_side_by_side(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    device = replace(H200, processors=1)
    few = Execution(device, 0, Memory().workspace)
    monkeypatch.setitem(globals(), "execution", lambda _: few)
    passes = []
    for side in (None, "query", "key"):
        shapes = (*WINDOW_FORWARD_SHAPES, *WINDOW_GRADIENT_SHAPES)
        shape = next(s for s in shapes if s.gradient == side and s.serves(problem))
        choices = costs.window_choices(problem, H200, shape)
        passes.append(max(choices, key=lambda one: (one.heads, -one.time_us)))
    assert all(chosen.heads == problem.heads for chosen in passes)
    monkeypatch.setattr(costs, "window_forward_choice", lambda *_: passes[0])
    monkeypatch.setattr(costs, "window_gradient_choices", lambda *_: tuple(passes[1:]))
    check_forward(CudaWindow(), problem)
    check_backward(CudaWindow(), problem, inputs(problem))


FEW_KEYS = [
    pytest.param(operation, problem, id=f"{operation}-{name}")
    for operation in ("forward", "backward")
    for name, problem in small_problems(("float16", "bfloat16", "float32"))
    if not CudaDirect().refusals(problem, operation, H200)
]


@pytest.mark.parametrize(("operation", "problem"), FEW_KEYS)
def test_few_keys(operation: Operation, problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    # Few multiprocessors: a block goes through several planes.
    device = replace(H200, processors=1)
    few = Execution(device, 0, Memory().workspace)
    monkeypatch.setitem(globals(), "execution", lambda _: few)
    if operation == "forward":
        check_forward(CudaDirect(), problem, weights="float32")
    else:
        check_backward(CudaDirect(), problem, inputs(problem), weights="float32")


LINES = {
    # Short groups, whose columns neighboring runs ask for together.
    "groups": Problem(2, (70,), 4, 2, 0, 0, "float32", (7,), (1,), (9,), (False,)),
    "strides": Problem(1, (41,), 2, 2, 0, 0, "float32", (9,), (4,), (2,), (True,)),
    "plane": Problem(1, (7, 11), 2, 1, 0, 0, "float32", (3, 5), (1, 2), (2, 1), (False, False)),
}


@pytest.mark.parametrize("name", LINES)
@pytest.mark.parametrize(
    "shape", [s for s in DIRECT_GRADIENT_SHAPES if s.item_bytes == 4 and s.side == "key"],
    ids=lambda shape: f"{shape.lanes}-lanes-{shape.rows}-rows",
)  # fmt: skip
def test_few_keys_by_every_shape(
    shape: DirectShape, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    channels = 8 * shape.lanes
    problem = replace(LINES[name], head_dim=channels, value_dim=channels - 8)
    queries = tuple(s for s in DIRECT_GRADIENT_SHAPES if s.side == "query")
    monkeypatch.setattr(direct_costs, "DIRECT_GRADIENT_SHAPES", (*queries, shape))
    direct_costs.direct_passes.cache_clear()
    check_backward(CudaDirect(), problem, inputs(problem), weights="float32")
    direct_costs.direct_passes.cache_clear()


ROWS = [
    pytest.param(replace(problem, dtype=dtype, head_dim=head_dim, value_dim=value_dim),
                 id=f"{name}-{head_dim}-{dtype}")
    for dtype in ("float16", "float32")
    for name, problem, head_dim, value_dim in (
        ("line", Problem(2, (37,), 4, 2, 0, 0, "", (7,), (1,), (2,), (True,)), 32, 32),
        ("plane", Problem(1, (9, 14), 4, 2, 0, 0, "", (3, 9), (1, 2), (1, 1), (False, True)),
         64, 32),
        ("volume", Problem(1, (5, 6, 7), 2, 2, 0, 0, "", (3, 3, 5), (1,) * 3, (1,) * 3,
                           (False,) * 3), 64, 64),
        ("line", Problem(1, (70,), 2, 1, 0, 0, "", (41,), (1,), (1,), (False,)), 128, 64),
        ("tf32", Problem(1, (70,), 2, 1, 0, 0, "", (41,), (1,), (1,), (False,), allow_tf32=True),
         128, 128),
    )
    if name != "tf32" or dtype == "float32"
]  # fmt: skip


@pytest.mark.parametrize("problem", ROWS)
def test_rows_of_gradients(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    def of_rows(problem: Problem, device: object, side: str) -> object:
        has_rows = schedule.row_channels_of(
            problem.dtype, problem.head_dim, problem.value_dim, int(side == "key")
        )
        kind = ("query_rows", "key_rows") if has_rows else ("query_gradients", "key_gradients")
        return gemm_plan(problem, H200, kind[side == "key"], problem.head_dim)

    monkeypatch.setattr(products, "gradient_plan", of_rows)
    check_backward(BACKENDS["gemm"][0], problem, inputs(problem))


FOLDED = [
    pytest.param(problem, way, id=f"{name}-{way}")
    for name, problem in (
        ("line", Problem(2, (38,), 4, 2, 32, 32, "float16", (4,), (2,), (7,), (False,))),
        ("whole-groups", Problem(1, (36,), 2, 1, 16, 24, "float32", (3,), (1,), (9,), (True,))),
        ("bias", Problem(1, (29,), 2, 2, 16, 16, "float16", (5,), (1,), (5,), (False,),
                         has_bias=True)),
        ("plane", Problem(1, (13, 11), 2, 2, 64, 64, "float16", (3, 3), (1, 2), (4, 3),
                          (False, True))),
    )
    for way in range(1, sum(1 for _ in foldings(problem)))
]  # fmt: skip


@pytest.mark.parametrize(("problem", "way"), FOLDED)
def test_dilation_groups_side_by_side(
    problem: Problem, way: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = tuple(foldings(problem))[way]
    monkeypatch.setattr(schedule, "foldings", lambda _: (parts,))
    schedule.schedule.cache_clear()
    backend = BACKENDS["gemm"][0]
    check_forward(backend, problem)
    if not problem.has_bias:
        check_backward(backend, problem, inputs(problem))
    schedule.schedule.cache_clear()


@pytest.mark.parametrize("dtype", ["float16", "float64"])
@pytest.mark.parametrize("has_bias", [False, True])
def test_planes_take_turns_where_memory_is_bounded(
    dtype: str, has_bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = Problem(
        3, (23,), 4, 2, 16, 16, dtype, (5,), (1,), (2,), (False,), has_bias=has_bias
    )  # fmt: skip
    backend = BACKENDS["gemm"][0]
    whole = backend.choice(problem, "backward", H200).workspace_bytes
    monkeypatch.setattr(schedule, "_MOST_WORKSPACE_BYTES", whole // (2 if has_bias else 5) + 1)
    schedule.schedule.cache_clear()
    assert backend.choice(problem, "backward", H200).workspace_bytes < 0.6 * whole
    taken = []

    class Counted(Memory):
        def workspace(self, shape: tuple[int, ...], dtype: str) -> object:
            taken.append(int(np.prod(shape)) * np.dtype(host_dtype(dtype)).itemsize)
            return super().workspace(shape, dtype)

    monkeypatch.setitem(globals(), "Memory", Counted)
    check_backward(backend, problem, inputs(problem))
    assert sum(taken) <= backend.choice(problem, "backward", H200).workspace_bytes
    check_forward(backend, problem)
    schedule.schedule.cache_clear()
