"""What is timed computes what it should: here on the CPU, with the same code as on a GPU."""

from __future__ import annotations

import numpy as np
import pytest

from cupyna import api
from cupyna.arrays import Device
from cupyna.devices import device_spec
from cupyna.dispatch import backends
from cupyna.problem import METHODS, Problem
from cupyna.profiling.checks import Check
from cupyna.profiling.implementations import DIRECTIONS, PIECES, Refused, Work, ours
from cupyna.profiling.meter import random_tensors
from cupyna.profiling.peers import PEERS, load
from cupyna.profiling.peers.dense import Dense
from cupyna.profiling.peers.flex import _block_mask, mask_function, tile_of, token_order

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

CPU = device_spec(Device("cpu", 0))


def _problem(**changes: object) -> Problem:
    fields = {
        "batch": 2, "spatial": (8, 16), "heads": 2, "kv_heads": 2, "head_dim": 8, "value_dim": 8,
        "dtype": "float32", "kernel_size": (3, 5), "stride": (1, 1), "dilation": (1, 1),
        "is_causal": (False, False),
    }  # fmt: skip
    return Problem(**{**fields, **changes})


def _tensors(problem: Problem) -> dict[str, object]:
    generator = torch.Generator().manual_seed(0)
    shape = (problem.batch, *problem.spatial, problem.heads, problem.head_dim)
    dtype = getattr(torch, problem.dtype)
    return {
        name: (torch.randn(shape, generator=generator) + 0.25).to(dtype)
        for name in ("q", "k", "v", "dout")
    }


NAMES = (*METHODS, *(backend.name for backend in backends("cpu")))


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("name", NAMES)
def test_methods_and_forced_backends_give_right_results(name: str, direction: str) -> None:
    problem = _problem(stride=(2, 1), dilation=(2, 3), is_causal=(True, False))
    tensors = _tensors(problem)
    (implementation,) = ours([name], CPU)
    work = implementation.work(problem, tensors, direction)
    results = work.read(work.run())
    assert set(results) == ({"out"} if direction == "forward" else {"dq", "dk", "dv"})
    found = Check(problem, tensors).deviations(results)
    assert not any(deviation.complaint for deviation in found.values())
    assert all(about["backend"] and about["kernel"] for about in work.about.values())
    assert implementation.memory_bytes(problem, direction) >= 0


