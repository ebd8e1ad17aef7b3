"""Whose array is this: read it where it is, allocate like it, hand results back as its kind."""

from .detection import library_of
from .device_array import (
    DeviceArray,
    has_forward_strides,
    has_short_steps,
    has_vector_rows,
)
from .library import Device, Library, View

__all__ = [
    "Device",
    "DeviceArray",
    "Library",
    "View",
    "has_forward_strides",
    "has_short_steps",
    "has_vector_rows",
    "library_of",
]
