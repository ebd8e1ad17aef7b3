"""Whether a result of any size is right: some of its rows against exact ones, under the one rule.

Every element of a result must be finite; corners of the grid and random places are compared with
what float64 gives for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np

from ..arrays import library_of
from ..problem import Problem
from ..tolerance import Deviation, deviation
from .exact import Place, Rows, key_products, key_rows, query_rows
from .exact_products import product_rows
from .implementations import PIECES

__all__ = ["Check"]

_QUERIES = 48
_LEAST_QUERIES = 8
_MOST_KEYS = 16
_LEAST_KEYS = 2

# Elements of a result that are looked at together.
_ELEMENTS = 1 << 28

# Channels of all keys that all checked queries see.
_QUERY_ELEMENTS = 1 << 31

# Pairs of a query and a key over all rows of dK and dV, and for one row at most.
_KEY_PAIRS = 1 << 31
_MOST_KEY_PAIRS = 1 << 34


class Check:
    """A problem with its inputs, and the rows that are compared.

    Parameters
    ----------
    problem : Problem
    tensors : mapping
        Contiguous torch tensors ``q``, ``k``, ``v`` and, for gradients, ``dout``; ``weights`` for
        single products of stored weights.
    seed : int, optional
        Decides the places.

    Attributes
    ----------
    reaches_keys : bool
        Whether exact rows of dK and dV are affordable.
    """

    def __init__(self, problem: Problem, tensors: Mapping[str, Any], seed: int = 0) -> None:
        self._problem = problem
        self._tensors = tensors
        self._scale = problem.head_dim**-0.5
        generator = np.random.default_rng(seed)
        elements = problem.window * max(problem.head_dim, problem.value_dim)
        queries = max(_LEAST_QUERIES, min(_QUERIES, _QUERY_ELEMENTS // elements))
        self._queries = _places(problem, problem.heads, queries, generator)
        keys = _places(problem, problem.kv_heads, _MOST_KEYS, generator)
        # A key in the middle has the most queries; corners come first.
        pairs = max(key_products(problem, place) for place in keys) * problem.head_group
        self.reaches_keys = pairs <= _MOST_KEY_PAIRS
        self._keys = keys[: max(_LEAST_KEYS, min(_MOST_KEYS, _KEY_PAIRS // max(pairs, 1)))]

    def deviations(
        self, results: Mapping[str, Any], direction: str = "forward+backward"
    ) -> dict[str, Deviation]:
        """Measure results, each as large as its tensor.

        Parameters
        ----------
        results : mapping
            Any of `out`, `dq`, `dk` and `dv`; of a single product, what it gives.
        direction : str, optional
            Tells single products, which have other results of the same names.
        """
        found = {}
        exact = self._product(direction) if direction in PIECES else None
        for name, result in results.items():
            of_keys = name in ("dk", "dv")
            of_attention = self._key_rows if of_keys else self._query_rows
            rows = (of_attention if exact is None else exact)[name]
            places = self._keys if of_keys else self._queries
            found[name] = self._deviation(name, result, rows, places)
        return found

    def _product(self, operation: str) -> dict[str, Rows]:
        piece = next(piece for piece in PIECES if piece == operation)
        return product_rows(self._problem, piece, self._tensors, self._queries, self._keys)

    def _deviation(self, name: str, result: Any, rows: Rows, places: list[Place]) -> Deviation:
        import torch

        wrong = _count_bad(result, is_scores=name == "scores")
        if wrong:
            return Deviation(complaint=f"{name}: {wrong} of {result.numel()} elements not finite")
        picked = torch.stack([result[(place.batch, *place.token, place.head)] for place in places])
        picked = picked.cpu().contiguous()
        actual = np.asarray(library_of(picked, name).view(picked))
        return deviation(
            actual, rows.exact, rows.emulated, rows.magnitude, self._problem.dtype, name
        )

    @cached_property
    def _query_rows(self) -> Mapping[str, Rows]:
        return query_rows(self._problem, self._scale, self._tensors, self._queries)

    @cached_property
    def _key_rows(self) -> Mapping[str, Rows]:
        return key_rows(self._problem, self._scale, self._tensors, self._keys)


def _count_bad(result: Any, is_scores: bool) -> int:
    """Elements that no result has; a part at a time, as results may fill most of the memory."""
    import torch

    step = max(1, _ELEMENTS * result.shape[1] // max(1, result.numel()))
    count = 0
    for part in result.split(step, dim=1):
        # Empty slots of causal windows hold a score of -inf.
        bad = torch.isnan(part) if is_scores else ~torch.isfinite(part)
        count += int(bad.sum())
    return count


def _places(
    problem: Problem, heads: int, count: int, generator: np.random.Generator
) -> list[Place]:
    """The first and the last token of the whole result, the middle, and random places."""
    first, last = (0,) * problem.rank, tuple(length - 1 for length in problem.spatial)
    places = [
        Place(int(generator.integers(problem.batch)), int(generator.integers(heads)), token)
        for token in (
            tuple(length // 2 for length in problem.spatial),
            *(tuple(generator.integers(problem.spatial).tolist()) for _ in range(count - 3)),
        )
    ]
    return [Place(problem.batch - 1, heads - 1, last), *places, Place(0, 0, first)]
