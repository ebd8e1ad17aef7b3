"""The benchmark of whole models, on a small one on the CPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from cupyna import cli  # noqa: E402
from cupyna.profiling import models as profiling  # noqa: E402
from cupyna.torch import models  # noqa: E402

pytestmark = pytest.mark.torch

TINY = models.Layout(8, (1, 1), (2, 4), 2.0, 0.0, kernel_size=3, image_size=32)


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "LAYOUTS", {"tiny": TINY})
    monkeypatch.setattr(profiling, "_SAMPLE_MS", 1.0)


def plan(**changes: Any) -> profiling.Plan:
    options: dict[str, Any] = {
        "models": ["tiny"], "methods": ["naive", "fused", "natten"], "dtypes": ["float32"],
        "batch": 2, "rounds": 2, "device": "cpu",
    }  # fmt: skip
    return profiling.Plan(**{**options, **changes})


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_model_is_timed_with_each_method(training: bool, dtype: str) -> None:
    (times,) = profiling.measure(plan(training=training, dtypes=[dtype]))
    assert set(times.images_per_s) == {"naive", "fused"}
    assert all(rate > 0 for rate in times.images_per_s.values())
    assert "natten" in times.refusals


def test_wrong_answers_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def use(model: Any, method: str) -> None:
        model.head.bias.data.fill_(1.0 if method == "fused" else 0.0)

    monkeypatch.setattr(profiling, "_use", use)
    with pytest.raises(RuntimeError, match=r"fused errs by .* in tiny"):
        list(profiling.measure(plan()))


def test_tables_have_the_form_of_the_papers() -> None:
    rows = [
        {"model": "nat_mini", "dtype": "float16", "batch": 128, "what": "inference",
         "images_per_s": {"naive": 1000.0, "gemm": 800.0, "fused": 1500.0}},
        {"model": "dinat_mini", "dtype": "float16", "batch": 128, "what": "inference",
         "images_per_s": {"naive": 900.0, "fused": 1800.0}},
    ]  # fmt: skip
    table = profiling.markdown({"measurements": rows})
    assert "| nat_mini | 128 | 1000 (+50 %) | 800 (+88 %) | 1500 |" in table
    assert "| dinat_mini | 128 | 900 (+100 %) | - | 1800 |" in table


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


def test_an_unknown_model_is_refused(capsys: Any) -> None:
    with pytest.raises(SystemExit) as exit_:
        cli.main(["bench", "models", "--model", "vit"])
    assert exit_.value.code == 2
    assert "vit" in capsys.readouterr().err
