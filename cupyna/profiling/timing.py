"""Times of GPU work: CUDA graph replays, or launches where one lasts long, in interleaved rounds.

Work on several sets of inputs goes round them, so that none is still in the cache from last time.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

__all__ = ["Repeat", "Times", "interleave", "own_stream"]

# One sample lasts at least this long, so that an event's resolution does not show.
_SAMPLE_US = 2000.0

# Work that lasts longer hides its launches, also those of a library that takes milliseconds for
# them; a graph would only hold its memory a second time.
_LONG_US = 20000.0


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
    reach back to the default stream.
    """
    import torch

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        yield
    torch.cuda.current_stream().wait_stream(stream)


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
        for run in runs:  # loads kernels and fills the memory pool: neither can be captured
            run()
        self._repeats = 1
        if self.sample_us() < _LONG_US:
            self._graph = self._captured()
        self.sample_us()
        self.call_us = self.sample_us()
        self._repeats = max(1, round(_SAMPLE_US / max(self.call_us * len(runs), 1.0)))

    @property
    def is_graph(self) -> bool:
        """Whether a captured graph is replayed, so that no launch bounds its time."""
        return self._graph is not None

    def _captured(self) -> Any:
        """A graph of the work; None where memory is short or a library cannot be captured."""
        import torch

        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
                self._kept = [run() for run in self._runs]
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
        Samples of each; fewer, but at least one, where they would last longer than the limit.
    limit_s : float, optional
        For all rounds together.
    """
    round_s = sum(max(repeat.call_us, _SAMPLE_US) for repeat in repeats.values()) / 1e6
    rounds = max(1, min(rounds, int(limit_s / max(round_s, 1e-9)))) if repeats else 0
    samples: dict[str, list[float]] = {name: [] for name in repeats}
    for _ in range(rounds):
        for name, repeat in repeats.items():
            samples[name].append(repeat.sample_us())
    return {name: Times(tuple(times)) for name, times in samples.items()}
