"""Times of GPU work: CUDA graph replays, or launches where one lasts long, in interleaved rounds.

Work on several sets of inputs goes round them, so that none is still in the cache from last time.
"""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

__all__ = ["Repeat", "Times", "interleave", "own_stream"]

# One sample lasts at least this long, so that an event's resolution does not show.
_SAMPLE_US = 1000.0

# Work that lasts longer hides its launches, also those of a library that takes milliseconds for
# them; a graph would only hold its memory a second time.
_LONG_US = 20000.0

# Part of the GPU's memory that a pool may keep from a capture, which has a pool of its own.
_LARGE = 0.1


@dataclass(frozen=True, slots=True)
class Times:
    """Times of one piece of work in microseconds, one for each round."""

    rounds: tuple[float, ...]

    @property
    def median_us(self) -> float:
        return statistics.median(self.rounds)

    def to_json(self) -> dict[str, float]:
        return {
            "median_us": round(self.median_us, 2),
            "least_us": round(min(self.rounds), 2),
            "most_us": round(max(self.rounds), 2),
        }


@contextmanager
def own_stream() -> Iterator[None]:
    """Run everything on one stream that is not the default one.

    torch runs a backward pass on the stream of its forward pass; work that is captured must not
    reach back to the default stream. It is the same stream every time: memory and workspaces of
    torch belong to a stream, and stay with it.
    """
    import torch

    stream = _stream(torch.cuda.current_device())
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        yield
    torch.cuda.current_stream().wait_stream(stream)


@cache
def _stream(device: int) -> Any:
    import torch

    stream = torch.cuda.Stream(device)
    with torch.cuda.stream(stream):
        # The workspace of products comes with the first one, for good: now it takes a block of
        # its own, later it could hold on to one that nearly fills the memory.
        torch.mm(*torch.ones(2, 1, 1, device="cuda"))
    return stream


@contextmanager
def _no_collection() -> Iterator[None]:
    """Keep garbage: an old graph that is taken apart during a capture ends the capture."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class Repeat:
    """Work that can be repeated and timed.

    Parameters
    ----------
    runs : sequence of callable
        Each queues the same work on torch's current stream, on inputs of its own.
    """

    def __init__(self, runs: Sequence[Callable[[], Any]]) -> None:
        self._runs = runs
        self._graph: Any = None
        self._repeats = 1
        # Loads kernels and fills the memory pool, too: neither can be captured.
        self.call_us = self.sample_us()
        if self.call_us < _LONG_US:
            for run in runs:
                run()
            self._graph = self._captured()
            self.sample_us()
            self.call_us = self.sample_us()
        self._repeats = max(1, round(_SAMPLE_US / max(self.call_us * len(runs), 1.0)))

    @property
    def sample_s(self) -> float:
        """How long one sample takes."""
        return self.call_us * len(self._runs) * self._repeats / 1e6

    @property
    def is_graph(self) -> bool:
        """Whether a captured graph is replayed, so that no launch bounds its time."""
        return self._graph is not None

    def _captured(self) -> Any:
        """A graph of the work; None where memory is short or a library cannot be captured."""
        import torch

        # `torch.cuda.graph` always empties the memory pool and collects garbage, which takes
        # longer than all samples of a small problem.
        pooled = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
        if pooled > _LARGE * torch.cuda.mem_get_info()[1]:
            torch.cuda.empty_cache()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        try:
            with _no_collection():
                graph.capture_begin()
                try:
                    self._kept = [run() for run in self._runs]
                finally:
                    graph.capture_end()
        except RuntimeError:
            torch.cuda.synchronize()
            return None
        return graph

    def sample_us(self) -> float:
        """Time of one run, averaged over a few."""
        import torch

        begin = torch.cuda.Event(enable_timing=True)
        end = torch.cuda.Event(enable_timing=True)
        begin.record()
        for _ in range(self._repeats):
            self._once()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) * 1e3 / (self._repeats * len(self._runs))

    def _once(self) -> None:
        if self._graph is not None:
            self._graph.replay()
            return
        for run in self._runs:
            run()


def interleave(
    repeats: Mapping[str, Repeat], rounds: int, limit_s: float = 60.0
) -> dict[str, Times]:
    """Time several works against each other: one sample of each in every round.

    Parameters
    ----------
    repeats : mapping
    rounds : int
        Samples of each; fewer, but at least one, of those that would take more than their share
        of the limit.
    limit_s : float, optional
        For all works together.
    """
    share_s = limit_s / max(1, len(repeats))
    wanted = {
        name: max(1, min(rounds, int(share_s / max(repeat.sample_s, 1e-9))))
        for name, repeat in repeats.items()
    }
    samples: dict[str, list[float]] = {name: [] for name in repeats}
    for done in range(max(wanted.values(), default=0)):
        for name, repeat in repeats.items():
            if done < wanted[name]:
                samples[name].append(repeat.sample_us())
    return {name: Times(tuple(times)) for name, times in samples.items()}
