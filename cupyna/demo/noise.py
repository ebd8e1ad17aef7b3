"""The noise that is added, and how much of it a result still has."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Quality", "add_noise", "quality"]


@dataclass(frozen=True, slots=True)
class Quality:
    """Closeness to the clean data: PSNR in dB, and the structural similarity, 1 at best."""

    psnr_db: float
    ssim: float


def add_noise(clean: np.ndarray, sigma: float, seed: int) -> np.ndarray:
    """White Gaussian noise, the same for a seed; values may leave the range of the clean data."""
    noise = np.random.default_rng(seed).standard_normal(clean.shape, np.float32)
    noise *= np.float32(sigma)
    noise += clean
    return noise


def quality(clean: np.ndarray, other: np.ndarray) -> Quality:
    """Compare data of shape ``[*spatial, channels]`` whose clean values lie between 0 and 1."""
    from skimage import metrics

    if clean.shape[-1] == 1:
        clean, other, channel_axis = clean[..., 0], other[..., 0], None
    else:
        channel_axis = -1
    return Quality(
        float(metrics.peak_signal_noise_ratio(clean, other, data_range=1)),
        float(metrics.structural_similarity(clean, other, data_range=1, channel_axis=channel_axis)),
    )
