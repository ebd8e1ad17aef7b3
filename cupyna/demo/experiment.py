"""One sample through both denoisers, with the time and the quality of each."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .noise import Quality, add_noise, quality
from .nonlocal_means import NonLocalMeans
from .peer import peer_of
from .place import choose
from .sample import Sample

__all__ = ["Entry", "Experiment", "STEPS", "run"]

# Equal steps of the progress, one for each stage.
STEPS = 5


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of the comparison.

    Parameters
    ----------
    name : str
    values : ndarray of float32, shape [*spatial, channels]
    quality : Quality or None
        None for the clean data.
    time_s : float or None
        Wall time in seconds; None for what nobody computed.
    """

    name: str
    values: np.ndarray
    quality: Quality | None = None
    time_s: float | None = None


@dataclass(frozen=True, slots=True)
class Experiment:
    """The clean and noisy data and what both denoisers made of it."""

    sample: Sample
    sigma: float
    seed: int
    place: str
    place_reason: str
    clean: Entry
    noisy: Entry
    ours: Entry
    theirs: Entry

    @property
    def entries(self) -> tuple[Entry, Entry, Entry, Entry]:
        return self.clean, self.noisy, self.ours, self.theirs

    def gain_db(self, entry: Entry) -> float:
        """PSNR above that of the noisy data."""
        assert entry.quality is not None and self.noisy.quality is not None
        return entry.quality.psnr_db - self.noisy.quality.psnr_db


def run(
    sample: Sample,
    *,
    sigma: float = 0.1,
    seed: int = 0,
    device: str = "auto",
    advance: Callable[[float, str], None] = lambda steps, next_stage: None,
) -> Experiment:
    """Add noise to a sample and denoise it twice.

    Both denoisers first run on a corner of the data, so that neither time counts imports.

    Parameters
    ----------
    sample : Sample
    sigma : float, optional
        Standard deviation of the noise; the data lies between 0 and 1.
    seed : int, optional
        Of the noise.
    device : {"auto", "cpu", "gpu"}, optional
        Where cupyna computes.
    advance : callable, optional
        Called with steps done (of `STEPS` in all) and the name of the stage that goes on.
    """
    method = NonLocalMeans(sample.kernel_size, sample.patch_size, sigma, sample.bandwidth)
    peer = peer_of(sample, sigma)
    noisy = add_noise(sample.clean, sigma, seed)
    corner = noisy[(slice(sample.kernel_size + sample.patch_size),) * sample.rank]
    place = choose(device, method, noisy)
    peer.denoise(corner)
    advance(1, "cupyna")
    ours, our_time_s = _timed(
        lambda: place.denoise(method, noisy, lambda share: advance(share, "cupyna"))
    )
    advance(0, peer.name)
    theirs, their_time_s = _timed(lambda: peer.denoise(noisy))
    advance(1, "PSNR and SSIM")
    experiment = Experiment(
        sample,
        sigma,
        seed,
        place.name,
        place.reason,
        Entry("clean", sample.clean),
        Entry("noisy", noisy, quality(sample.clean, noisy)),
        Entry("cupyna", ours, quality(sample.clean, ours), our_time_s),
        Entry(peer.name, theirs, quality(sample.clean, theirs), their_time_s),
    )
    advance(1, "picture")
    return experiment


def _timed(compute: Callable[[], np.ndarray]) -> tuple[np.ndarray, float]:
    begin = time.perf_counter()
    result = compute()
    return result, time.perf_counter() - begin
