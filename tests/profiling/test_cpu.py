"""The CPU path keeps its promises on two cores: time beside its peers, and memory."""

from __future__ import annotations

import pytest

from cupyna.profiling.cpu import Measurement, measure

pytestmark = [pytest.mark.benchmark, pytest.mark.slow, pytest.mark.torch]


@pytest.fixture(scope="module")
def measured() -> Measurement:
    return measure()


def test_far_faster_than_a_dense_mask(measured: Measurement) -> None:
    assert measured.speedup("NumPy, dense mask") >= 100


def test_faster_than_compiled_flex_attention(measured: Measurement) -> None:
    assert measured.speedup("torch FlexAttention") >= 2


def test_little_memory_beside_the_output(measured: Measurement) -> None:
    assert measured.peak_bytes <= measured.out_bytes + measured.threads * (64 << 20)
