"""Times of GPU work: CUDA graph replays in interleaved rounds."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Replay", "Times", "interleave"]

# One sample lasts at least this long, so that an event's resolution does not show.
_SAMPLE_US = 3000.0


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


class Replay:
    """Work captured once as a CUDA graph, so that no launch bounds its time.

    Parameters
    ----------
    run : callable
        Queues the work on torch's current stream.
    """

    def __init__(self, run: Callable[[], Any]) -> None:
        import torch

        run()  # loads kernels and fills the memory pool: neither can be captured
        torch.cuda.synchronize()
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self.result = run()
        self._graph.replay()
        torch.cuda.synchronize()
        self._repeats = 1
        self._repeats = max(1, round(_SAMPLE_US / max(self.sample_us(), 1.0)))

    def sample_us(self) -> float:
        """Time of one replay, averaged over a few."""
        import torch

        begin = torch.cuda.Event(enable_timing=True)
        end = torch.cuda.Event(enable_timing=True)
        begin.record()
        for _ in range(self._repeats):
            self._graph.replay()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) * 1e3 / self._repeats


def interleave(works: Mapping[str, Callable[[], Any]], rounds: int) -> Iterator[tuple[str, Times]]:
    """Time several works against each other: one sample of each in every round."""
    replays = {name: Replay(run) for name, run in works.items()}
    samples: dict[str, list[float]] = {name: [] for name in replays}
    for _ in range(rounds):
        for name, replay in replays.items():
            samples[name].append(replay.sample_us())
    for name, times in samples.items():
        yield name, Times(tuple(times))
