"""Check and time implementations on problems, one after the other.

Nothing is timed before its results were compared with exact ones. Whatever cannot run is recorded
with its reason, and the run goes on.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from time import monotonic
from typing import Any

from ..problem import DeviceSpec, Problem
from ..tolerance import Deviation
from .checks import Check
from .implementations import DIRECTIONS, PIECES, Direction, Implementation, Refused
from .meter import Meter, random_tensors
from .problems import Row
from .records import Measurement, Record, flops
from .timing import Repeat, interleave

__all__ = ["Plan", "measure"]

# Sets of inputs that together do not fit in the cache.
_MOST_SETS = 16

# No GPU makes more operations in a microsecond; what would take too long even so is not begun.
_FASTEST = 4e9

# Times from which on an implementation has reached its rate, which larger problems do not raise.
_STEADY_US = 10000.0

# Operations in a microsecond by implementation, direction and dtype.
Rates = dict[tuple[str, str, str], float]

# Runs of one time at least: to check, to see how long it takes, and a sample.
_LEAST_RUNS = 3

# Of the time for a problem, what rounds may take; the rest is for checks and for getting ready.
_ROUNDS_SHARE = 0.5

# Work that takes more of the free memory begins with an empty pool.
_LARGE = 0.25

# Error that some peers' sums in half precision make, relative to the largest value.
_ROUGH = 0.03


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure, and how long it may take.

    Parameters
    ----------
    rows : sequence of Row
    dtypes : sequence of str
    implementations : sequence of Implementation
    directions : sequence of str, optional
    rounds : int, optional
        Interleaved samples of each implementation.
    limit_s : float, optional
        Time for one problem in one dtype. What has not begun by then, or would take most of it
        alone, is recorded as refused; what is slow is run in fewer rounds.
    allow_tf32 : bool, optional
        Whether our float32 products may be rounded to TF32, as other libraries' are.
    """

    rows: Sequence[Row]
    dtypes: Sequence[str]
    implementations: Sequence[Implementation]
    directions: Sequence[Direction] = DIRECTIONS
    rounds: int = 5
    limit_s: float = 30.0
    allow_tf32: bool = False

    def problem(self, row: Row, dtype: str) -> Problem:
        """A row as it is measured."""
        return replace(row.problem(dtype), allow_tf32=self.allow_tf32 and dtype == "float32")

    @property
    def count(self) -> int:
        """Problems times dtypes."""
        return len(self.rows) * len(self.dtypes)


def measure(plan: Plan, device: DeviceSpec, meter: Meter | None = None) -> Iterator[Measurement]:
    """Measure every problem of a plan in every dtype."""
    meter = Meter() if meter is None else meter
    # Every collection goes over all there is, but for what is frozen.
    gc.freeze()
    rates: Rates = {}
    try:
        for row in plan.rows:
            for dtype in plan.dtypes:
                with meter.stream():
                    problem = plan.problem(row, dtype)
                    found = _Bench(plan, device, meter, row, problem, rates).measure()
                    meter.settle()
                gc.freeze()  # what is left is kept: tile searches remember a lot
                yield found
    finally:
        gc.unfreeze()


def _is_rough(found: Deviation) -> bool:
    """Whether an error looks like a peer's coarser rounding: it is told, and the time counts."""
    return 0 < found.largest <= _ROUGH * found.scale


