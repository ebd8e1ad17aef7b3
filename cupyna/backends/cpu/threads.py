"""All cores over tiles: a pool of threads, each with a BLAS that stays on its own core."""

from __future__ import annotations

import itertools
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from itertools import islice
from typing import Any, TypeVar

from ...devices import thread_count

__all__ = ["map_tiles"]

Item = TypeVar("Item")
Result = TypeVar("Result")

# Runs of items in flight per thread: enough to keep every core busy, few enough to bound memory.
_IN_FLIGHT = 2
# Handing a tile to another thread costs as much as a small tile's work, so tiles go in runs.
_LONGEST_RUN = 64


def map_tiles(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """``function`` of every item, in order, on all cores; BLAS runs on one thread in each.

    The pool lives for one call: no thread outlives it, so a later fork is safe.
    """
    threads = thread_count()
    with _single_threaded_blas():
        if threads == 1:
            yield from map(function, items)
            return

        def apply(run: list[Item]) -> list[Result]:
            return [function(item) for item in run]

        runs = _runs(items, threads)
        with ThreadPoolExecutor(threads, "cupyna", _spread(threads)) as pool:
            waiting = deque(pool.submit(apply, run) for run in islice(runs, threads * _IN_FLIGHT))
            try:
                while waiting:
                    yield from waiting.popleft().result()
                    waiting.extend(pool.submit(apply, run) for run in islice(runs, 1))
            finally:
                for future in waiting:
                    future.cancel()


def _spread(threads: int) -> Callable[[], None]:
    """What a thread does first: where all cores are used, keep to one of its own.

    Threads that wait for the interpreter's lock wake each other, and a scheduler that takes them
    for partners in a conversation puts them on one core and leaves the other idle.
    """
    if not hasattr(os, "sched_setaffinity"):
        return lambda: None
    cores = sorted(os.sched_getaffinity(0))
    if threads < len(cores):
        return lambda: None
    own = itertools.cycle(cores)
    return lambda: os.sched_setaffinity(threading.get_native_id(), {next(own)})


def _runs(items: Iterable[Item], threads: int) -> Iterator[list[Item]]:
    """Runs that grow with the items seen, so that the last leaves other cores idle only briefly."""
    source, seen = iter(items), 0
    while run := list(islice(source, min(1 + seen // (8 * threads), _LONGEST_RUN))):
        seen += len(run)
        yield run


class _BlasLimit:
    """Holds BLAS at one thread while anyone needs it.

    The limit belongs to the process, so calls that overlap share it: the first sets it, the last
    lifts it. Each lifting its own would restore the other's limit, and leave BLAS slow for good.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holders = 0
        self._limit: Any = None

    @contextmanager
    def held(self) -> Iterator[None]:
        with self._lock:
            if self._holders == 0:
                self._limit = _blas_controller().limit(limits=1, user_api="blas")
            self._holders += 1
        try:
            yield
        finally:
            with self._lock:
                self._holders -= 1
                if self._holders == 0:
                    self._limit.restore_original_limits()
                    self._limit = None


_BLAS_LIMIT = _BlasLimit()
_single_threaded_blas = _BLAS_LIMIT.held


@cache
def _blas_controller() -> Any:
    """Finding the loaded libraries takes milliseconds, so it is done once."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()
