"""The benchmark of whole models, on a small one on the CPU, beside stand-ins for peers."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from cupyna import cli  # noqa: E402
from cupyna.profiling import models as profiling  # noqa: E402
from cupyna.profiling.peers import layers  # noqa: E402
from cupyna.torch import models, na2d  # noqa: E402

from .unfused_api import API  # noqa: E402

pytestmark = pytest.mark.torch

TINY = models.Layout(8, (1, 1), (2, 4), 2.0, 0.0, kernel_size=3, image_size=32)


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "LAYOUTS", {"tiny": TINY})
    monkeypatch.setattr(profiling, "_SAMPLE_MS", 1.0)


def plan(**changes: Any) -> profiling.Plan:
    options: dict[str, Any] = {
        "models": ["tiny"], "methods": ["naive", "gemm", "fused"], "dtypes": ["float32"],
        "batch": 2, "rounds": 2, "device": "cpu",
    }  # fmt: skip
    return profiling.Plan(**{**options, **changes})


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_model_is_timed_with_each_method(training: bool, dtype: str) -> None:
    missing = f"natten-gemm={Path(__file__).parent}"
    (times,) = profiling.measure(plan(training=training, dtypes=[dtype], peers=[missing]))
    assert set(times.images_per_s) == {"naive", "gemm", "fused"}
    assert all(rate > 0 for rate in times.images_per_s.values())
    assert "no api.py" in times.refusals["natten-gemm"]
    assert times.wrong == []


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    module = types.ModuleType("natten")
    module.__version__, module.HAS_LIBNATTEN, module.na2d = "0.99", True, na2d
    monkeypatch.setitem(sys.modules, "natten", module)
    (tmp_path / "api.py").write_text(API)
    return ["natten", f"natten-naive={tmp_path}"]


@pytest.mark.parametrize("training", [False, True])
def test_peers_are_timed_beside_them(training: bool, peers: list[str]) -> None:
    found = profiling.measure(plan(training=training, peers=peers, dtypes=["float32", "float16"]))
    for times in found:
        assert {"natten", "natten-naive"} < set(times.images_per_s)
        assert times.wrong == [] and times.refusals == {}
    layers.attend_by.cache_clear()


def test_a_peer_with_wrong_gradients_is_named(peers: list[str]) -> None:
    peer = peers[1]
    attend = layers.attend_by(peer)
    (times,) = profiling.measure(plan(training=True, methods=["naive"], peers=[peer]))
    assert times.wrong == []

    def wrong(q: Any, k: Any, *rest: Any, **options: Any) -> Any:
        return attend(q, k.detach(), *rest, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layers, "attend_by", lambda peer: wrong)
        (times,) = profiling.measure(plan(training=True, methods=["naive"], peers=[peer]))
        assert times.wrong == ["natten-naive"] and times.errors["natten-naive"] > 0.1
        assert times.to_json()["wrong"] == ["natten-naive"]
        (times,) = profiling.measure(plan(methods=["naive"], peers=[peer]))
        assert times.wrong == []


@pytest.mark.parametrize("training", [False, True])
def test_wrong_answers_are_not_timed(training: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def use(model: Any, method: str) -> None:
        model.head.bias.data.fill_(1.0 if method == "fused" else 0.0)
        model.head.bias.data[0] = 2.0 if method == "fused" else 0.0

    monkeypatch.setattr(profiling, "_use", use)
    with pytest.raises(RuntimeError, match=r"fused errs by .* in tiny"):
        list(profiling.measure(plan(training=training)))


def test_answers_are_compared_without_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    convolutions = torch.backends.cudnn
    monkeypatch.setattr(convolutions, "allow_tf32", True)
    allowed: dict[str, bool] = {}

    def watch(step: str) -> None:
        real = getattr(profiling, step)

        def watched(*arguments: Any) -> Any:
            allowed[step] = convolutions.allow_tf32
            return real(*arguments)

        monkeypatch.setattr(profiling, step, watched)

    watch("_answers")
    watch("_inference")
    list(profiling.measure(plan(methods=["naive"])))
    assert allowed == {"_answers": False, "_inference": True}


def test_training_leaves_the_weights_to_the_next_method(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[Any] = []
    make = profiling._training_step

    def watched(model: Any, *rest: Any) -> Any:
        kept.append((model, {name: w.clone() for name, w in model.state_dict().items()}))
        return make(model, *rest)

    monkeypatch.setattr(profiling, "_training_step", watched)
    list(profiling.measure(plan(training=True, methods=["naive"])))
    for model, weights in kept:
        assert all(torch.equal(w, weights[name]) for name, w in model.state_dict().items())


def test_tables_have_the_form_of_the_papers() -> None:
    rows = [
        {"model": "nat_mini", "dtype": "float16", "batch": 128, "what": "inference",
         "images_per_s": {"naive": 1000.0, "gemm": 800.0, "fused": 1500.0}, "wrong": ["gemm"]},
        {"model": "dinat_mini", "dtype": "float16", "batch": 128, "what": "inference",
         "images_per_s": {"naive": 900.0, "fused": 1800.0}},
    ]  # fmt: skip
    table = profiling.markdown({"measurements": rows})
    assert "| nat_mini | 128 | 1000 (+50 %) | 800* (+88 %) | 1500 |" in table
    assert "| dinat_mini | 128 | 900 (+100 %) | - | 1800 |" in table
    assert "| mean gain | | +75 % | +88 % |  |" in table


def test_the_command_writes_what_it_measured(tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "models.json"
    words = ["bench", "models", "--model", "tiny", "--method", "naive", "--method", "fused"]
    words += ["--dtype", "float32", "--batch", "1", "--rounds", "1", "--device", "cpu"]
    with pytest.raises(SystemExit) as exit_:
        cli.main([*words, "--out", str(out)])
    assert exit_.value.code == 0
    (row,) = json.loads(out.read_text())["measurements"]
    assert set(row["images_per_s"]) == {"naive", "fused"}
    assert "| tiny | 1 |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("option", "value"), [("--model", "vit"), ("--method", "natten"), ("--peer", "flex")]
)
def test_what_is_unknown_is_refused(option: str, value: str, capsys: Any) -> None:
    with pytest.raises(SystemExit) as exit_:
        cli.main(["bench", "models", option, value])
    assert exit_.value.code == 2
    assert value in capsys.readouterr().err
