"""Launches of the small-window kernels."""

from __future__ import annotations

from typing import Any

import numpy as np

from cupyna.arrays.device_array import DeviceArray
from cupyna.operands import BackwardArrays, ForwardArrays
from cupyna.problem import DeviceSpec, Problem

from .. import launch, loader
from ..fused.params import BackwardRoom
from .costs import WindowChoice
from .params import pack_window, pack_window_gradient
from .ring_costs import WindowRingChoice
from .ring_params import pack_window_ring

__all__ = ["launch_window_forward", "launch_window_gradient", "launch_window_ring"]


def launch_window_forward(
    problem: Problem,
    scale: float,
    chosen: WindowChoice,
    device: DeviceSpec,
    stream: int,
    arrays: ForwardArrays[DeviceArray],
) -> None:
    """Queue forward on a device's stream."""
    params = pack_window(problem, scale, chosen, arrays)
    _launch(problem, chosen, device, stream, params)


def launch_window_ring(
    problem: Problem,
    scale: float,
    chosen: WindowRingChoice,
    device: DeviceSpec,
    stream: int,
    arrays: ForwardArrays[DeviceArray],
) -> None:
    """Queue forward by a ring of slices on a Hopper GPU's stream."""
    params = pack_window_ring(problem, scale, chosen, arrays)
    launch.launch(
        loader.load(chosen.shape.variant(problem.dtype), device.index),
        (min(chosen.works(problem), device.processors),),
        (chosen.shape.threads,),
        chosen.shape.smem_bytes,
        stream,
        params,
    )


def launch_window_gradient(
    problem: Problem,
    scale: float,
    chosen: WindowChoice,
    device: DeviceSpec,
    stream: int,
    arrays: BackwardArrays[DeviceArray],
    room: BackwardRoom,
) -> None:
    """Queue the pass of backward over queries or keys; statistics are there before it."""
    params = pack_window_gradient(problem, scale, chosen, arrays, room)
    _launch(problem, chosen, device, stream, params)


def _launch(
    problem: Problem,
    chosen: WindowChoice,
    device: DeviceSpec,
    stream: int,
    params: np.ndarray[Any, Any],
) -> None:
    blocks = min(chosen.works(problem), chosen.resident(problem, device) * device.processors)
    launch.launch(
        loader.load(chosen.shape.variant(problem), device.index),
        (blocks,),
        (32 * chosen.warps,),
        chosen.smem_bytes(problem),
        stream,
        params,
    )
