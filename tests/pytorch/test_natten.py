"""A NATTEN user changes the import and nothing else: both are called in the same words."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch")
try:
    import natten
except ImportError:
    natten = None

import cupyna.torch as ours  # noqa: E402

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
    q, k, v = torch.randn(3, 2, *spatial, 4, 8)
    options: dict[str, Any] = {"return_lse": True, "backend": "flex-fna"}
    if additional:
        more = torch.randn(2, 2, 3, 4, 8)
        options |= {"additional_keys": more[0], "additional_values": more[1]}
    with torch.no_grad():
        mine = getattr(ours, name)(q, k, v, *arguments, **options)
        theirs = getattr(natten, name)(q, k, v, *arguments, **options)
    torch.testing.assert_close(mine[0], theirs[0])
    torch.testing.assert_close(mine[1], theirs[1])


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_layers_give_the_same_with_the_same_weights(rank: int) -> None:
    name = f"NeighborhoodAttention{rank}D"
    arguments = (16, 2, 4, 2, 1, rank == 1, True, 0.3)
    mine, theirs = (getattr(library, name)(*arguments) for library in (ours, natten))
    mine.load_state_dict(theirs.state_dict())
    x = torch.randn(2, *(9, 6, 5)[:rank], 16)
    with torch.no_grad():
        torch.testing.assert_close(mine(x), theirs(x))