class _Bench:
    """One problem in one dtype."""

    def __init__(
        self,
        plan: Plan,
        device: DeviceSpec,
        meter: Meter,
        row: Row,
        problem: Problem,
        rates: Rates,
    ) -> None:
        self._plan = plan
        self._rates = rates
        self._meter = meter
        self._problem = problem
        self._sinks = row.sinks
        self._found = Measurement(row.suite, row.name, problem)
        self._count = max(1, min(_MOST_SETS, -(-2 * device.l2_bytes // problem.least_bytes)))
        self._sets: list[dict[str, Any]] = []
        self._checks: dict[Problem, Check] = {}
        self._start = monotonic()

    def measure(self) -> Measurement:
        import torch

        for implementation in self._plan.implementations:
            self._found.records[implementation.name] = Record()
        with_gradient = any(direction != "forward" for direction in self._plan.directions)
        with_weights = any(direction in PIECES for direction in self._plan.directions)
        try:
            for seed in range(self._count):
                self._sets.append(
                    random_tensors(
                        self._problem,
                        seed,
                        with_gradient,
                        with_weights,
                        self._sinks,
                        self._meter.place,
                    )
                )
        except torch.OutOfMemoryError:
            for record in self._found.records.values():
                record.refused |= dict.fromkeys(self._plan.directions, "the inputs do not fit")
            return self._found
        for direction in self._plan.directions:
            repeats = {}
            for implementation in self._plan.implementations:
                repeat = self._guarded(implementation, direction)
                if repeat is not None:
                    repeats[implementation.name] = repeat
            share_s = _ROUNDS_SHARE * self._plan.limit_s / len(self._plan.directions)
            times = interleave(repeats, self._plan.rounds, share_s)
            for name, found in times.items():
                record = self._found.records[name]
                record.times[direction] = found
                self._learn(name, direction, found.median_us)
                record.is_graph[direction] = repeats[name].is_graph
            repeats.clear()
            self._meter.settle()
        return self._found

    def _learn(self, name: str, direction: Direction, median_us: float) -> None:
        """Remember the best rate of what takes long."""
        if median_us < _STEADY_US:
            return
        implementation = next(one for one in self._plan.implementations if one.name == name)
        rate = flops(implementation.computes(self._problem), direction) / median_us
        key = (name, direction, self._problem.dtype)
        self._rates[key] = max(rate, self._rates.get(key, 0.0))

    def _guarded(self, implementation: Implementation, direction: Direction) -> Repeat | None:
        """The work made ready, or a reason in the record."""
        import torch

        record = self._found.records[implementation.name]
        try:
            return self._ready(implementation, direction, record)
        except Refused as reason:
            record.refused[direction] = str(reason)
        except torch.OutOfMemoryError:
            record.refused[direction] = "memory is short"
        except Exception as error:  # a peer may raise anything; a run of hours goes on
            record.refused[direction] = f"{type(error).__name__}: {str(error).strip()[:300]}"
        self._meter.settle()  # raises where the device is lost, which ends the run
        return None

    def _ready(
        self, implementation: Implementation, direction: Direction, record: Record
    ) -> Repeat:
        if monotonic() - self._start > self._plan.limit_s:
            raise Refused(f"no time left of {self._plan.limit_s:g} s for the problem")
        if self._sinks and not implementation.is_ours:
            raise Refused("is called without tokens beside the grid")
        needed = implementation.memory_bytes(self._problem, direction)
        free = self._meter.free_bytes()
        if needed > free:
            raise Refused(
                f"takes {needed / 2**30:.1f} GiB beside its inputs, and {free / 2**30:.1f} are free"
            )
        computed = implementation.computes(self._problem)
        rate = self._rates.get((implementation.name, direction, self._problem.dtype), _FASTEST)
        least_s = flops(computed, direction) / rate / 1e6
        if _LEAST_RUNS * least_s > self._plan.limit_s:
            raise Refused(f"would take {least_s:.1f} s a call or more")
        check = self._check(computed)
        if direction != "forward" and not check.reaches_keys:
            raise Refused("has gradients that are too large to be checked")
        works = [implementation.work(self._problem, self._sets[0], direction)]
        record.about[direction] = dict(works[0].about)
        expected_s = works[0].expected_us / 1e6
        if _LEAST_RUNS * expected_s > self._plan.limit_s:
            raise Refused(f"would take {expected_s:.1f} s a call, as its model has it")
        works += [implementation.work(self._problem, t, direction) for t in self._sets[1:]]
        if needed > _LARGE * free:
            self._meter.settle()
        kept, record.peak_bytes[direction] = self._meter.run(
            works[0].run,
            self._sets[0]["weights" if direction in ("qk", "av_backward") else "q"],
            1 if direction in ("forward", "qk", "av") else 3,
        )
        deviations = check.deviations(works[0].read(kept), direction)
        record.deviations[direction] = deviations
        del kept
        complaints = [
            found.complaint
            for found in deviations.values()
            if found.complaint and (implementation.is_ours or not _is_rough(found))
        ]
        if complaints:
            raise Refused(f"wrong: {'; '.join(complaints)}")
        if needed > _LARGE * free:
            self._meter.settle()  # pieces of a large block that was freed may be in use
        return self._meter.repeat([work.run for work in works])

    def _check(self, problem: Problem) -> Check:
        if problem not in self._checks:
            self._checks[problem] = Check(problem, self._sets[0])
        return self._checks[problem]
