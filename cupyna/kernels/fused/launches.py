"""Launches of the general fused kernels."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cupyna.problem import DeviceSpec, Problem

from .. import launch, loader
from ..manifest import variant_of
from .bias import BiasChoice
from .heuristics import FusedChoice
from .params import axis_tiles

__all__ = ["launch_bias_gradient", "launch_fused"]


def launch_fused(
    problem: Problem,
    chosen: FusedChoice,
    device: DeviceSpec,
    stream: int,
    params: np.ndarray[Any, Any],
    blocks: int | None = None,
) -> None:
    """Queue one kernel on a device's stream: a block to a tile of rows, unless told otherwise."""
    if blocks is None:
        blocks = math.prod(
            axis_tiles(length, dilation, extent)
            for length, dilation, extent in zip(
                problem.spatial, problem.dilation, chosen.row_tile, strict=True
            )
        )
    heads = problem.heads if chosen.shape.side == "query" else problem.kv_heads
    variant = chosen.shape.variant(problem)
    launch.launch(
        loader.load(variant, device.index),
        (blocks, heads, problem.batch),
        (variant.threads,),
        variant.smem_bytes,
        stream,
        params,
    )


def launch_bias_gradient(
    problem: Problem,
    choice: BiasChoice,
    device: DeviceSpec,
    stream: int,
    params: np.ndarray[Any, Any],
) -> None:
    """Queue sums by distance, then by entry."""
    variant = choice.tiling.shape.variant(problem)
    launch.launch(
        loader.load(variant, device.index),
        (choice.blocks, problem.heads, choice.parts),
        (variant.threads,),
        variant.smem_bytes,
        stream,
        params,
    )
    variant = variant_of("fused_bias_sums", problem.dtype, 0)
    entries = math.prod(problem.bias_shape[1:])
    blocks = -(-entries * choice.lanes // variant.threads)
    launch.launch(
        loader.load(variant, device.index),
        (blocks, problem.heads, 1),
        (variant.threads,),
        0,
        stream,
        params,
    )
