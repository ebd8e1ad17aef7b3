"""A NATTEN user changes the import and nothing else: both are called in the same words."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
try:
    import natten
except ImportError:
    natten = None

import cupyna.torch as ours  # noqa: E402
from cupyna import reference  # noqa: E402
from cupyna.problem import Problem  # noqa: E402
from cupyna.reference import EXACT  # noqa: E402
from cupyna.testing import Expected, emulation, expected_forward, inputs  # noqa: E402

from .beside import tokens, with_more  # noqa: E402
from .tensors import get, put  # noqa: E402

pytestmark = [
    pytest.mark.gpu,  # it is found beside a GPU, if anywhere
    pytest.mark.torch,
    pytest.mark.skipif(natten is None, reason="no NATTEN"),
    pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile"),
    pytest.mark.filterwarnings("ignore:return_lse is deprecated"),
]


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    torch.manual_seed(0)
    yield


def defaults(function: Any) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD}


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_arguments_have_the_same_names_order_and_defaults(rank: int) -> None:
    for name in (f"na{rank}d", f"NeighborhoodAttention{rank}D"):
        mine, theirs = (defaults(getattr(library, name)) for library in (ours, natten))
        assert list(mine.items()) == list(theirs.items())[: len(mine)]
        # The others only tune their kernels.
        q = torch.randn(1, *(8,) * rank, 1, 8)
        if name.startswith("na"):
            others = {key: theirs[key] for key in theirs if key not in mine}
            found = getattr(ours, name)(q, q, q, 3, **others)
            assert torch.equal(found, getattr(ours, name)(q, q, q, 3))
    assert defaults(ours.merge_attentions) == defaults(natten.merge_attentions)


@pytest.mark.parametrize("additional", [False, True])
@pytest.mark.parametrize(
    ("spatial", "arguments"),
    [
        ((13,), (4, 2, 2, True, 0.4)),
        ((9, 8), (5,)),
        ((9, 8), ((3, 4), (2, 1), (3, 2), (False, True))),
        ((5, 6, 7), ((3, 2, 5), (1, 2, 4), (1, 2, 1), (True, False, False), None)),
    ],
)
def test_functions_give_the_same(
    spatial: tuple[int, ...], arguments: tuple[Any, ...], additional: bool
) -> None:
    name = f"na{len(spatial)}d"
    problem = problem_of(spatial, *arguments[:4])
    drawn = inputs(problem)
    drawn = replace(drawn, scale=(arguments[4:] or (None,))[0] or drawn.scale)
    options: dict[str, Any] = {"return_lse": True, "backend": "flex-fna"}
    expected = expected_forward(problem, drawn)
    if additional:
        more = tokens(problem, 3, 0)
        options |= {"additional_keys": put(more[0]), "additional_values": put(more[1])}
        exact, rounded = (
            with_more(problem, drawn, more, how) for how in (EXACT, emulation(problem.dtype))
        )
        sizes = {"out": exact[2], "lse": abs(exact[1]) + 1}
        expected = {
            name: Expected(name, "float32", exact[i], rounded[i], sizes[name])
            for i, name in enumerate(("out", "lse"))
        }
    for library in (ours, natten):
        with torch.no_grad():
            out, lse = getattr(library, name)(
                *map(put, (drawn.q, drawn.k, drawn.v)), *arguments, **options
            )
        expected["out"].check(get(out))
        expected["lse"].check(get(lse))


def problem_of(
    spatial: tuple[int, ...], kernel_size: Any, stride: Any = 1, dilation: Any = 1,
    is_causal: Any = False,
) -> Problem:  # fmt: skip
    window = (
        option if isinstance(option, tuple) else (option,) * len(spatial)
        for option in (kernel_size, stride, dilation, is_causal)
    )
    return Problem(2, spatial, 4, 4, 8, 8, "float32", *window)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_layers_give_the_same_with_the_same_weights(rank: int) -> None:
    name = f"NeighborhoodAttention{rank}D"
    arguments = (16, 2, 4, 2, 1, rank == 1, True, 0.3)
    mine, theirs = (getattr(library, name)(*arguments) for library in (ours, natten))
    mine.load_state_dict(theirs.state_dict())
    spatial = (9, 6, 5)[:rank]
    x = torch.randn(2, *spatial, 16)
    problem = problem_of(spatial, 4, 2, 1, rank == 1)
    weights = {key: get(tensor) for key, tensor in theirs.state_dict().items()}
    exact = layer_of(problem, weights, get(x), np.float64)
    rounded = layer_of(problem, weights, get(x), np.float32)
    size = np.abs(rounded) + layer_of(problem, weights, get(x), np.float64, np.abs)
    expected = Expected(name, "float32", exact, rounded, size)
    with torch.no_grad():
        expected.check(get(mine(x)))
        expected.check(get(theirs(x)))


def layer_of(
    problem: Problem, weights: dict[str, np.ndarray], x: np.ndarray, wide: Any,
    size: Any = np.asarray,
) -> np.ndarray:  # fmt: skip
    """A layer of two heads with a scale of 0.3; with `np.abs` the last terms' absolute sums."""
    w = {key: array.astype(wide) for key, array in weights.items()}
    qkv = x.astype(wide) @ w["qkv.weight"].T + w["qkv.bias"]
    q, k, v = np.moveaxis(qkv.reshape(*x.shape[:-1], 3, 2, 8), -3, 0)
    how = EXACT if wide == np.float64 else emulation("float32")
    out, _ = reference.forward(replace(problem, heads=2, kv_heads=2), 0.3, q, k, v, None, how)
    out = size(out.astype(wide).reshape(x.shape))
    found: np.ndarray = out @ size(w["proj.weight"]).T + size(w["proj.bias"])
    return found
