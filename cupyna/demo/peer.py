"""The same job by scikit-image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .sample import Sample

__all__ = ["Peer", "peer_of"]

# h / sigma, the strength that scikit-image's example recommends for the fast mode.
_BANDWIDTH = 0.6


@dataclass(frozen=True, slots=True)
class Peer:
    """A denoiser of scikit-image.

    Parameters
    ----------
    name : str
    denoise : callable
        From float32 of shape ``[*spatial, channels]`` to the same.
    """

    name: str
    denoise: Callable[[np.ndarray], np.ndarray]


def peer_of(sample: Sample, sigma: float) -> Peer:
    """What scikit-image offers for the sample: its non-local means takes two or three axes."""

    def nonlocal_means(noisy: np.ndarray) -> np.ndarray:
        from skimage.restoration import denoise_nl_means

        gray = noisy.shape[-1] == 1
        denoised: np.ndarray = denoise_nl_means(
            noisy[..., 0] if gray else noisy,
            patch_size=sample.patch_size,
            patch_distance=sample.kernel_size // 2,
            h=_BANDWIDTH * sigma,
            sigma=sigma,
            fast_mode=True,
            channel_axis=None if gray else -1,
        )
        return denoised.reshape(noisy.shape)

    def wavelets(noisy: np.ndarray) -> np.ndarray:
        from skimage.restoration import denoise_wavelet

        # sym8 and rescaling do better on the electrocardiogram than the defaults.
        denoised: np.ndarray = denoise_wavelet(
            noisy[..., 0], sigma=sigma, wavelet="sym8", rescale_sigma=True
        )
        return denoised[..., None]

    if sample.rank == 1:
        return Peer("scikit-image wavelets", wavelets)
    return Peer("scikit-image non-local means", nonlocal_means)
