"""Which kernels of the portable fused method run a problem, where several can."""

from __future__ import annotations

from cupyna.problem import DeviceSpec, Operation, Problem

from .direct import costs as direct
from .fused.heuristics import gradient_time_us
from .fused.tuning import Passes, model_passes
from .window import costs as window

__all__ = ["faster_direct_passes", "faster_window_passes", "portable_us"]

# Blocks of few columns took longer than the general kernels' model says, by as much as if 16 bytes
# of each of their rows cost these clocks of a multiprocessor for each 128 channels: it shows most
# where dilation leaves short groups, and most rows of a block are no token's. From 150 problems of
# the sweep measured on an H200.
_ROW_CHUNK = {"forward": 5.0, "backward": 9.0}
_ROW_CHANNELS = 128
_CLOCKS_PER_US = 1700.0
# With that, backward took this much longer, by the median.
_GENERAL_BACKWARD = 1.25


def faster_direct_passes(
    problem: Problem, operation: Operation, device: DeviceSpec
) -> tuple[direct.DirectChoice, ...] | None:
    """The kernels on CUDA cores where the models hold them faster than those on tensor cores."""
    passes = direct.direct_passes(problem, operation, device)
    if passes is None:
        return None
    return passes if direct.direct_us(passes) < _others_us(problem, operation, device) else None


def portable_us(problem: Problem, operation: Operation, device: DeviceSpec) -> float:
    """What forward or backward is expected to take with the fastest of all kernels."""
    others = window.portable_forward_us, window.portable_backward_us
    others_us = others[operation == "backward"](problem, device)
    return min(direct.direct_us(direct.direct_passes(problem, operation, device)), others_us)


def faster_window_passes(
    problem: Problem, operation: Operation, device: DeviceSpec
) -> tuple[window.WindowChoice, ...] | None:
    """The kernels for small windows where the models hold them faster than the general ones."""
    general_us = _general_us(problem, operation, device)
    if operation == "backward":
        if window.window_backward_us(problem, device) >= general_us:
            return None
        return window.window_gradient_choices(problem, device)
    chosen = window.window_forward_choice(problem, device)
    return None if chosen is None or chosen.time_us >= general_us else (chosen,)


def _others_us(problem: Problem, operation: Operation, device: DeviceSpec) -> float:
    general_us = _general_us(problem, operation, device)
    if operation == "backward":
        return min(general_us, window.window_backward_us(problem, device))
    chosen = window.window_forward_choice(problem, device)
    return general_us if chosen is None else min(chosen.time_us, general_us)


def _general_us(problem: Problem, operation: Operation, device: DeviceSpec) -> float:
    passes = model_passes(problem, operation, device)
    rows_us = _rows_us(problem, operation, device, passes)
    if operation == "forward":
        return passes[0].time_us + rows_us
    return _GENERAL_BACKWARD * (gradient_time_us(problem, device, passes) + rows_us)


def _rows_us(problem: Problem, operation: Operation, device: DeviceSpec, passes: Passes) -> float:
    """What the model leaves out of the rows of every block."""
    clocks = 0.0
    for chosen in passes:
        shape = chosen.shape
        heads = problem.heads if shape.side == "query" else problem.kv_heads
        rows = problem.batch * heads * chosen.plan(problem).counts.tiles * shape.rows
        chunks = rows * shape.head_dim * shape.item_bytes / 16
        clocks += chunks * _ROW_CHUNK[operation] * shape.head_dim / _ROW_CHANNELS
    return clocks / device.processors / _CLOCKS_PER_US
