"""The naive method on a CPU: window by window, slot by slot, no tiles and no BLAS."""

from __future__ import annotations

import numpy as np

from ...execution import Choice
from ...problem import DeviceSpec, Operation, Problem
from .neighborhoods import chunks, inverse_neighborhoods, neighborhoods
from .threads import map_tiles

__all__ = ["SlotProducts"]

# Multiply-adds per microsecond and core of gathered rows; ranks methods in `explain`.
_MULTIPLY_ADDS_PER_US = 400.0
_PRODUCTS = {"forward": 2, "backward": 7, "qk": 1, "av": 1, "qk_backward": 2, "av_backward": 2}


class SlotProducts:
    """Each product gathers, for one slot at a time, the neighbor of every token of a chunk."""

    def scores(
        self, problem: Problem, a: np.ndarray, b: np.ndarray, scores: np.ndarray, empty: float
    ) -> None:
        own, theirs = _grouped(problem, a), _grouped(problem, b)
        rows = scores.reshape(problem.batch, problem.tokens, problem.heads, problem.window)

        def run(tokens: slice) -> None:
            near = neighborhoods(problem, tokens)
            mine = own[:, tokens]
            for slot, (keys, is_key) in enumerate(zip(near.keys.T, near.is_key.T, strict=True)):
                products = np.einsum("nthgd,nthod->nthg", mine, theirs[:, keys])
                products[:, ~is_key] = empty
                rows[:, tokens, :, slot] = products.reshape(*products.shape[:2], -1)

        for _ in map_tiles(run, chunks(problem)):
            pass

    def outputs(
        self, problem: Problem, weights: np.ndarray, b: np.ndarray, out: np.ndarray
    ) -> None:
        theirs, rows = _grouped(problem, b), _weight_rows(problem, weights)
        flat_out = np.empty((problem.batch, problem.tokens, *out.shape[-2:]), out.dtype)

        def run(tokens: slice) -> None:
            near = neighborhoods(problem, tokens)
            shape = (*rows[:, tokens].shape[:-1], theirs.shape[-1])
            total = np.zeros(shape, problem.accumulator)
            for slot, (keys, is_key) in enumerate(zip(near.keys.T, near.is_key.T, strict=True)):
                weight = np.where(is_key[:, None, None], rows[:, tokens, ..., slot], 0)
                total += weight[..., None] * theirs[:, keys]
            flat_out[:, tokens] = total.reshape(*total.shape[:2], *out.shape[-2:])

        for _ in map_tiles(run, chunks(problem)):
            pass
        out[...] = flat_out.reshape(out.shape)

    def inverse(
        self, problem: Problem, weights: np.ndarray, a: np.ndarray, out: np.ndarray
    ) -> None:
        own, rows = _grouped(problem, a), _weight_rows(problem, weights)
        flat_out = np.empty((problem.batch, problem.tokens, *out.shape[-2:]), out.dtype)

        def run(tokens: slice) -> None:
            near = inverse_neighborhoods(problem, tokens)
            columns = zip(near.queries.T, near.slots.T, near.is_query.T, strict=True)
            total = np.zeros(
                (problem.batch, len(near.queries), *out.shape[-2:]), problem.accumulator
            )
            for queries, slots, is_query in columns:
                # Index arrays apart from each other put their axis, the tokens, first.
                weight = rows[:, queries, ..., slots]  # [tokens, batch, kv_heads, head_group]
                weight = np.where(is_query[:, None, None, None], weight, 0)
                total += np.einsum("tnhg,nthgd->nthd", weight, own[:, queries])
            flat_out[:, tokens] = total

        for _ in map_tiles(run, chunks(problem)):
            pass
        out[...] = flat_out.reshape(out.shape)

    def choice(self, problem: Problem, operation: Operation, device: DeviceSpec) -> Choice:
        pairs = problem.batch * problem.heads * problem.tokens * problem.window
        channels = (problem.head_dim + problem.value_dim) / 2
        work = pairs * channels * _PRODUCTS[operation]
        stored = {"forward": 1, "backward": 2}.get(operation, 0)
        return Choice(
            kernel="slot by slot",
            useful_products=pairs,
            computed_products=pairs,
            workspace_bytes=stored * pairs * np.dtype(problem.accumulator).itemsize,
            time_us=work / _MULTIPLY_ADDS_PER_US / device.processors,
        )


def _grouped(problem: Problem, array: np.ndarray) -> np.ndarray:
    """``[batch, tokens, kv_heads, heads per kv_head, channels]`` in the accumulator's type."""
    wide = np.ascontiguousarray(array, dtype=problem.accumulator)
    return wide.reshape(problem.batch, problem.tokens, problem.kv_heads, -1, array.shape[-1])


def _weight_rows(problem: Problem, weights: np.ndarray) -> np.ndarray:
    """``[batch, tokens, kv_heads, head_group, window]``."""
    return weights.reshape(
        problem.batch, problem.tokens, problem.kv_heads, problem.head_group, problem.window
    )
