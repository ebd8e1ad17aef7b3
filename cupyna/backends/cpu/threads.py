"""All cores over tiles: a pool of threads, each with a BLAS that stays on its own core."""

from __future__ import annotations

import threading
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

# Items in flight per thread: enough to keep every core busy, few enough to bound memory.
_IN_FLIGHT = 4


def map_tiles(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """``function`` of every item, in order, on all cores; BLAS runs on one thread in each.

    The pool lives for one call: no thread outlives it, so a later fork is safe.
    """
    threads = thread_count()
    with _single_threaded_blas():
        if threads == 1:
            yield from map(function, items)
            return
        source = iter(items)
        with ThreadPoolExecutor(threads, thread_name_prefix="cupyna") as pool:
            waiting = [pool.submit(function, item) for item in islice(source, threads * _IN_FLIGHT)]
            try:
                while waiting:
                    yield waiting.pop(0).result()
                    waiting.extend(pool.submit(function, item) for item in islice(source, 1))
            finally:
                for future in waiting:
                    future.cancel()


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
