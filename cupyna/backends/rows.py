"""The small kernels of backward that take every query by itself."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..execution import Execution
from ..problem import Problem

__all__ = ["launch_rows"]


def launch_rows(
    family: str, problem: Problem, execution: Execution, params: np.ndarray[Any, Any]
) -> None:
    """Queue a kernel of ``GradientParams``, a group of lanes to a query."""
    from ..kernels.launch import launch
    from ..kernels.loader import load
    from ..kernels.manifest import variant_of

    variant = variant_of(family, problem.dtype, 0)
    rows = variant.threads // int(params["row_lanes"][0])
    blocks = -(-math.prod(problem.spatial) // rows)
    grid = blocks, problem.heads, problem.batch
    kernel = load(variant, execution.device.index)
    launch(kernel, grid, (variant.threads,), 0, execution.stream, params)
