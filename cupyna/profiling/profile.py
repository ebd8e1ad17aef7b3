"""Everything about one call on one GPU: work, traffic, time, ceilings, occupancy, memory.

Times are measured where there is a GPU, and otherwise what the cost models expect of a named one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ..dispatch import backends, select
from ..execution import Backend, Choice
from ..problem import METHODS, DeviceSpec, Problem
from .bench import Plan, measure
from .ceilings import Ceilings
from .counts import CallCounts, Pass, call_counts
from .implementations import Implementation, ours
from .meter import random_tensors
from .occupancy import Occupancy, launched, occupancies
from .problems import Row

__all__ = ["Line", "Profile", "measured", "predicted"]


@dataclass(slots=True)
class Line:
    """One implementation in one pass.

    Parameters
    ----------
    name, operation, kernel : str
        `kernel` is empty for another library's.
    counts : CallCounts or None
        None where it refuses.
    time_us : float
        Zero where it refuses.
    peak_bytes : int
        Memory beside the inputs, results included: measured, or as it is planned.
    occupancy : tuple of Occupancy
        Of each launch; where nothing was run, of each compiled kernel that may run.
    counters : dict
        Hardware counters of the call, if they were read.
    refusal : str
    """

    name: str
    operation: Pass
    kernel: str = ""
    q_tile: tuple[int, ...] = ()
    kv_tile: tuple[int, ...] = ()
    counts: CallCounts | None = None
    time_us: float = 0.0
    peak_bytes: int = 0
    occupancy: tuple[Occupancy, ...] = ()
    counters: dict[str, float] = field(default_factory=dict)
    refusal: str = ""

    @property
    def moved_bytes(self) -> float:
        """Bytes between cache and memory: counted by hardware if it was asked, else by us."""
        counted = self.counters.get("dram_bytes")
        if counted is not None:
            return counted
        return 0.0 if self.counts is None else float(self.counts.moved_bytes)

    @property
    def intensity(self) -> float:
        """Useful operations for each byte moved."""
        return 0.0 if self.counts is None else self.counts.useful_flops / self.moved_bytes

    @property
    def flops_per_us(self) -> float:
        """Rate of useful operations."""
        return 0.0 if self.counts is None else self.counts.useful_flops / self.time_us

    @property
    def bytes_per_us(self) -> float:
        """Rate of bytes moved."""
        return self.moved_bytes / self.time_us if self.time_us else 0.0


@dataclass(slots=True)
class Profile:
    """All lines of one problem on one GPU."""

    problem: Problem
    device: DeviceSpec
    is_measured: bool
    ceilings: Ceilings
    lines: list[Line]

    def to_json(self) -> dict[str, Any]:
        return {
            "format": "cupyna profile 1",
            "problem": asdict(self.problem),
            "device": asdict(self.device),
            "is_measured": self.is_measured,
            "ceilings": self.ceilings.to_json(),
            "lines": [
                {
                    **asdict(line),
                    "intensity": round(line.intensity, 2),
                    "tflops": round(line.flops_per_us / 1e6, 2),
                    "gb_per_s": round(line.bytes_per_us / 1e3, 1),
                }
                for line in self.lines
            ],
        }


def predicted(
    problem: Problem,
    spec: DeviceSpec,
    ceilings: Ceilings,
    names: Sequence[str] = METHODS,
    operations: Sequence[Pass] = ("forward",),
) -> Profile:
    """What the cost models expect; needs no GPU.

    Parameters
    ----------
    problem : Problem
    spec : DeviceSpec
    ceilings : Ceilings
    names : sequence of str, optional
        Methods, or backends.
    operations : sequence of str, optional
        ``"forward"``, ``"backward"``.

    Raises
    ------
    ValueError
        If a name is neither a method nor a backend for the kind of device.
    """
    ours(names, spec)  # raises for a name that nobody has
    lines = []
    for operation in operations:
        for name in names:
            line = Line(name, operation)
            try:
                backend = _backend(name, problem, operation, spec)
            except ValueError as error:
                line.refusal = str(error)
            else:
                choice = backend.choice(problem, operation, spec)
                _fill(line, problem, choice, spec, backend.method != "fused")
                line.time_us = choice.time_us
                line.peak_bytes = choice.workspace_bytes + _result_bytes(problem, operation)
            lines.append(line)
    return Profile(problem, spec, False, ceilings, lines)


def measured(
    row: Row,
    dtype: str,
    spec: DeviceSpec,
    names: Sequence[str] = METHODS,
    peers: Sequence[Implementation] = (),
    operations: Sequence[Pass] = ("forward",),
) -> Profile:
    """Run on the GPU; results are checked before they are timed."""
    problem = row.problem(dtype)
    plan = Plan([row], [dtype], [*ours(names, spec), *peers], operations)
    (found,) = measure(plan, spec)
    profile = predicted(problem, spec, Ceilings.measured([dtype]), names, operations)
    profile.is_measured = True
    on_gpu = spec.kind == "cuda"
    tensors = random_tensors(problem, with_gradient="backward" in operations) if on_gpu else {}
    for line in profile.lines:
        record = found.records[line.name]
        line.refusal = record.refused.get(line.operation, "")
        if line.refusal:
            line.counts = None
            continue
        line.time_us = record.times[line.operation].median_us
        line.peak_bytes = record.peak_bytes[line.operation]
        if on_gpu:
            (implementation,) = ours([line.name], spec)
            work = implementation.work(problem, tensors, line.operation)
            line.occupancy = launched(work.run, spec.compute_capability)
    for peer in peers:
        record = found.records[peer.name]
        for operation in operations:
            line = Line(peer.name, operation, refusal=record.refused.get(operation, ""))
            if operation in record.times:
                line.counts = call_counts(peer.computes(problem), operation, Choice(""), spec)
                line.time_us = record.times[operation].median_us
                line.peak_bytes = record.peak_bytes[operation]
            profile.lines.append(line)
    return profile


def _result_bytes(problem: Problem, operation: Pass) -> int:
    channels = problem.heads * problem.value_dim
    if operation == "backward":
        of_keys = problem.kv_heads * (problem.head_dim + problem.value_dim)
        channels = problem.heads * problem.head_dim + of_keys
    return problem.batch * problem.tokens * channels * problem.item_bytes


def _fill(
    line: Line, problem: Problem, choice: Choice, spec: DeviceSpec, stores_weights: bool
) -> None:
    line.kernel = choice.kernel
    line.q_tile, line.kv_tile = choice.q_tile, choice.kv_tile
    line.counts = call_counts(problem, line.operation, choice, spec, stores_weights)
    line.occupancy = occupancies(choice.kernel, spec.compute_capability)


def _backend(name: str, problem: Problem, operation: Pass, spec: DeviceSpec) -> Backend:
    """The backend that a method would run, or the one of that name."""
    for method in METHODS:
        if name == method:
            return select(problem, operation, spec, method)
    backend = next(backend for backend in backends(spec.kind) if backend.name == name)
    refusals = backend.refusals(problem, operation, spec)
    if refusals:
        raise ValueError("; ".join(refusals))
    return backend
