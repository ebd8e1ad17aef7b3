"""Peers are called in their own layouts and give results in ours; stand-ins take their place."""

from __future__ import annotations

import sys
import types

import pytest

from cupyna.problem import Problem
from cupyna.profiling.checks import Check
from cupyna.profiling.implementations import DIRECTIONS, PIECES, Refused
from cupyna.profiling.meter import random_tensors
from cupyna.profiling.peers import load, natten
from cupyna.profiling.peers.flex import Flex

from .unfused_api import API

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

PROBLEM = Problem(
    batch=2, spatial=(8, 16), heads=2, kv_heads=2, head_dim=8, value_dim=8, dtype="float32",
    kernel_size=(3, 5), stride=(1, 1), dilation=(2, 3), is_causal=(False, False),
)  # fmt: skip


def _check(peer, direction: str, problem: Problem = PROBLEM) -> None:
    tensors = random_tensors(problem, with_weights=direction in PIECES, place="cpu")
    work = peer.work(problem, tensors, direction)
    results = dict(work.read(work.run()))
    found = Check(peer.computes(problem), tensors).deviations(results, direction)
    assert found
    assert not any(deviation.complaint for deviation in found.values())


@pytest.mark.parametrize("direction", [*DIRECTIONS, *PIECES])
def test_unfused_kernels_are_called_heads_first(direction: str, tmp_path) -> None:
    (tmp_path / "api.py").write_text(API)
    (peer,), missing = load([f"natten-naive={tmp_path}"])
    assert not missing
    _check(peer, direction)
    assert peer.memory_bytes(PROBLEM, direction) > 0


def _natten_module() -> types.ModuleType:
    """A NATTEN of two backends, one without configurations for this GPU."""
    module = types.ModuleType("natten")
    module.__version__, module.HAS_LIBNATTEN = "0.99", True
    module.calls = []

    def na2d(q, k, v, *, backend, kernel_size, stride, dilation, is_causal, **tiles):
        from cupyna.torch import neighborhood_attention

        module.calls.append((backend, tiles))
        if tiles.get("q_tile_shape") == (1, 1):
            raise RuntimeError("was not compiled into this subset")
        return neighborhood_attention(q, k, v, kernel_size, stride, dilation, is_causal)

    module.na2d = na2d
    module.get_configs_for_cutlass_hopper_fna = lambda q, k, v: []
    module.get_configs_for_cutlass_fna = lambda q, k, v: [
        ((8, 8), (16, 4)), ((1, 1), (8, 8)), ((4, 16), (8, 8)), ((8, 16), (16, 4))
    ]  # fmt: skip
    module.get_bwd_configs_for_cutlass_fna = lambda q, k, v: [((8, 4), (8, 4)), ((4, 8), (4, 8))]
    return module


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_natten_runs_at_its_fastest_tiles(direction: str, monkeypatch) -> None:
    module = _natten_module()

    class Clock:
        """Tells the shapes of the last call apart, as if some were slow."""

        def __init__(self, runs) -> None:
            runs[0]()
            shapes = set(module.calls[-1][1].values())
            self.call_us = 5.0 if shapes & {(16, 4), (8, 4)} else 1.0

    monkeypatch.setitem(sys.modules, "natten", module)
    monkeypatch.setattr(natten, "Repeat", Clock)
    monkeypatch.setattr(natten, "_TRIES_S", 60.0)  # a slow machine, too, tries them all
    (peer,), missing = load(["natten"])
    assert not missing and peer.name == "NATTEN 0.99"
    _check(peer, direction)
    backend, tiles = module.calls[-1]
    assert backend == "cutlass-fna"
    if direction != "backward":
        assert tiles["q_tile_shape"] == (4, 16)
    if direction != "forward":
        assert tiles["backward_q_tile_shape"] == (4, 8)
    count = len(module.calls)
    peer.work(PROBLEM, random_tensors(PROBLEM, place="cpu"), direction)
    assert len(module.calls) <= count + 1  # tiles are tried once for each problem


def test_natten_without_kernels_for_the_gpu_refuses(monkeypatch) -> None:
    module = _natten_module()
    module.get_configs_for_cutlass_fna = lambda q, k, v: []
    monkeypatch.setitem(sys.modules, "natten", module)
    (peer,), _ = load(["natten"])
    with pytest.raises(Refused, match="no kernels"):
        peer.work(PROBLEM, random_tensors(PROBLEM, place="cpu"), "forward")
    module.HAS_LIBNATTEN = False
    assert "without its kernels" in load(["natten"])[1]["natten"]


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("is_tiled", [False, True])
def test_flex_attention_gives_results_in_our_order(is_tiled: bool, monkeypatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    _check(Flex(is_tiled), "forward")
