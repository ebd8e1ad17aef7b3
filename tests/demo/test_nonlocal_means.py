"""Neighborhood attention over patches is non-local means, with any number of axes."""

from __future__ import annotations

import numpy as np
import pytest

from cupyna.demo import nonlocal_means
from cupyna.demo.nonlocal_means import NonLocalMeans
from cupyna.testing import assert_within_rounding

METHOD = {1: NonLocalMeans(9, 5, 0.1, 0.8), 2: NonLocalMeans(7, 3, 0.1, 0.7)}
METHOD[3] = NonLocalMeans(3, 3, 0.1, 0.6)
SHAPES = [(40, 1), (23, 2), (13, 9, 3), (7, 12, 1), (5, 6, 4, 1)]


def noisy_data(shape: tuple[int, ...]) -> np.ndarray:
    random = np.random.default_rng(7)
    ramp = np.linspace(0.2, 0.9, int(np.prod(shape))).reshape(shape)
    return (ramp + 0.1 * random.standard_normal(shape)).astype(np.float32)


def patches(noisy: np.ndarray, size: int, dtype: type) -> np.ndarray:
    """``[tokens, elements]``, centered."""
    rank = noisy.ndim - 1
    wide = noisy.astype(np.float64)
    wide -= wide.mean(axis=tuple(range(rank)))
    mirrored = np.pad(wide, [(size // 2,) * 2] * rank + [(0, 0)], mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(mirrored, (size,) * rank, tuple(range(rank)))
    return windows.reshape(int(np.prod(noisy.shape[:-1])), -1).astype(dtype)


def window_mask(spatial: tuple[int, ...], kernel_size: int) -> np.ndarray:
    """Whether token j is in the search window of token i, ``[tokens, tokens]``."""
    places = np.stack(np.unravel_index(np.arange(np.prod(spatial)), spatial), -1)
    begins = np.clip(places - kernel_size // 2, 0, np.array(spatial) - kernel_size)[:, None]
    return ((places >= begins) & (places < begins + kernel_size)).all(-1)


def by_definition(method: NonLocalMeans, noisy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairwise distances and explicit weights in float64; and the sum of absolute terms."""
    flat = patches(noisy, method.patch_size, np.float64)
    h = method.bandwidth * method.sigma
    distances = np.square(flat[:, None] - flat).mean(-1)
    np.fill_diagonal(distances, 2 * method.sigma**2)
    weights = np.where(window_mask(noisy.shape[:-1], method.kernel_size), 1.0, 0.0)
    weights *= np.exp(-distances / h**2)
    weights /= weights.sum(-1, keepdims=True)
    values = noisy.reshape(len(flat), -1).astype(np.float64)
    return (weights @ values).reshape(noisy.shape), (weights @ abs(values)).reshape(noisy.shape)


def in_float32(method: NonLocalMeans, noisy: np.ndarray) -> np.ndarray:
    """The documented formula, dense and rounded to float32 at every step."""
    flat = patches(noisy, method.patch_size, np.float32)
    h = method.bandwidth * method.sigma
    scale = np.float32(2 / (h**2 * flat.shape[1]))
    norms = np.square(flat).sum(-1)
    scores = scale * (flat @ flat.T - norms / 2)
    scores = np.where(window_mask(noisy.shape[:-1], method.kernel_size), scores, -np.inf)
    largest = scores.max(-1)
    lse = largest + np.log(np.exp(scores - largest[:, None]).sum(-1))
    values = noisy.reshape(len(flat), -1)
    average = np.exp(scores - lse[:, None]) @ values
    own = np.exp(np.minimum(scale / 2 * norms - lse, 0))
    excess = np.float32(1 - np.exp(-2 / method.bandwidth**2)) * own
    return (values + (average - values) / (1 - excess)[:, None]).reshape(noisy.shape)


def check(method: NonLocalMeans, noisy: np.ndarray) -> None:
    exact, magnitude = by_definition(method, noisy)
    actual = method.denoise(np, noisy)
    assert_within_rounding(actual, exact, in_float32(method, noisy), magnitude, "float32")


@pytest.mark.parametrize("shape", SHAPES)
def test_is_non_local_means(shape):
    check(METHOD[len(shape) - 1], noisy_data(shape))


@pytest.mark.parametrize("shape", [(40, 1), (31, 9, 1), (11, 4, 4, 1)])
def test_bands_change_nothing(shape, monkeypatch):
    method, noisy = METHOD[len(shape) - 1], noisy_data(shape)
    monkeypatch.setattr(nonlocal_means, "_MOST_ELEMENTS", 1)
    shares = []
    method.denoise(np, noisy, shares.append)
    assert len(shares) > 2
    assert sum(shares) == pytest.approx(1)
    check(method, noisy)


def test_a_lone_pixel_keeps_its_value():
    """Nothing looks like it, so there is nothing to average with; no division blows it up."""
    noisy = np.zeros((12, 12, 1), np.float32)
    noisy[6, 6] = 50
    denoised = NonLocalMeans(7, 3, 0.1, 0.4).denoise(np, noisy)
    assert denoised[6, 6] == 50
    assert np.isfinite(denoised).all()


def test_constant_data_stays_constant():
    noisy = np.full((12, 12, 3), 0.3, np.float32)
    assert np.array_equal(METHOD[2].denoise(np, noisy), noisy)
