"""Which keys a query sees, and which queries see a key, along one axis.

Integers only, and the twin of ``cuda_src/geometry/window.cuh``: a test proves the two equal.

Dilation splits an axis into groups that never meet: token ``i`` is position ``i // dilation`` of
group ``i % dilation``. A :class:`Line` is one such group and knows nothing of dilation; an
:class:`Axis` is the whole axis. The window of a token of a grid is the product of its axis windows.

Every method takes an integer or an integer array of positions and answers in kind.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Axis", "Line"]


@dataclass(frozen=True, slots=True)
class Line:
    """One dilation group of an axis: `length` positions under a window that slides along them.

    Both bounds of a window never decrease from one position to the next. The queries that see a
    key are therefore an interval too, and the box of a whole tile of neighbours is the interval
    from its first window's begin to its last window's end.
    """

    length: int
    kernel_size: int
    stride: int
    is_causal: bool

    @property
    def left(self) -> int:
        """Keys before the leader of a window; an even window has one fewer after it."""
        return self.kernel_size // 2

    def window_begin(self, position: Any) -> Any:
        """First key that the query at `position` sees."""
        first_of_stride = position // self.stride * self.stride
        if self.is_causal:
            leader = np.minimum(first_of_stride + self.stride - 1, self.length - 1)
            return np.maximum(leader - self.kernel_size + 1, 0)
        leader = np.minimum(first_of_stride + self.stride // 2, self.length - 1)
        return np.clip(leader - self.left, 0, self.length - self.kernel_size)

    def window_end(self, position: Any) -> Any:
        """One past the last key that the query at `position` sees."""
        if self.is_causal:
            return np.minimum(position + 1, self.length)
        return self.window_begin(position) + self.kernel_size

    def query_begin(self, key: Any) -> Any:
        """First query that sees the key at position `key`."""
        if self.is_causal:
            return key + 0
        return np.where(key < self.kernel_size, 0, self._first_window_past(key - self.kernel_size))

    def query_end(self, key: Any) -> Any:
        """One past the last query that sees the key at position `key`."""
        if self.is_causal:
            # leader - kernel_size < key, for the leader that closes the query's stride group
            past = (key + self.kernel_size) // self.stride * self.stride
            sees_all = key + self.kernel_size >= self.length
        else:
            past = self._first_window_past(key)
            sees_all = key >= self.length - self.kernel_size
        return np.where(sees_all, self.length, np.minimum(past, self.length))

    def _first_window_past(self, key: Any) -> Any:
        """First query whose (unclipped) window begins after `key`; windows are not causal."""
        beyond = key + self.left + 1 - self.stride // 2
        return np.minimum(-(-beyond // self.stride) * self.stride, self.length)


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis of a grid of tokens, with its window.

    Parameters
    ----------
    length : int
        Number of tokens.
    kernel_size : int
        Keys in a window; ``kernel_size * dilation <= length``.
    stride : int
        Queries that share one window; ``1 <= stride <= kernel_size``.
    dilation : int
        Distance between neighbours, in tokens.
    is_causal : bool
        Whether a query sees no key after itself.
    """

    length: int
    kernel_size: int
    stride: int = 1
    dilation: int = 1
    is_causal: bool = False

    def group_length(self, group: int) -> int:
        """Number of tokens ``i`` with ``i % dilation == group``; groups may differ by one."""
        return (self.length - group + self.dilation - 1) // self.dilation

    def line(self, group: int) -> Line:
        """The positions of one dilation group."""
        return Line(self.group_length(group), self.kernel_size, self.stride, self.is_causal)

    def lines(self) -> Iterator[tuple[int, Line]]:
        """Every dilation group with its line."""
        return ((group, self.line(group)) for group in range(self.dilation))

    def tokens(self, group: int, begin: int, end: int) -> slice:
        """The slice of the axis that positions ``begin..end`` of `group` occupy."""
        return slice(
            group + begin * self.dilation, group + (end - 1) * self.dilation + 1, self.dilation
        )

    def windows(self) -> tuple[np.ndarray, np.ndarray]:
        """Begin and end position of the window of every token, each of shape ``[length]``."""
        begins = np.empty(self.length, np.int64)
        ends = np.empty(self.length, np.int64)
        for group, line in self.lines():
            positions = np.arange(line.length)
            begins[group :: self.dilation] = line.window_begin(positions)
            ends[group :: self.dilation] = line.window_end(positions)
        return begins, ends

    def neighbors(self) -> tuple[np.ndarray, np.ndarray]:
        """Key token of every window slot, and whether the slot holds a key.

        Returns
        -------
        tokens : ndarray of int64, shape [length, kernel_size]
            Slot ``j`` is key position ``window_begin + j``; empty slots name the first key.
        is_key : ndarray of bool, shape [length, kernel_size]
            False where a causal window has shrunk.
        """
        begins, ends = self.windows()
        groups = np.arange(self.length) % self.dilation
        return _slots(begins, ends, self.kernel_size, groups, self.dilation)

    def inverse_neighbors(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Query tokens that see each key token, their slot for it, and whether there is one.

        Returns
        -------
        tokens, slots : ndarray of int64, shape [length, most]
            The ``r``-th query that sees the key, and the window slot in which it sees it.
        is_query : ndarray of bool, shape [length, most]
            `most` is the largest number of queries that see one key.
        """
        begins = np.empty(self.length, np.int64)
        ends = np.empty(self.length, np.int64)
        for group, line in self.lines():
            positions = np.arange(line.length)
            begins[group :: self.dilation] = line.query_begin(positions)
            ends[group :: self.dilation] = line.query_end(positions)
        groups = np.arange(self.length) % self.dilation
        tokens, is_query = _slots(begins, ends, int((ends - begins).max()), groups, self.dilation)
        window_begins, _ = self.windows()
        keys = np.arange(self.length) // self.dilation
        return tokens, np.where(is_query, keys[:, None] - window_begins[tokens], 0), is_query


def _slots(
    begins: np.ndarray, ends: np.ndarray, count: int, groups: np.ndarray, dilation: int
) -> tuple[np.ndarray, np.ndarray]:
    """Tokens at ``begin, begin + 1, ...`` of each interval, padded to `count` with its first."""
    positions = begins[:, None] + np.arange(count)
    inside = positions < ends[:, None]
    tokens = groups[:, None] + np.where(inside, positions, begins[:, None]) * dilation
    return tokens, inside
