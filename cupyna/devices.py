"""The figures of the device that a call runs on."""

from __future__ import annotations

import os
import platform

from .arrays import Device
from .problem import DeviceSpec

__all__ = ["device_spec", "thread_count"]


def device_spec(device: Device) -> DeviceSpec:
    """What is known of a device; a CPU counts the threads that would be used."""
    if device.kind == "cuda":
        from .kernels.device import device_spec as cuda_device_spec

        return cuda_device_spec(device.index)
    name = platform.machine() or "CPU"
    return DeviceSpec(name=f"{name} CPU", kind="cpu", processors=thread_count())


def thread_count() -> int:
    """Threads to use: ``CUPYNA_NUM_THREADS``, else the cores this process may run on.

    Raises
    ------
    ValueError
        If the variable is set to anything but a positive integer.
    """
    asked = os.environ.get("CUPYNA_NUM_THREADS")
    if asked is not None:
        if not asked.strip().isdecimal() or int(asked) < 1:
            raise ValueError(f"CUPYNA_NUM_THREADS must be a positive integer, got {asked!r}")
        return int(asked)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
