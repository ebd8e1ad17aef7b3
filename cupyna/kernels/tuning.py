"""Choices that were measured once: their times, and the files that remember them.

What is remembered of one problem on one kind of device is one small JSON file beside the kernels
compiled here. Its name holds a digest of all that decides the choice, the device sources among it,
so what other kernels were measured for is simply not looked for.
"""

from __future__ import annotations

import hashlib
import json
import re
import statistics
from collections.abc import Callable
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

from cupyna.problem import DeviceSpec, Operation, Problem

from .cache import cache_directory, writable_directory, write_whole
from .sources import installed_sources

__all__ = ["is_capturing", "recall", "remember", "repeated_us"]

# One sample lasts about this long, so that an event's resolution does not show.
_SAMPLE_US = 1000.0
_SAMPLES = 3
_MOST_REPEATS = 100


def recall(method: str, problem: Problem, operation: Operation, device: DeviceSpec) -> Any:
    """What was remembered; None where nothing is, or where it cannot be read.

    Parameters
    ----------
    method : str
        Whose choice it is.
    problem : Problem
    operation : str
    device : DeviceSpec
    """
    try:
        return json.loads(_path(cache_directory(), method, problem, operation, device).read_bytes())
    except (OSError, ValueError):
        return None


def remember(
    method: str, problem: Problem, operation: Operation, device: DeviceSpec, choice: Any
) -> None:
    """Write a choice, as plain objects, for :func:`recall` in this and every later process."""
    directory = writable_directory(cache_directory())
    path = _path(directory, method, problem, operation, device)
    path.parent.mkdir(exist_ok=True)
    write_whole(path, json.dumps(choice, indent=1).encode())


@lru_cache(maxsize=1024)
def _path(
    directory: Path, method: str, problem: Problem, operation: Operation, device: DeviceSpec
) -> Path:
    decides = [asdict(problem), installed_sources().digest, *_identity(device)]
    key = hashlib.sha256(json.dumps(decides).encode()).hexdigest()
    name = re.sub(r"\W+", "_", device.name)
    return directory / "tuned" / f"{method}_{operation}.{name}.{key[:16]}.json"


def _identity(device: DeviceSpec) -> tuple[Any, ...]:
    """Equal for devices that would be measured alike."""
    return device.name, device.compute_capability, device.processors, device.smem_bytes


def repeated_us(run: Callable[[], None], device: int, stream: int) -> float:
    """Time of one run of what `run` queues, in microseconds.

    Parameters
    ----------
    run : callable
        Queues the same launches every time.
    device : int
        CUDA device ordinal.
    stream : int
        Raw ``cudaStream_t`` that `run` queues on.

    Returns
    -------
    float
        The median of several samples; of one where a run lasts long.
    """
    from cupy.cuda import Device, runtime

    with Device(device):
        begin, end = runtime.eventCreate(), runtime.eventCreate()
        try:

            def sample(repeats: int) -> float:
                runtime.eventRecord(begin, stream)
                for _ in range(repeats):
                    run()
                runtime.eventRecord(end, stream)
                runtime.eventSynchronize(end)
                return float(runtime.eventElapsedTime(begin, end)) * 1e3 / repeats

            sample(1)  # the first one loads kernels and fills caches
            once = sample(1)
            if once > _SAMPLE_US * _MOST_REPEATS:
                return once
            repeats = max(1, min(_MOST_REPEATS, round(_SAMPLE_US / max(once, 1.0))))
            return statistics.median(sample(repeats) for _ in range(_SAMPLES))
        finally:
            runtime.eventDestroy(begin)
            runtime.eventDestroy(end)


def is_capturing(stream: int) -> bool:
    """Whether a CUDA graph is captured on the stream: nothing can be measured then."""
    from cupy.cuda import runtime

    return bool(runtime.streamIsCapturing(stream))