def test_the_deterministic_way_stands_beside_the_usual_one(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = _problem()
    asked = []
    for name in ("neighborhood_attention", "neighborhood_attention_backward"):
        call = getattr(api, name)
        monkeypatch.setattr(
            api, name, lambda *a, c=call, **k: asked.append(k["deterministic"]) or c(*a, **k)
        )
    found = ours(["fused", "gemm", "cpu-fused"], CPU, deterministic=True)
    assert [one.name for one in found] == ["fused", "fused, deterministic", "gemm", "cpu-fused"]
    for implementation in found[:2]:
        implementation.work(problem, _tensors(problem), "forward+backward").run()
    assert asked == [False, False, True, True]


def test_other_libraries_expect_no_time() -> None:
    assert Work(lambda: None, lambda _: {}, {"backend": "hopper-fna"}).expected_us == 0
    (fused,) = ours(["fused"], CPU)
    problem = _problem()
    work = fused.work(problem, _tensors(problem), "forward+backward")
    assert work.expected_us == sum(part["expected_us"] for part in work.about.values())


@pytest.mark.parametrize("piece", PIECES)
@pytest.mark.parametrize("name", ["naive", "gemm"])
def test_single_products_are_checked_as_what_they_are(name: str, piece: str) -> None:
    problem = _problem(stride=(2, 1), dilation=(2, 3), is_causal=(True, False))
    tensors = _tensors(problem)
    shape = (problem.batch, *problem.spatial, problem.heads, problem.window)
    tensors["weights"] = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    (implementation,) = ours([name], CPU)
    work = implementation.work(problem, tensors, piece)
    results = dict(work.read(work.run()))
    check = Check(problem, tensors)
    found = check.deviations(results, piece)
    assert found and not any(deviation.complaint for deviation in found.values())
    for result in results.values():
        result.view(-1)[-1] = 100.0
    found = check.deviations(results, piece)
    assert all(deviation.complaint for deviation in found.values())


@pytest.mark.parametrize("name", ["naive", "fused"])
def test_tokens_beside_the_grid_are_seen_by_every_query(name: str) -> None:
    problem = _problem(is_causal=(False, True))
    tensors = random_tensors(problem, sinks=3, place="cpu")
    (implementation,) = ours([name], CPU)
    work = implementation.work(problem, tensors, "forward")
    out = work.read(work.run())["out"]
    assert not Check(problem, tensors).deviations({"out": out})["out"].complaint
    without = {part: tensor for part, tensor in tensors.items() if "sink" not in part}
    assert Check(problem, without).deviations({"out": out})["out"].complaint
    with pytest.raises(Refused):
        implementation.work(problem, tensors, "backward")


def test_single_products_need_stored_weights() -> None:
    problem = _problem(dtype="bfloat16")
    tensors = {**_tensors(problem), "weights": torch.ones(2, 8, 16, 2, 15, dtype=torch.bfloat16)}
    for implementation in (*ours(["fused", "cpu-naive"], CPU), Dense("dense", "MATH")):
        with pytest.raises(Refused):
            implementation.work(problem, tensors, "qk")


def test_an_unknown_method_is_named() -> None:
    with pytest.raises(ValueError, match="method must be one of naive, gemm, fused, "):
        ours(["fastest"], CPU)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_dense_attention_is_checked_as_what_it_is(direction: str) -> None:
    problem = _problem(dtype="bfloat16")
    tensors = _tensors(problem)
    dense = Dense("dense", "MATH")
    work = dense.work(problem, tensors, direction)
    found = Check(dense.computes(problem), tensors).deviations(work.read(work.run()))
    assert not any(deviation.complaint for deviation in found.values())
    with pytest.raises(Refused, match="float32"):
        dense.work(_problem(), _tensors(_problem()), direction)


@pytest.mark.parametrize("is_tiled", [False, True])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"spatial": (6, 10), "kernel_size": (4, 3), "dilation": (1, 3), "stride": (2, 1)},
        {"spatial": (16, 8), "is_causal": (True, False), "stride": (1, 2)},
        {"spatial": (40, 20)},
    ],
)
def test_the_mask_of_flex_attention_is_the_neighborhood(
    changes: dict[str, object], is_tiled: bool
) -> None:
    problem = _problem(**changes)
    tile = tile_of(problem) if is_tiled else (1, 1)
    order = torch.from_numpy(token_order(problem.spatial, tile))
    along = [np.zeros((axis.length,) * 2, bool) for axis in problem.axes]
    for seen, axis in zip(along, problem.axes, strict=True):
        tokens, is_key = axis.neighbors()
        np.put_along_axis(seen, tokens, is_key, axis=1)
        seen |= np.array([np.bincount(t[m], minlength=axis.length) > 0
                          for t, m in zip(tokens, is_key, strict=True)])  # fmt: skip
    expected = torch.from_numpy(np.kron(*along))[order][:, order]
    places = torch.arange(problem.tokens)
    sees = mask_function(problem, tile, "cpu")
    assert torch.equal(sees(0, 0, places[:, None], places[None]), expected)
    mask = _block_mask(problem, tile, torch.device("cpu"))
    blocks = -(-problem.tokens // 128)
    padded = torch.zeros(blocks * 128, blocks * 128, dtype=torch.bool)
    padded[: problem.tokens, : problem.tokens] = expected
    by_block = padded.view(blocks, 128, blocks, 128)
    assert torch.equal(mask.to_dense()[0, 0].bool(), by_block.any(3).any(1))


def test_the_order_of_tiles_names_every_token_once() -> None:
    order = token_order((4, 6), (2, 3))
    assert sorted(order) == list(range(24))
    assert list(order[:6]) == [0, 1, 2, 6, 7, 8]
    assert tile_of(_problem(spatial=(56, 56))) == (8, 8)
    assert tile_of(_problem(spatial=(256, 256))) == (8, 16)


def test_a_missing_peer_is_told_and_an_unknown_one_refused(tmp_path) -> None:
    found, missing = load(["cudnn", f"natten-naive={tmp_path}", "flex-tiled"])
    assert [peer.name for peer in found] == ["cuDNN, dense", "FlexAttention, tiled order"]
    assert "api.py" in missing["natten-naive"]
    assert all(not peer.is_ours for peer in found)
    with pytest.raises(ValueError, match=", ".join(PEERS)):
        load(["xformers"])
