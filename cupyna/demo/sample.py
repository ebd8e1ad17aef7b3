"""What a demonstration denoises, and the sizes it uses."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Sample"]


@dataclass(frozen=True, slots=True)
class Sample:
    """Clean data and how to denoise it.

    Parameters
    ----------
    title : str
    clean : ndarray of float32, shape [*spatial, channels]
        Values between 0 and 1; `spatial` has one, two or three axes.
    kernel_size : int
        Search window of non-local means along every axis, in tokens.
    patch_size : int
        Odd extent of a patch along every axis, in tokens.
    bandwidth : float
        ``h / sigma``: how different patches may be and still be averaged.

    Raises
    ------
    ValueError
        If an axis is shorter than the window.
    """

    title: str
    clean: np.ndarray
    kernel_size: int
    patch_size: int
    bandwidth: float

    def __post_init__(self) -> None:
        if min(self.spatial) < self.kernel_size:
            size = " x ".join(map(str, self.spatial))
            raise ValueError(
                f"{self.title} is {size}, and the search window needs at least "
                f"{self.kernel_size} along every axis"
            )

    @property
    def spatial(self) -> tuple[int, ...]:
        return self.clean.shape[:-1]

    @property
    def rank(self) -> int:
        """Number of spatial axes."""
        return self.clean.ndim - 1
