"""Attention of torch tensors on a GPU: recorded calls, gradients, streams, graphs, threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from cupyna import explain  # noqa: E402
from cupyna.problem import Problem  # noqa: E402
from cupyna.testing import (  # noqa: E402
    Inputs,
    expected_backward,
    expected_forward,
    inputs,
    problems,
)
from cupyna.torch import direct, na2d, neighborhood_attention, ops  # noqa: E402
from cupyna.torch.options import CallOptions  # noqa: E402

from .libraries import get, put  # noqa: E402

pytestmark = [pytest.mark.gpu, pytest.mark.torch]

DTYPES = ("float16", "bfloat16", "float32", "float64")


@contextmanager
def poisoned() -> Iterator[None]:
    """Fill what torch allocates with NaN."""
    empty = torch.empty

    def full_of_nan(*shape: Any, **options: Any) -> Any:
        made = empty(*shape, **options)
        return made.fill_(float("nan")) if made.is_floating_point() else made.fill_(0xFF)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "empty", full_of_nan)
        yield


def keywords(problem: Problem) -> dict[str, Any]:
    return {
        "kernel_size": problem.kernel_size,
        "stride": problem.stride,
        "dilation": problem.dilation,
        "is_causal": problem.is_causal,
    }


def check(problem: Problem, given: Inputs, method: str, with_dlse: bool = False) -> None:
    arrays = {"query": given.q, "key": given.k, "value": given.v, "bias": given.bias}
    tensors = {
        name: put("torch", array).requires_grad_()
        for name, array in arrays.items()
        if array is not None
    }
    options = {**keywords(problem), "scale": given.scale, "method": method}
    weights = problem.dtype if problem.dtype in ("float16", "bfloat16") else None
    with poisoned():
        out, lse = neighborhood_attention(**tensors, **options, return_lse=True)
        with torch.no_grad():
            again = neighborhood_attention(**tensors, **options)
    for name, expected in expected_forward(problem, given, weights=weights).items():
        expected.check(get({"out": out, "lse": lse}[name].detach()))
    assert torch.equal(again, out)
    loss = (out * put("torch", given.dout)).sum()
    if with_dlse:
        loss = loss + (lse * put("torch", given.dlse)).sum()
    with poisoned():
        found = torch.autograd.grad(loss, list(tensors.values()))
    expected = expected_backward(problem, given, with_dlse, weights=weights)
    for gradient, wanted in zip(found, expected.values(), strict=True):
        wanted.check(get(gradient))


@given(
    problem=problems(dtypes=DTYPES, max_tokens=100),
    method=st.sampled_from(["auto", "naive"]),
    with_dlse=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_any_problem_twice(problem: Problem, method: str, with_dlse: bool, seed: int) -> None:
    for i in range(2):  # the second time, a recording is repeated on other memory
        check(problem, inputs(problem, seed + i), method, with_dlse)


@given(
    problem=problems(dtypes=("float16", "bfloat16"), max_tokens=200),
    channels=st.tuples(st.sampled_from([8, 32, 64, 72]), st.sampled_from([8, 48, 128])),
    seed=st.integers(0, 2**16),
)
def test_fused_forward(problem: Problem, channels: tuple[int, int], seed: int) -> None:
    problem = replace(problem, head_dim=channels[0], value_dim=channels[1])
    check(problem, inputs(problem, seed), "fused")


def tensors(**options: Any) -> list[Any]:
    options = {"dtype": torch.float16, "device": "cuda", **options}
    return [torch.randn(2, 20, 18, 4, 32, **options) for _ in range(3)]


def large_tensors() -> list[Any]:
    """What boxes and warpgroups serve where there are any."""
    return [torch.randn(1, 64, 64, 16, 128, dtype=torch.float16, device="cuda") for _ in range(3)]


SHAPES = pytest.mark.parametrize(
    ("make", "kernel_size"), [(tensors, 7), (large_tensors, 31)], ids=["small", "large"]
)


def entry(q: Any, k: Any, v: Any, kernel_size: int) -> Any:
    return direct.entry_of((q, k, v), CallOptions.of(2, kernel_size), False)


@SHAPES
def test_calls_are_recorded(make: Any, kernel_size: int) -> None:
    q, k, v = make()
    for size in (kernel_size - 2, kernel_size):
        na2d(q, k, v, size)
        assert entry(q, k, v, size).prepared is not None
    backend = explain(q, k, v, kernel_size).selected.name
    is_hopper = torch.cuda.get_device_capability() == (9, 0)
    assert (backend == "cuda-hopper") == (is_hopper and make is large_tensors)


@SHAPES
def test_packed_projections_are_read_in_place(make: Any, kernel_size: int) -> None:
    packed = torch.stack(make(), 3)
    q, k, v = packed.unbind(3)
    for _ in range(2):
        before = torch.cuda.memory_allocated()
        out = na2d(q, k, v, kernel_size)
        assert torch.cuda.memory_allocated() - before <= out.nbytes + 512
        again = na2d(q.contiguous(), k.contiguous(), v.contiguous(), kernel_size)
        assert torch.equal(out, again)
        del out, again


def test_rows_that_no_kernel_can_step_through_are_copied() -> None:
    q, k, v = tensors()
    expected = na2d(q, k, v, 7)
    transposed = q.transpose(-1, -2).contiguous().transpose(-1, -2)
    assert torch.equal(na2d(transposed, k, v, 7), expected)
    shifted = torch.empty(q.numel() + 1, dtype=q.dtype, device="cuda")[1:].view(q.shape)
    shifted.copy_(q)
    for _ in range(2):
        assert torch.equal(na2d(shifted, k, v, 7), expected)
        assert torch.equal(na2d(q, shifted, v, 7), na2d(q, q, v, 7))


@SHAPES
def test_work_goes_to_the_current_stream(make: Any, kernel_size: int) -> None:
    q, k, v = make()
    expected = na2d(q, k, v, kernel_size)
    stream = torch.cuda.Stream()
    late = torch.zeros_like(q)
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(20_000_000)
        late.copy_(q)
        out = na2d(late, k, v, kernel_size)
    stream.synchronize()
    assert torch.equal(out, expected)


@SHAPES
@pytest.mark.parametrize("method", ["auto", "naive"])
def test_cuda_graphs(method: str, make: Any, kernel_size: int) -> None:
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        leaves = [t.requires_grad_() for t in make()]
        dout = torch.randn_like(leaves[0])

        def step() -> Any:
            out = na2d(*leaves, kernel_size, method=method)
            return out, *torch.autograd.grad(out, leaves, dout)

        step()  # loads kernels, which cannot be captured
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            results = step()
        with torch.no_grad():
            for leaf in leaves:
                leaf.copy_(torch.randn_like(leaf))
        graph.replay()
        for found, expected in zip(results, step(), strict=True):
            torch.testing.assert_close(found, expected)
    stream.synchronize()


@SHAPES
def test_threads_share_recordings(make: Any, kernel_size: int) -> None:
    q, k, v = make()
    many = [torch.randn_like(q) for _ in range(8)]
    expected = [na2d(one, k, v, kernel_size) for one in many]
    wrong: list[int] = []

    def work(i: int) -> None:
        with torch.cuda.stream(torch.cuda.Stream()):
            torch.cuda.current_stream().wait_stream(torch.cuda.default_stream())
            for _ in range(50):
                out = na2d(many[i], k, v, kernel_size)
            torch.cuda.current_stream().synchronize()
        if not torch.equal(out, expected[i]):
            wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(many))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@SHAPES
def test_each_gpu_runs_its_own_tensors(make: Any, kernel_size: int) -> None:
    q, k, v = make()
    dout = torch.randn_like(q)

    def step(device: str) -> list[Any]:
        leaves = [t.to(device).requires_grad_() for t in (q, k, v)]
        out = na2d(*leaves, kernel_size, deterministic=True)
        return [out, *torch.autograd.grad(out, leaves, dout.to(device))]

    expected = step("cuda:0")
    for _ in range(2):  # the second time, a recording is repeated
        for index in range(torch.cuda.device_count()):
            for found, wanted in zip(step(f"cuda:{index}"), expected, strict=True):
                assert found.device.index == index
                assert torch.equal(found.to("cuda:0"), wanted)
    assert torch.cuda.current_device() == 0
    with pytest.raises(ValueError, match="k must be on cuda:0 like q"):
        na2d(q, k.cpu(), v, 7)


@SHAPES
def test_the_operator_keeps_its_promises(make: Any, kernel_size: int) -> None:
    leaves = [t.requires_grad_() for t in make()]
    options = CallOptions.of(2, kernel_size, deterministic=True)
    torch.library.opcheck(ops.attention, (*leaves, None, *options), rtol=1e-2, atol=1e-2)


@SHAPES
def test_vmap(make: Any, kernel_size: int) -> None:
    q, k, v = make()
    many = torch.stack([v, 2 * v])
    found = torch.vmap(lambda v: na2d(q, k, v, kernel_size))(many)
    # A batch of two may take other tiles, and round elsewhere.
    expected = torch.stack([na2d(q, k, one, kernel_size) for one in many])
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-3)


@SHAPES
def test_compiled_code_runs_the_same_kernels(make: Any, kernel_size: int) -> None:
    leaves = [t.requires_grad_() for t in make()]

    def loss(q: Any, k: Any, v: Any) -> Any:
        return na2d(q * 2, k, v, kernel_size).float().square().sum()

    compiled = torch.compile(loss, fullgraph=True)
    found = torch.autograd.grad(compiled(*leaves), leaves)
    for a, b in zip(found, torch.autograd.grad(loss(*leaves), leaves), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-2)


def test_second_derivatives() -> None:
    leaves = [torch.randn(1, 5, 2, 4, device="cuda", dtype=torch.float64) for _ in range(3)]
    for leaf in leaves:
        leaf.requires_grad_()

    def attend(*arguments: Any) -> Any:
        return neighborhood_attention(*arguments, 3, method="naive", return_lse=True)

    assert torch.autograd.gradcheck(attend, leaves, fast_mode=True, nondet_tol=1e-12)
    assert torch.autograd.gradgradcheck(attend, leaves, fast_mode=True, nondet_tol=1e-12)


def test_autocast() -> None:
    q, k, v = (t.requires_grad_() for t in tensors(dtype=torch.float32))
    with torch.autocast("cuda"):
        out = na2d(q, k, v, 7, additional_keys=k[:, 0], additional_values=v[:, 0])
    assert out.dtype is torch.float16
    out.float().sum().backward()
    assert q.grad.dtype is torch.float32


def test_deterministic_mode_of_torch() -> None:
    leaves = [t.requires_grad_() for t in tensors()]
    torch.use_deterministic_algorithms(True)
    try:
        first, second = (
            torch.autograd.grad(na2d(*leaves, 7).float().square().sum(), leaves) for _ in range(2)
        )
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.benchmark
def test_the_host_spends_little_on_a_call() -> None:
    from cupyna.profiling.overhead import measure

    calls = measure().calls
    shapes = {name.partition(",")[0] for name in calls}
    assert len(shapes) == 2
    for shape in shapes:
        assert calls[f"{shape}, no gradient"] <= 25
        assert calls[f"{shape}, gradient recorded"] <= 45
