"""A training run on real data: a small NAT learns scikit-learn's digits."""

from __future__ import annotations

import functools

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")

from cupyna.demo.digits import Training, train  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.slow]

METHODS = ("naive", "gemm", "fused")


@functools.cache
def trained(method: str) -> Training:
    """One run on one thread: tiles of 64 tokens are too small to share."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("CUPYNA_NUM_THREADS", "1")
            return train(method)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("method", METHODS)
def test_a_small_nat_learns_the_digits(method: str) -> None:
    training = trained(method)
    assert training.accuracy >= 0.95
    assert training.losses[-1] < 0.15 * training.losses[0]


def test_the_methods_learn_the_same() -> None:
    """Their runs differ by rounding alone, which training amplifies: a few images at most."""
    accuracies = [trained(method).accuracy for method in METHODS]
    assert max(accuracies) - min(accuracies) <= 0.02
