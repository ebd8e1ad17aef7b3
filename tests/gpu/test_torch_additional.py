"""Keys beside the windows on a GPU: in one pass of the fused kernel, or merged."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from cupyna import reference  # noqa: E402
from cupyna.problem import Problem  # noqa: E402
from cupyna.testing import assert_within_rounding  # noqa: E402
from cupyna.torch import direct, neighborhood_attention  # noqa: E402

from .libraries import get  # noqa: E402

pytestmark = [pytest.mark.gpu, pytest.mark.torch]

# spatial, kernel_size, dilation, is_causal, heads, kv_heads, head_dim, value_dim, tokens, bias
CASES = {
    "one token": ((40,), 7, 1, False, 2, 2, 32, 32, 1, False),
    "a whole tile": ((20, 18), 5, 2, False, 4, 2, 64, 64, 64, False),
    "more than a tile": ((20, 18), (3, 8), 1, (True, False), 4, 1, 64, 32, 65, False),
    "many": ((9, 8, 10), 3, 1, False, 2, 2, 128, 128, 200, False),
    "bias": ((20, 18), 7, 1, False, 3, 3, 32, 32, 17, True),
    "channels of no power": ((33,), 9, 1, True, 2, 2, 48, 72, 5, False),
    "too many channels": ((33,), 9, 1, False, 2, 2, 160, 160, 5, False),
    "rows that do not fit": ((33,), 9, 1, False, 2, 2, 20, 20, 5, False),
}

SCALE = -0.3  # a scale may be negative
LSE_SLOPE = 0.1


def tensors_of(case: Any, dtype: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    (
        spatial,
        kernel_size,
        dilation,
        is_causal,
        heads,
        kv_heads,
        head_dim,
        value_dim,
        count,
        has_bias,
    ) = case
    generator = np.random.default_rng(0)
    shapes = {
        "query": (2, *spatial, heads, head_dim),
        "key": (2, *spatial, kv_heads, head_dim),
        "value": (2, *spatial, kv_heads, value_dim),
        "additional_keys": (2, count, kv_heads, head_dim),
        "additional_values": (2, count, kv_heads, value_dim),
    }
    if has_bias:
        shapes["bias"] = (heads, *(2 * kernel_size - 1,) * len(spatial))
    tensors = {
        name: torch.from_numpy(generator.standard_normal(shape) + 0.25).to(dtype)
        for name, shape in shapes.items()
    }
    window = {"kernel_size": kernel_size, "dilation": dilation, "is_causal": is_causal}
    return tensors, window


def slopes(shape: tuple[int, ...]) -> np.ndarray:
    """The loss's gradient for an output."""
    return np.cos(np.arange(np.prod(shape))).reshape(shape)


def results(tensors: dict[str, Any], window: dict[str, Any], how: dict[str, Any]) -> list[Any]:
    """Output, log-sum-exp and gradients."""
    leaves = {name: t.detach().to(**how).requires_grad_() for name, t in tensors.items()}
    out, lse = neighborhood_attention(**leaves, **window, scale=SCALE, return_lse=True)
    loss = (out.double() * torch.from_numpy(slopes(out.shape)).to(out.device)).sum()
    loss = loss + LSE_SLOPE * lse.double().sum()
    found = torch.autograd.grad(loss, list(leaves.values()))
    return [t.detach() for t in (out, lse, *found)]


def problem_of(case: Any) -> Problem:
    spatial, *window, heads, kv_heads, head_dim, value_dim, _, has_bias = case
    kernel_size, dilation, is_causal = (
        entry if isinstance(entry, tuple) else (entry,) * len(spatial) for entry in window
    )
    stride = (1,) * len(spatial)
    return Problem(
        2, spatial, heads, kv_heads, head_dim, value_dim, "float64",
        kernel_size, stride, dilation, is_causal, has_bias,
    )  # fmt: skip


def scores_of(problem: Problem, given: dict[str, Any], scale: float) -> np.ndarray:
    """Scores of the window's slots, then of the keys beside it."""
    q, keys = given["query"], given["additional_keys"]
    near = reference.qk(problem, scale, q, given["key"], given.get("bias"))
    keys = np.repeat(keys, problem.head_group, axis=2)
    return np.concatenate([near, scale * np.einsum("n...hd,nthd->n...ht", q, keys)], -1)


