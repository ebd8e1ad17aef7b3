"""Passes of the fused method chosen by measurement instead of by the cost model.

The model names the candidates, the few best tilings of every compiled shape, and the caller's own
arrays are what they are measured on. Passes over queries and over keys are chosen one after the
other, then compared with one pass for both.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from typing import Any

from cupyna.problem import DeviceSpec, Operation, Problem

from .. import tuning
from . import heuristics
from .heuristics import FusedChoice, Pass, fused_choices

__all__ = ["Passes", "fastest_passes", "model_passes", "recalled_passes", "tuned_passes"]

Passes = tuple[FusedChoice, ...]

# Tilings of each shape that are measured, and how much slower than the best the model may hold one.
_TILINGS = 4
_FARTHEST = 2.0

# What is faster by less than this may be so by chance: the model's order stands.
_GAIN = 0.98

_known: dict[tuple[Problem, Operation, DeviceSpec], Passes] = {}


def model_passes(problem: Problem, operation: Operation, device: DeviceSpec) -> Passes:
    """The kernels of an operation by the cost model, in the order of their launches."""
    if operation == "forward":
        return (heuristics.fused_forward_choice(problem, device),)
    return heuristics.fused_gradient_choices(problem, device)


def tuned_passes(
    problem: Problem,
    operation: Operation,
    device: DeviceSpec,
    stream: int,
    launches: Callable[[Passes], Callable[[], None]],
) -> Passes:
    """The kernels of an operation as measured, now or at some time before.

    Parameters
    ----------
    problem : Problem
    operation : {"forward", "backward"}
    device : DeviceSpec
    stream : int
        Raw ``cudaStream_t`` of the launches. Where it is captured, the model chooses.
    launches : callable
        Gives what queues the launches of some passes.
    """
    passes = recalled_passes(problem, operation, device)
    if passes is not None:
        return passes
    if tuning.is_capturing(stream):
        return model_passes(problem, operation, device)

    def time_us(passes: Passes) -> float:
        return tuning.repeated_us(launches(passes), device.index, stream)

    passes, best_us = fastest_passes(problem, operation, device, time_us)
    stored = {"passes": [_stored(chosen, problem) for chosen in passes], "time_us": best_us}
    tuning.remember("fused", problem, operation, device, stored)
    _known[problem, operation, device] = passes
    return passes


def recalled_passes(problem: Problem, operation: Operation, device: DeviceSpec) -> Passes | None:
    """The kernels that were measured before; None where they were not."""
    key = problem, operation, device
    if key not in _known:
        passes = _read(problem, operation, device)
        if passes is None:
            return None
        _known[key] = passes
    return _known[key]


def fastest_passes(
    problem: Problem,
    operation: Operation,
    device: DeviceSpec,
    time_us: Callable[[Passes], float],
) -> tuple[Passes, float]:
    """Search the candidates; returns the fastest passes and their time in microseconds."""
    sides: tuple[Pass, ...] = ("forward",) if operation == "forward" else ("query", "key")
    lists = [_candidates(problem, device, side) for side in sides]
    best: Passes = tuple(candidates[0] for candidates in lists)
    trials = {best: time_us(best)}

    def is_better(trial: Passes) -> bool:
        trials[trial] = time_us(trial)
        return trials[trial] < trials[best] * _GAIN

    for place, candidates in enumerate(lists):
        for candidate in candidates[1:]:
            trial = (*best[:place], candidate, *best[place + 1 :])
            if is_better(trial):
                best = trial
    if operation == "backward" and not problem.deterministic:
        for candidate in _candidates(problem, device, "both"):
            if is_better((candidate,)):
                best = (candidate,)
    return best, trials[best]


def _candidates(problem: Problem, device: DeviceSpec, side: Pass) -> list[FusedChoice]:
    """The model's best few of every shape, its best of all first."""
    choices = fused_choices(problem, device, side)
    near = [c for c in choices if c.time_us <= choices[0].time_us * _FARTHEST]
    of_shapes = groupby(sorted(near, key=lambda c: repr(c.shape)), key=lambda c: c.shape)
    few = [choice for _, group in of_shapes for choice in list(group)[:_TILINGS]]
    return sorted(few, key=lambda choice: choice.time_us)


def _stored(chosen: FusedChoice, problem: Problem) -> dict[str, Any]:
    return {
        "kernel": chosen.shape.variant(problem).symbol,
        "row_tile": list(chosen.row_tile),
        "column_tile": list(chosen.column_tile),
    }


def _read(problem: Problem, operation: Operation, device: DeviceSpec) -> Passes | None:
    stored = tuning.recall("fused", problem, operation, device)
    try:
        wanted = stored["passes"]
    except (KeyError, TypeError):
        return None
    sides: tuple[Pass, ...] = ("forward",)
    if operation == "backward":
        sides = ("both",) if len(wanted) == 1 else ("query", "key")
    if len(wanted) != len(sides):
        return None
    found = []
    for one, side in zip(wanted, sides, strict=True):
        # Only what the model would list can be launched, whatever a file says.
        choices = fused_choices(problem, device, side)
        found += [chosen for chosen in choices if _stored(chosen, problem) == one]
    return tuple(found) if len(found) == len(sides) else None
