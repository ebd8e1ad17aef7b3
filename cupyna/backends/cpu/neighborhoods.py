"""Neighbors of a run of tokens as index tables: tokens are numbered in the order of the grid."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ...problem import Problem

__all__ = [
    "InverseNeighborhoods",
    "Neighborhoods",
    "chunks",
    "inverse_neighborhoods",
    "neighborhoods",
]

# Entries of one index table.
_TABLE_ENTRIES = 1 << 18


@dataclass(frozen=True, slots=True)
class Neighborhoods:
    """Windows of some tokens, each ``[tokens, window]``.

    `keys` numbers the key tokens, `is_key` is False in empty slots of causal windows, `bias` is
    the flat index of the slot's relative position. Slots of one token have distinct positions.
    """

    keys: np.ndarray
    is_key: np.ndarray
    bias: np.ndarray


@dataclass(frozen=True, slots=True)
class InverseNeighborhoods:
    """Queries that see some key tokens and the slot they see it in, each ``[tokens, most]``."""

    queries: np.ndarray
    slots: np.ndarray
    is_query: np.ndarray


def chunks(problem: Problem) -> Iterator[slice]:
    """The grid's tokens in runs whose tables stay small."""
    step = max(1, _TABLE_ENTRIES // problem.window)
    return (slice(begin, begin + step) for begin in range(0, problem.tokens, step))


def neighborhoods(problem: Problem, tokens: slice) -> Neighborhoods:
    """The windows of a run of tokens."""
    keys, is_key, bias = (
        _start(problem, tokens),
        _start(problem, tokens) == 0,
        _start(problem, tokens),
    )
    for axis, own in zip(problem.axes, _coordinates(problem, tokens), strict=True):
        near, inside = (table[own] for table in axis.neighbors())
        begins, _ = axis.windows()
        slots = np.arange(axis.kernel_size)
        relative = begins[own, None] + slots - own[:, None] // axis.dilation + axis.kernel_size - 1
        keys = _product(keys, near, axis.length)
        is_key = _product(is_key, inside, 1) == 2
        bias = _product(bias, relative, 2 * axis.kernel_size - 1)
    return Neighborhoods(keys, is_key, bias)


def inverse_neighborhoods(problem: Problem, tokens: slice) -> InverseNeighborhoods:
    """The queries that see a run of key tokens."""
    queries, slots = _start(problem, tokens), _start(problem, tokens)
    is_query = _start(problem, tokens) == 0
    for axis, own in zip(problem.axes, _coordinates(problem, tokens), strict=True):
        near, slot, inside = (table[own] for table in axis.inverse_neighbors())
        queries = _product(queries, near, axis.length)
        slots = _product(slots, slot, axis.kernel_size)
        is_query = _product(is_query, inside, 1) == 2
    return InverseNeighborhoods(queries, slots, is_query)


def _coordinates(problem: Problem, tokens: slice) -> tuple[np.ndarray, ...]:
    numbers = np.arange(tokens.start, min(tokens.stop, problem.tokens))
    return np.unravel_index(numbers, problem.spatial)


def _start(problem: Problem, tokens: slice) -> np.ndarray:
    count = min(tokens.stop, problem.tokens) - tokens.start
    return np.zeros((count, 1), np.int64)


def _product(outer: np.ndarray, inner: np.ndarray, radix: int) -> np.ndarray:
    """Row by row, every ``outer * radix + inner``: one more axis of a flat index."""
    combined: np.ndarray = outer[:, :, None] * radix + inner[:, None, :]
    return combined.reshape(len(outer), -1)
