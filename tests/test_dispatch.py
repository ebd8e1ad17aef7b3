"""Which backend `method="auto"` prefers on a GPU, without one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cupyna.dispatch import candidates, select
from cupyna.explanation import Explanation
from cupyna.problem import Problem
from cupyna.profiling.gpus import GPUS

H200 = GPUS["H200"].spec
IMAGE = Problem(16, (64, 64), 16, 16, 64, 64, "float16", (13, 13), (1, 1), (1, 1), (False, False))


def test_what_stores_no_weights_comes_first() -> None:
    assert select(IMAGE, "forward", H200, None).method == "fused"
    tiny = replace(IMAGE, batch=1, spatial=(8, 8), kernel_size=(3, 3))
    assert select(tiny, "forward", H200, None).method == "fused"


def test_unless_another_is_expected_to_be_faster_by_far() -> None:
    apart = replace(
        IMAGE, batch=1, spatial=(4096,), kernel_size=(7,), stride=(1,), dilation=(585,),
        is_causal=(False,), head_dim=136, value_dim=136,
    )  # fmt: skip
    for operation in ("forward", "backward"):
        first, *others = candidates(apart, operation, H200)
        assert first.name == "cuda-naive" and first.choice is not None
        fused = next(other for other in others if other.method == "fused" and other.choice)
        assert fused.choice is not None and first.choice.time_us < 0.75 * fused.choice.time_us
    assert select(apart, "forward", H200, "fused").method == "fused"


def test_what_copies_arrays_is_weighed_with_what_stores_weights() -> None:
    ragged = replace(IMAGE, head_dim=20, value_dim=20, has_vector_rows=False)
    times = [
        answer.choice.time_us
        for answer in candidates(ragged, "forward", H200)
        if answer.choice is not None
    ]
    assert len(times) == 3 and times == sorted(times)


@pytest.mark.parametrize("gpu", ["H200", "A100"])
@pytest.mark.parametrize("size", [3, 7, 13, 31, 63])
def test_of_a_method_the_least_expected_time_wins(gpu: str, size: int) -> None:
    device = GPUS[gpu].spec
    problem = replace(IMAGE, kernel_size=(size, size))
    for operation in ("forward", "backward"):
        times = {
            answer.name: answer.choice.time_us
            for answer in candidates(problem, operation, device)
            if answer.method == "fused" and answer.choice is not None
        }
        assert len(times) >= 2
        assert select(problem, operation, device, "fused").name == min(times, key=times.__getitem__)


def test_explanations_hold_both_times() -> None:
    answers = [candidates(IMAGE, operation, H200) for operation in ("forward", "backward")]
    text = str(Explanation(IMAGE, H200, None, *answers))
    assert "-> cuda-hopper-window" in text and "where cuda-hopper-window takes 3" in text


def test_what_counts_in_32_bits_is_refused_arrays_of_long_steps() -> None:
    far = replace(IMAGE, has_short_steps=False)
    refused = {answer.name: answer.refusals for answer in candidates(far, "forward", H200)}
    assert "less than 2 GiB apart" in refused["cuda-direct"][0]
    assert refused["cuda-window"] == refused["cuda-fused"] == ()
