"""One launch of a small-window kernel."""

from __future__ import annotations

from cupyna.arrays.device_array import DeviceArray
from cupyna.problem import DeviceSpec, Problem

from .. import launch, loader
from .costs import WindowChoice
from .params import pack_window

__all__ = ["launch_window_forward"]


def launch_window_forward(
    problem: Problem,
    scale: float,
    chosen: WindowChoice,
    device: DeviceSpec,
    stream: int,
    q: DeviceArray,
    k: DeviceArray,
    v: DeviceArray,
    out: DeviceArray,
    lse: DeviceArray | None,
) -> None:
    """Queue forward on a device's stream."""
    blocks = min(chosen.works(problem), chosen.resident(problem, device) * device.processors)
    launch.launch(
        loader.load(chosen.shape.variant(problem), device.index),
        (blocks,),
        (32 * chosen.warps,),
        chosen.smem_bytes(problem),
        stream,
        pack_window(problem, scale, chosen, q, k, v, out, lse),
    )
