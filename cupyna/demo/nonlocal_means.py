"""Non-local means as neighborhood attention.

Non-local means [1]_ replaces a pixel by an average over its search window, weighted by
``exp(-d^2 / h^2)`` with ``d^2`` the mean squared difference of the two patches. That is a softmax:
with ``n`` elements in a patch ``p``,

    q = [p, 1],   k = [p, -|p|^2 / 2],   v = pixels,   scale = 2 / (h^2 n)

gives ``scale q . k' = -d^2 / h^2`` up to a constant of the query.

The pixel itself is at distance zero, while an equal patch under independent noise is at
``d^2 = 2 sigma^2`` on average. Its weight ``a``, known from the log-sum-exp, is therefore
multiplied by ``c = exp(-2 sigma^2 / h^2)``, which treats it like every other pixel:

    (out - (1 - c) a v) / (1 - (1 - c) a)   =   v + (out - v) / (1 - (1 - c) a)

References
----------
.. [1] A. Buades, B. Coll, J.-M. Morel, "A non-local algorithm for image denoising", CVPR 2005;
   the compensation by ``2 sigma^2`` is that of their "Non-Local Means Denoising", IPOL 2011.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from cupyna import neighborhood_attention

from .patches import padded, patch_elements, queries_and_keys

__all__ = ["NonLocalMeans"]

# Elements of the queries of one band, and as many of its keys: 64 MiB each.
_MOST_ELEMENTS = 1 << 24


@dataclass(frozen=True, slots=True)
class NonLocalMeans:
    """The denoiser, for any number of axes.

    Parameters
    ----------
    kernel_size : int
        Search window along every axis, in tokens.
    patch_size : int
        Odd extent of a patch along every axis, in tokens.
    sigma : float
        Standard deviation of the noise.
    bandwidth : float
        ``h / sigma``.
    """

    kernel_size: int
    patch_size: int
    sigma: float
    bandwidth: float

    def denoise(self, xp: Any, noisy: Any, advance: Callable[[float], None] | None = None) -> Any:
        """Average every token with those that look like it.

        Parameters
        ----------
        xp : module
            NumPy or CuPy, the library of `noisy`.
        noisy : array of float32, shape [*spatial, channels]
        advance : callable, optional
            Called with the share of the work that has just been done.

        Returns
        -------
        array of float32, shape [*spatial, channels]
        """
        mirrored = padded(xp, noisy, self.patch_size)
        out = xp.empty_like(noisy)
        length = noisy.shape[0]
        for begin, end in self._bands(noisy.shape):
            first, last = _seen(begin, end, length, self.kernel_size)
            rows = mirrored[first : last + self.patch_size - 1]
            averaged = self._average(xp, rows, noisy[first:last])
            out[begin:end] = averaged[begin - first : end - first]
            if advance is not None:
                advance((end - begin) / length)
        return out

    def _average(self, xp: Any, mirrored: Any, noisy: Any) -> Any:
        q, k, norms = queries_and_keys(xp, mirrored, self.patch_size)
        rank, channels = noisy.ndim - 1, noisy.shape[-1]
        scale = 2 / (
            (self.bandwidth * self.sigma) ** 2 * patch_elements(self.patch_size, rank, channels)
        )
        # One batch and one head around the grid's own axes.
        q, k, v = (array[None, ..., None, :] for array in (q, k, noisy))
        average, lse = neighborhood_attention(
            q, k, v, self.kernel_size, scale=scale, return_lse=True
        )
        average, lse = average[0, ..., 0, :], lse[0, ..., 0]
        own_weight = xp.exp(xp.minimum(scale / 2 * norms - lse, 0))
        excess = -math.expm1(-2 / self.bandwidth**2) * own_weight
        return noisy + (average - noisy) / (1 - excess)[..., None]

    def _bands(self, shape: tuple[int, ...]) -> Iterator[tuple[int, int]]:
        """Pieces of the first axis whose patches fit in memory."""
        length, *across, channels = shape
        elements = patch_elements(self.patch_size, len(shape) - 1, channels) + 1
        most = _MOST_ELEMENTS // (math.prod(across) * elements) - self.kernel_size
        count = math.ceil(length / max(most, self.kernel_size))
        step = math.ceil(length / count)
        return ((begin, min(begin + step, length)) for begin in range(0, length, step))


def _seen(begin: int, end: int, length: int, kernel_size: int) -> tuple[int, int]:
    """The tokens in the windows of tokens ``begin..end``; windows shift inward at borders."""
    half = kernel_size // 2
    first = max(0, min(begin - half, length - kernel_size))
    return first, min(length, max(end + half, kernel_size))
