"""Where the denoiser runs: on the GPU where that works, else on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from cupyna.devices import thread_count

from .nonlocal_means import NonLocalMeans

__all__ = ["DEVICES", "Place", "choose"]

DEVICES = ("auto", "cpu", "gpu")


@dataclass(frozen=True, slots=True)
class Place:
    """A device and the array library that computes on it.

    Parameters
    ----------
    name : str
    xp : module
        NumPy or CuPy.
    reason : str
        Why this is not the GPU, where one was found but is of no use.
    """

    name: str
    xp: Any
    reason: str = ""

    def denoise(
        self,
        method: NonLocalMeans,
        noisy: np.ndarray,
        advance: Callable[[float], None] | None = None,
    ) -> np.ndarray:
        """Host array in, host array out, transfers included."""
        denoised = method.denoise(self.xp, self.xp.asarray(noisy), advance)
        on_host: np.ndarray = denoised if self.xp is np else self.xp.asnumpy(denoised)
        return on_host


def choose(device: str, method: NonLocalMeans, noisy: np.ndarray) -> Place:
    """Take the GPU if it denoises a corner of the data; this also loads what will run.

    Parameters
    ----------
    device : {"auto", "cpu", "gpu"}
    method : NonLocalMeans
    noisy : ndarray of float32, shape [*spatial, channels]

    Raises
    ------
    ValueError
        If `device` is ``"gpu"`` and no GPU can run it; the message says why.
    """
    corner = noisy[(slice(method.kernel_size),) * (noisy.ndim - 1)]
    reason = ""
    if device != "cpu":
        try:
            place = _gpu()
            place.denoise(method, corner)
            return place
        except (ImportError, RuntimeError, ValueError) as error:
            reason = str(error)
        if device == "gpu":
            raise ValueError(f"the demo cannot run on a GPU here: {reason}")
    threads = thread_count()
    found = device == "auto" and _has_gpu()
    cores = "1 core" if threads == 1 else f"{threads} cores"
    place = Place(f"CPU, {cores}", np, reason if found else "")
    place.denoise(method, corner)
    return place


def _has_gpu() -> bool:
    try:
        import cupy
    except ImportError:
        return False
    return bool(cupy.cuda.is_available())


def _gpu() -> Place:
    import cupy

    if not cupy.cuda.is_available():
        raise RuntimeError("no NVIDIA GPU with a working driver was found")
    name = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)["name"].decode()
    return Place(name, cupy)
