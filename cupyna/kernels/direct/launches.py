"""Launches of the direct kernels."""

from __future__ import annotations

from typing import Any

import numpy as np

from cupyna.problem import DeviceSpec, Problem

from .. import launch, loader
from .costs import DirectChoice

__all__ = ["launch_direct"]


def launch_direct(
    problem: Problem,
    chosen: DirectChoice,
    device: DeviceSpec,
    stream: int,
    params: np.ndarray[Any, Any],
) -> None:
    """Queue one kernel on a device's stream."""
    variant = chosen.shape.variant(problem)
    kernel = loader.load(variant, device.index)
    launch.launch(kernel, chosen.grid(problem, device), (variant.threads,), 0, stream, params)
