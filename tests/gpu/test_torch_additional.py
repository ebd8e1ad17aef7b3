"""Keys beside the windows on a GPU: in one pass of the fused kernel, or merged."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

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


def results(tensors: dict[str, Any], window: dict[str, Any], how: dict[str, Any]) -> list[Any]:
    """Output, log-sum-exp and gradients."""
    leaves = {name: t.detach().to(**how).requires_grad_() for name, t in tensors.items()}
    out, lse = neighborhood_attention(**leaves, **window, scale=-0.3, return_lse=True)
    loss = (
        out.double() * torch.cos(torch.arange(out.numel())).view(out.shape).to(out.device)
    ).sum()
    loss = loss + 0.1 * lse.double().sum()
    found = torch.autograd.grad(loss, list(leaves.values()))
    return [t.detach() for t in (out, lse, *found)]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_output_and_gradients(case: Any, dtype: Any) -> None:
    tensors, window = tensors_of(case, dtype)
    exact = results(tensors, window, {"dtype": torch.float64})
    # The same on the host rounds inputs, outputs and what backward is handed alike.
    honest = results(tensors, window, {"dtype": dtype})
    for _ in range(2):  # the second time, a recording is repeated
        found = results(tensors, window, {"device": "cuda", "dtype": dtype})
        for got, want, rounded in zip(found, exact, honest, strict=True):
            truth = want.detach().double().numpy()
            assert_within_rounding(
                get(got), truth, get(rounded).astype(np.float64), np.abs(truth),
                str(got.dtype).removeprefix("torch."),
            )  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_one_pass_where_a_kernel_can(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors, window = tensors_of(CASES[name], torch.float16)
    tensors = {name: tensor.cuda() for name, tensor in tensors.items()}
    answers = []
    real = direct.attend_beside

    def watched(*arguments: Any) -> Any:
        answers.append(real(*arguments))
        return answers[-1]

    monkeypatch.setattr(direct, "attend_beside", watched)
    neighborhood_attention(**tensors, **window)
    can = name not in ("too many channels", "rows that do not fit")
    assert (answers[0] is not None) == can
