"""The digits again, trained on a GPU."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")

from cupyna.demo.digits import train  # noqa: E402

pytestmark = [pytest.mark.gpu, pytest.mark.torch, pytest.mark.slow]


@pytest.mark.parametrize(
    ("method", "dtype"),
    [
        ("naive", "float32"),
        ("gemm", "float32"),
        ("fused", "float32"),
        ("gemm", "float16"),
        ("fused", "float16"),
        ("fused", "bfloat16"),
    ],
)
def test_a_small_nat_learns_the_digits(method: str, dtype: str) -> None:
    assert train(method, "cuda", dtype).accuracy >= 0.95
