"""Whose array is this: read it where it is, allocate like it, hand results back as its kind."""

from .device_array import DeviceArray
from .library import Device, Library, View, library_of

__all__ = ["Device", "DeviceArray", "Library", "View", "library_of"]
