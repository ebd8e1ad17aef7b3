"""A call's launches, recorded once and repeated on other memory.

What a call launches depends on shapes, layouts and options; only addresses change from one call to
the next. So a call is made twice on made-up addresses with its launches kept back, and every word
of the parameters that follows an address is found by comparison, and so is the array that each
descriptor of boxes belongs to. Repeating it costs those words, those descriptors and the launches.
"""

from __future__ import annotations

import dataclasses
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from cupy.cuda import Device
from cupy.cuda.function import CPointer
from cupy.cuda.runtime import getDevice

from cupyna.arrays.device_array import DeviceArray

from .hopper import tensor_map
from .launch import Stream, launches_kept_back
from .loader import Kernel

__all__ = ["Recording", "record", "words_of"]

# Two places for made-up arrays, a terabyte apart each, as aligned as any pool's memory is.
_SPACING = 1 << 40
_PLACES = (1 << 45, (1 << 45) + 7 * (1 << 36))
_ALIGNMENT = 512
_WORD_BYTES = 8

Arrays = Mapping[str, DeviceArray]
Empty = Callable[[tuple[int, ...], str], DeviceArray]


@dataclasses.dataclass(frozen=True, slots=True)
class _Kept:
    kernel: Kernel
    grid: tuple[int, ...]
    block: tuple[int, ...]
    smem_bytes: int
    words: np.ndarray[Any, Any]
    maps: tuple[int, ...]  # words where descriptors begin


@dataclasses.dataclass(frozen=True, slots=True)
class _Patches:
    """What follows an address: words as (word, array, distance), descriptors as (word, array)."""

    words: list[tuple[int, int, int]]
    maps: list[tuple[int, int]]


class _Launch:
    """One launch with parameters of its own, in which addresses are replaced."""

    __slots__ = (
        "_arguments", "_block", "_function", "_grid", "_maps", "_memory", "_patches", "_smem_bytes",
    )  # fmt: skip

    def __init__(self, kept: _Kept, patches: _Patches) -> None:
        words = _aligned(kept.words)
        self._function = kept.kernel.function
        self._grid, self._block, self._smem_bytes = kept.grid, kept.block, kept.smem_bytes
        self._memory = words.data  # a word set through it costs half of NumPy's
        self._arguments = (CPointer(words.ctypes.data),)
        self._patches = tuple(patches.words)
        self._maps = tuple((words[word:].ctypes.data, array) for word, array in patches.maps)

    def __call__(self, addresses: Sequence[int], stream: Stream) -> None:
        memory = self._memory
        for word, array, offset in self._patches:
            memory[word] = addresses[array] + offset
        for place, array in self._maps:
            tensor_map.replace_address(place, addresses[array])
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
        patches = _patches(one, other, len(names) + len(sizes)) if same else None
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
        maps = tuple(_maps(params.dtype))
        kept.append(_Kept(kernel, grid, block, smem_bytes, words_of(params), maps))

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


def _aligned(words: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A copy, placed so that the driver may change the descriptors in it."""
    step = words.itemsize
    spare = np.empty(len(words) + tensor_map.ALIGNMENT // step, words.dtype)
    start = -spare.ctypes.data % tensor_map.ALIGNMENT // step
    copy = spare[start : start + len(words)]
    copy[:] = words
    return copy


def _maps(dtype: np.dtype[Any], start: int = 0) -> Iterator[int]:
    """The words of a struct at which descriptors begin."""
    element, shape = dtype.subdtype or (dtype, ())
    for i in range(math.prod(shape)):
        place = start + i * element.itemsize
        if element == tensor_map.TENSOR_MAP:
            yield place // _WORD_BYTES
        for name in element.names or ():
            field, offset, *_ = element.fields[name]  # type: ignore[index]
            yield from _maps(field, place + offset)


def _patches(one: _Kept, other: _Kept, count: int) -> _Patches | None:
    """What follows an address in a launch that was kept back twice."""
    if len(one.words) != len(other.words):
        return None
    patches = _Patches([], [])
    before, after = one.words.copy(), other.words.copy()
    for word in one.maps:
        part = slice(word, word + tensor_map.TENSOR_MAP.itemsize // _WORD_BYTES)
        if not np.array_equal(before[part], after[part]):
            array = _array_of(before[part], after[part], count)
            if array is None:
                return None
            patches.maps.append((word, array))
            before[part] = after[part]
    for word, (a, b) in enumerate(zip(before.tolist(), after.tolist(), strict=True)):
        if a == b:
            continue
        array, offset = divmod(a - _PLACES[0], _SPACING)
        if not 0 <= array < count or b != _PLACES[1] + array * _SPACING + offset:
            return None
        patches.words.append((word, array, offset))
    return patches


def _array_of(before: np.ndarray[Any, Any], after: np.ndarray[Any, Any], count: int) -> int | None:
    """The array that a descriptor belongs to: with its other address, it is the other one."""
    moved = _aligned(before)
    for array in range(count):
        tensor_map.replace_address(moved.ctypes.data, _PLACES[1] + array * _SPACING)
        if np.array_equal(moved, after):
            return array
    return None
