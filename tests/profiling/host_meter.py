"""What measures on the CPU in place of a GPU."""

from __future__ import annotations

import time
from contextlib import nullcontext


class Clock:
    """Stands for a captured graph."""

    is_graph = False

    def __init__(self, runs):
        self._runs = runs
        self.call_us = self.sample_us()

    @property
    def sample_s(self) -> float:
        return self.call_us * len(self._runs) / 1e6

    def sample_us(self) -> float:
        begin = time.perf_counter()
        for run in self._runs:
            run()
        return (time.perf_counter() - begin) * 1e6 / len(self._runs)


class HostMeter:
    place = "cpu"
    free = 1 << 30

    def stream(self):
        return nullcontext()

    def free_bytes(self) -> int:
        return self.free

    def settle(self) -> None:
        pass

    def run(self, work, like, count):
        return work(), 4096

    def repeat(self, runs):
        return Clock(runs)
