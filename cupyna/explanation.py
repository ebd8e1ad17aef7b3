"""What would run for a call, and why nothing else: the answer of :func:`cupyna.explain`."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .dispatch import Candidate
from .problem import DeviceSpec, Method, Problem

__all__ = ["Explanation"]


@dataclass(frozen=True)
class Explanation:
    """The choice between backends for one problem on one device.

    Parameters
    ----------
    problem : Problem
        The call without its arrays.
    device : DeviceSpec
        Where they are.
    method : str or None
        The method asked for; None where the library chooses.
    forward, backward : tuple of Candidate
        Every backend's answer, in the order of preference.
    """

    problem: Problem
    device: DeviceSpec
    method: Method | None
    forward: tuple[Candidate, ...]
    backward: tuple[Candidate, ...]

    @property
    def selected(self) -> Candidate | None:
        """What forward would run; None if nothing can."""
        return self._selected(self.forward)

    def _selected(self, answers: tuple[Candidate, ...]) -> Candidate | None:
        fitting = (c for c in answers if not c.refusals and self.method in (None, c.method))
        return next(fitting, None)

    def __str__(self) -> str:
        problem = self.problem
        lines = [
            f"{'x'.join(map(str, problem.spatial))} tokens, batch {problem.batch}, "
            f"{_heads(problem)}, head_dim {_channels(problem)}, {problem.dtype}, "
            f"window {'x'.join(map(str, problem.kernel_size))}{_options(problem)}",
            f"on {_device(self.device)}, method {self.method or 'auto'}",
        ]
        for name, answers in (("forward", self.forward), ("backward", self.backward)):
            chosen = self._selected(answers)
            lines.append(f"{name}:")
            lines += [_line(answer, chosen, self.method) for answer in answers]
        return "\n".join(lines)


def _heads(problem: Problem) -> str:
    if problem.kv_heads == problem.heads:
        return f"{problem.heads} heads"
    return f"{problem.heads} query heads on {problem.kv_heads} key/value heads"


def _channels(problem: Problem) -> str:
    if problem.head_dim == problem.value_dim:
        return str(problem.head_dim)
    return f"{problem.head_dim} (values {problem.value_dim})"


def _options(problem: Problem) -> str:
    parts = []
    if any(stride > 1 for stride in problem.stride):
        parts.append(f"stride {'x'.join(map(str, problem.stride))}")
    if any(dilation > 1 for dilation in problem.dilation):
        parts.append(f"dilation {'x'.join(map(str, problem.dilation))}")
    if any(problem.is_causal):
        axes = ", ".join(str(i) for i, causal in enumerate(problem.is_causal) if causal)
        parts.append(f"causal along axis {axes}")
    if problem.has_bias:
        parts.append("bias")
    return "".join(f", {part}" for part in parts)


def _device(device: DeviceSpec) -> str:
    if device.kind == "cpu":
        return f"{device.name}, {device.processors} threads"
    major, minor = device.compute_capability
    return f"{device.name} (cuda:{device.index}, compute capability {major}.{minor})"


def _line(answer: Candidate, chosen: Candidate | None, method: Method | None) -> str:
    is_chosen = answer is chosen
    mark = "->" if is_chosen else "  "
    if answer.choice is None:
        return f"{mark} {answer.name:<12} no: {'; '.join(answer.refusals)}"
    choice = answer.choice
    parts = [choice.kernel]
    if choice.q_tile:
        tiles = ("x".join(map(str, tile)) for tile in (choice.q_tile, choice.kv_tile))
        parts.append("query tile {} against key tile {}".format(*tiles))
    if choice.computed_products:
        parts.append(f"{choice.useful_products / choice.computed_products:.0%} of products useful")
    if choice.workspace_bytes:
        parts.append(f"{choice.workspace_bytes / 2**20:.1f} MiB workspace")
    is_wanted = method in (None, answer.method)
    best_us = math.inf if chosen is None or chosen.choice is None else chosen.choice.time_us
    if chosen is not None and is_wanted and choice.time_us > best_us:
        parts.append(f"expects {_time(choice.time_us)} where {chosen.name} takes {_time(best_us)}")
    else:
        parts.append(f"about {_time(choice.time_us)}")
    parts += choice.notes
    if not is_wanted:
        parts.append(f"method {method!r} was asked for")
    elif not is_chosen and choice.time_us <= best_us:
        parts.append("comes after the chosen one")
    return f"{mark} {answer.name:<12} {', '.join(parts)}"


def _time(time_us: float) -> str:
    return f"{time_us:.0f} us" if time_us < 1e3 else f"{time_us / 1e3:.3g} ms"
