"""A call's launches, recorded once and repeated on other memory.

What a call launches depends on shapes, layouts and options; only addresses change from one call to
the next. So a call is made twice on made-up addresses with its launches kept back, and every word
of the parameters that follows an address is found by comparison. Repeating it costs those words
and the launches.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from cupy.cuda import Device
from cupy.cuda.function import CPointer
from cupy.cuda.runtime import getDevice

from cupyna.arrays.device_array import DeviceArray

from .launch import Stream, launches_kept_back
from .loader import Kernel

__all__ = ["Recording", "record", "words_of"]

# Two places for made-up arrays, a terabyte apart each, as aligned as any pool's memory is.
_SPACING = 1 << 40
_PLACES = (1 << 45, (1 << 45) + 7 * (1 << 36))
_ALIGNMENT = 512

Arrays = Mapping[str, DeviceArray]
Empty = Callable[[tuple[int, ...], str], DeviceArray]


@dataclasses.dataclass(frozen=True, slots=True)
class _Kept:
    kernel: Kernel
    grid: tuple[int, ...]
    block: tuple[int, ...]
    smem_bytes: int
    words: np.ndarray[Any, Any]


class _Launch:
    """One launch with parameters of its own, in which addresses are replaced."""

    __slots__ = ("_arguments", "_block", "_function", "_grid", "_memory", "_patches", "_smem_bytes")

    def __init__(self, kept: _Kept, patches: Sequence[tuple[int, int, int]]) -> None:
        words = kept.words.copy()
        self._function = kept.kernel.function
        self._grid, self._block, self._smem_bytes = kept.grid, kept.block, kept.smem_bytes
        self._memory = words.data  # a word set through it costs half of NumPy's
        self._arguments = (CPointer(words.ctypes.data),)
        self._patches = tuple(patches)

    def __call__(self, addresses: Sequence[int], stream: Stream) -> None:
        memory = self._memory
        for word, array, offset in self._patches:
            memory[word] = addresses[array] + offset
        self._function(self._grid, self._block, self._arguments, self._smem_bytes, stream)


class Recording:
    """The launches of one call.

    Parameters
    ----------
    names : sequence of str
        Arrays of the call, in the order in which :meth:`__call__` takes their addresses.
    workspace_bytes : int
        Memory that it needs beside them, aligned to 512 bytes.

    Notes
    -----
    Any thread may repeat a recording: the driver copies parameters while a launch is queued, and
    until then no other thread changes them.
    """

    def __init__(
        self, names: Sequence[str], workspaces: Sequence[int], launches: Sequence[_Launch],
        device: int,
    ) -> None:  # fmt: skip
        self.names = tuple(names)
        self._workspaces = tuple(workspaces)
        self.workspace_bytes = sum(workspaces)
        self._launches = tuple(launches)
        self._device = device
        self._stream = Stream(0)
        self._lock = threading.Lock()

    def __call__(self, addresses: list[int], workspace: int, stream: int) -> None:
        """Queue the launches on a stream of the recording's device.

        Parameters
        ----------
        addresses : list of int
            Of the arrays, all multiples of 16; it is extended by this call.
        workspace : int
            Address of `workspace_bytes` bytes; any number where none are needed.
        stream : int
            Raw ``cudaStream_t``.
        """
        for size in self._workspaces:
            addresses.append(workspace)
            workspace += size
        if getDevice() != self._device:
            with Device(self._device):
                self._queue(addresses, stream)
        else:
            self._queue(addresses, stream)

    def _queue(self, addresses: Sequence[int], stream: int) -> None:
        with self._lock:
            self._stream.ptr = stream
            for launch in self._launches:
                launch(addresses, self._stream)


def record(arrays: Arrays, device: int, call: Callable[[Arrays, Empty], None]) -> Recording | None:
    """Record a call that does all of its work by `launch`, on memory it is given.

    Parameters
    ----------
    arrays : dict
        Arrays of the call by name; their addresses are not used.
    device : int
        CUDA device ordinal.
    call : callable
        ``call(arrays, empty)`` launches the work for arrays of the same shapes and layouts.

    Returns
    -------
    Recording or None
        None where parameters follow an address in another way than by a fixed distance.
    """
    first, second = (_keep_back(arrays, place, device, call) for place in _PLACES)
    names, kept, sizes = first
    if second[0] != names or second[2] != sizes or len(second[1]) != len(kept):
        return None
    launches = []
    for one, other in zip(kept, second[1], strict=True):
        same = (one.kernel, one.grid, one.block) == (other.kernel, other.grid, other.block)
        patches = _patches(one.words, other.words, len(names) + len(sizes)) if same else None
        if patches is None:
            return None
        launches.append(_Launch(one, patches))
    return Recording(names, sizes, launches, device)


def _keep_back(
    arrays: Arrays, place: int, device: int, call: Callable[[Arrays, Empty], None]
) -> tuple[list[str], list[_Kept], list[int]]:
    """Make the call on made-up addresses: its arrays, launches and sizes of workspace."""
    kept: list[_Kept] = []
    sizes: list[int] = []

    def take(
        kernel: Kernel, grid: tuple[int, ...], block: tuple[int, ...], smem_bytes: int,
        params: np.ndarray[Any, Any],
    ) -> None:  # fmt: skip
        kept.append(_Kept(kernel, grid, block, smem_bytes, words_of(params)))

    def empty(shape: tuple[int, ...], dtype: str) -> DeviceArray:
        address = place + (len(arrays) + len(sizes)) * _SPACING
        array = DeviceArray.contiguous(address, shape, dtype, device)
        sizes.append(-(-array.size * array.item_bytes // _ALIGNMENT) * _ALIGNMENT)
        return array

    made_up = {
        name: dataclasses.replace(array, pointer=place + i * _SPACING)
        for i, (name, array) in enumerate(arrays.items())
    }
    with launches_kept_back(take):
        call(made_up, empty)
    return list(arrays), kept, sizes


def words_of(params: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The words of a struct, with zeros in its padding, which holds anything otherwise."""
    clean = np.zeros(params.shape, params.dtype)
    _copy_fields(params, clean)
    return np.frombuffer(clean.tobytes(), np.uint64)


def _copy_fields(source: np.ndarray[Any, Any], target: np.ndarray[Any, Any]) -> None:
    if source.dtype.names is None:
        target[...] = source
        return
    for name in source.dtype.names:
        _copy_fields(source[name], target[name])


def _patches(
    one: np.ndarray[Any, Any], other: np.ndarray[Any, Any], count: int
) -> list[tuple[int, int, int]] | None:
    """Words that follow an address: where, whose, and how far behind it."""
    if len(one) != len(other):
        return None
    patches = []
    for word, (a, b) in enumerate(zip(one.tolist(), other.tolist(), strict=True)):
        if a == b:
            continue
        array, offset = divmod(a - _PLACES[0], _SPACING)
        if not 0 <= array < count or b != _PLACES[1] + array * _SPACING + offset:
            return None
        patches.append((word, array, offset))
    return patches