def summed(problem: Problem, weights: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Sums over queries, and over the query heads of each key/value head."""
    flat = (array.reshape(problem.batch, -1, *array.shape[-2:]) for array in (weights, rows))
    per_head = np.einsum("nqht,nqhd->nthd", *flat)
    shape = (*per_head.shape[:2], problem.kv_heads, problem.head_group, per_head.shape[-1])
    total: np.ndarray = per_head.reshape(shape).sum(-2)
    return total


def magnitudes(
    case: Any, tensors: dict[str, Any], out: np.ndarray, lse: np.ndarray
) -> list[np.ndarray]:
    """Sums of the absolute values of the terms of each of :func:`results`."""
    problem = problem_of(case)
    given = {name: tensor.double().numpy() for name, tensor in tensors.items()}
    sizes = {name: np.abs(array) for name, array in given.items()}
    keys, values = (
        np.repeat(sizes[f"additional_{name}"], problem.head_group, axis=2)
        for name in ("keys", "values")
    )
    score_sizes = scores_of(problem, sizes, abs(SCALE))
    score_sizes = np.where(np.isneginf(score_sizes), 0, score_sizes).max(-1)
    weights = np.exp(scores_of(problem, given, SCALE) - lse[..., None])
    near, far = np.split(weights, [problem.window], -1)
    of_out = reference.av(problem, near, sizes["value"])
    of_out = of_out + np.einsum("n...ht,nthd->n...hd", far, values)
    dout = np.abs(slopes(out.shape))
    dnear, dv = reference.av_backward(problem, dout, near, sizes["value"])
    dfar = np.einsum("n...hd,nthd->n...ht", dout, values)
    dvalues = summed(problem, far, dout)
    # An error of a score is a relative error of its weight, hence the factor.
    shift = 1 + score_sizes[..., None]
    delta = (dout * np.abs(out)).sum(-1, keepdims=True) + LSE_SLOPE
    near, far = near * (dnear + delta) * shift, far * (dfar + delta) * shift
    dq, dk, dbias = reference.qk_backward(problem, abs(SCALE), near, sizes["query"], sizes["key"])
    dq = dq + abs(SCALE) * np.einsum("n...ht,nthd->n...hd", far, keys)
    dkeys = abs(SCALE) * summed(problem, far, sizes["query"])
    gradients = {
        "query": dq, "key": dk, "value": dv * shift.max(), "bias": dbias,
        "additional_keys": dkeys, "additional_values": dvalues * shift.max(),
    }  # fmt: skip
    return [of_out, score_sizes, *(gradients[name] for name in tensors)]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_output_and_gradients(case: Any, dtype: Any) -> None:
    tensors, window = tensors_of(case, dtype)
    exact = results(tensors, window, {"dtype": torch.float64})
    # The same on the host rounds inputs, outputs and what backward is handed alike.
    honest = results(tensors, window, {"dtype": dtype})
    sizes = magnitudes(case, tensors, get(exact[0]), get(exact[1]))
    for _ in range(2):  # the second time, a recording is repeated
        found = results(tensors, window, {"device": "cuda", "dtype": dtype})
        for got, truth, rounded, size, name in zip(
            found, exact, honest, sizes, ("out", "lse", *tensors), strict=True
        ):
            assert_within_rounding(
                get(got), get(truth), get(rounded).astype(np.float64), size,
                str(got.dtype).removeprefix("torch."), name,
            )  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_by_kernels_where_they_can(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors, window = tensors_of(CASES[name], torch.float16)
    tensors = {name: tensor.cuda().requires_grad_() for name, tensor in tensors.items()}
    answers = []

    def watch(step: str) -> None:
        real = getattr(direct, step)

        def watched(*arguments: Any) -> Any:
            found = real(*arguments)
            answers.append((step, found is not None))
            return found

        monkeypatch.setattr(direct, step, watched)

    def attend(**tensors: Any) -> Any:
        return neighborhood_attention(**tensors, **window, deterministic=True)

    steps = "attend_beside", "attend_beside_backward"
    for step in steps:
        watch(step)
    can = name not in ("too many channels", "rows that do not fit")
    found = []
    for function in (attend, torch.compile(attend, fullgraph=True, backend="aot_eager")):
        out = function(**tensors)
        found.append((out, *torch.autograd.grad(out.sum(), list(tensors.values()))))
        assert answers == [(step, can) for step in steps]
        answers.clear()
    for direct_one, compiled_one in zip(*found, strict=True):
        assert torch.equal(direct_one, compiled_one)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_no_score_is_stored(dtype: Any) -> None:
    tokens, heads, channels, count = 64 * 64, 4, 32, 2048
    q, k, v = torch.randn(3, 1, tokens, heads, channels, device="cuda", dtype=dtype)
    more = torch.randn(2, 1, count, heads, channels, device="cuda", dtype=dtype)
    leaves = [t.requires_grad_() for t in (q, k, v, more[0].detach(), more[1].detach())]

    def step() -> None:
        keys, values = leaves[3:]
        out = neighborhood_attention(
            *leaves[:3], 65, additional_keys=keys, additional_values=values
        )
        torch.autograd.grad(out.sum(), leaves)

    step()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step()
    taken = torch.cuda.max_memory_allocated() - before
    # Not even a byte for each score.
    assert taken < tokens * heads * count


def test_the_same_bits_in_a_graph_and_on_every_gpu() -> None:
    tensors, window = tensors_of(CASES["many"], torch.float16)
    options = {**window, "deterministic": True}
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        leaves = {name: tensor.cuda().requires_grad_() for name, tensor in tensors.items()}

        def step(leaves: dict[str, Any]) -> list[Any]:
            out = neighborhood_attention(**leaves, **options)
            return [out, *torch.autograd.grad(out, list(leaves.values()), torch.ones_like(out))]

        expected = [found.clone() for found in step(leaves)]
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            results = step(leaves)
        for result in results:
            result.detach().fill_(float("nan"))
        graph.replay()
        for a, b in zip(results, expected, strict=True):
            assert torch.equal(a, b)
    stream.synchronize()
    for index in range(torch.cuda.device_count()):
        there = {
            name: t.detach().to(f"cuda:{index}").requires_grad_() for name, t in leaves.items()
        }
        for a, b in zip(step(there), expected, strict=True):
            assert a.device.index == index
            assert torch.equal(a.cpu(), b.cpu())
