"""Which backend runs a call: of those that can, the fastest by its own word. Refusals are data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, lru_cache

from .execution import Backend, Choice
from .problem import METHODS, DeviceSpec, Method, Operation, Problem

__all__ = ["Candidate", "backends", "candidates", "select"]

# Where backends that neither store weights nor copy arrays apply, others are rarely faster; one has
# to be expected to be by so much, as models err and weights take memory.
_CLEARLY_FASTER = 0.75
_LEAST_GAIN_US = 10.0


@dataclass(frozen=True, slots=True)
class Candidate:
    """One backend's answer to a problem.

    Parameters
    ----------
    name : str
        The backend, or the method where no backend of it exists for the device.
    method : str
    refusals : tuple of str
        Why it cannot run the problem; empty where it can.
    choice : Choice or None
        How it would run it; None where it refuses.
    """

    name: str
    method: Method
    refusals: tuple[str, ...]
    choice: Choice | None


@cache
def backends(kind: str) -> tuple[Backend, ...]:
    """The backends of a kind of device; of those that expect the same time, the first is taken."""
    if kind == "cpu":
        from .backends.cpu import BACKENDS

        return BACKENDS
    from .backends.direct import CudaDirect
    from .backends.fused import CudaFused
    from .backends.gemm import CudaGemm, CudaGemmPlain
    from .backends.hopper import CudaHopper
    from .backends.hopper_window import CudaHopperWindow
    from .backends.naive import CudaNaive
    from .backends.padded import CudaPadded
    from .backends.window import CudaWindow

    return (
        CudaHopperWindow(), CudaHopper(), CudaDirect(), CudaWindow(), CudaFused(), CudaPadded(),
        CudaGemm(), CudaNaive(), CudaGemmPlain(),
    )  # fmt: skip


def select(
    problem: Problem, operation: Operation, device: DeviceSpec, method: Method | None
) -> Backend:
    """The backend that runs a call.

    Raises
    ------
    ValueError
        If no backend of the asked method supports the problem; the message holds every reason.
    """
    reasons = []
    for backend in _ordered(problem, operation, device):
        if method in (None, backend.method):
            refusals = backend.refusals(problem, operation, device)
            if not refusals:
                return backend
            reasons += [f"{backend.name}: {reason}" for reason in refusals]
    asked = "no method can" if method is None else f"method {method!r} cannot"
    detail = "; ".join(reasons) or _no_backend(device)
    raise ValueError(f"{asked} run this {operation} on {device.name} ({detail})")


def candidates(problem: Problem, operation: Operation, device: DeviceSpec) -> tuple[Candidate, ...]:
    """Every method's answer to a problem, in the order of preference."""
    found = []
    for backend in _ordered(problem, operation, device):
        refusals = backend.refusals(problem, operation, device)
        choice = None if refusals else backend.choice(problem, operation, device)
        found.append(Candidate(backend.name, backend.method, refusals, choice))
    present = {candidate.method for candidate in found}
    for method in reversed(METHODS):
        if method not in present:
            found.append(Candidate(method, method, (_no_backend(device),), None))
    return tuple(found)


@lru_cache(maxsize=4096)
def _ordered(problem: Problem, operation: Operation, device: DeviceSpec) -> tuple[Backend, ...]:
    """The backends of a device as the library prefers them for a problem.

    On a GPU that is the one that is expected to be the fastest, but one that stores weights or
    copies of arrays only where it is faster by far.
    """
    found = backends(device.kind)
    if device.kind == "cpu":
        return found
    times_us = {
        backend.name: math.inf
        if backend.refusals(problem, operation, device)
        else backend.choice(problem, operation, device).time_us
        for backend in found
    }
    by_time = sorted(found, key=lambda backend: times_us[backend.name])
    lean = [backend for backend in by_time if backend.is_lean]
    fastest, *others = (backend for backend in by_time if not backend.is_lean)
    lean_us = times_us[lean[0].name]
    if times_us[fastest.name] < min(_CLEARLY_FASTER * lean_us, lean_us - _LEAST_GAIN_US):
        return (fastest, *lean, *others)
    return (*lean, fastest, *others)


def _no_backend(device: DeviceSpec) -> str:
    return f"this version has no kernels of the method for {device.kind} devices"
