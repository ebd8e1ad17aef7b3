"""Exact rows of the single products: scores, outputs of stored weights, and their gradients.

As in :mod:`cupyna.profiling.exact`, from whole tensors; ``weights`` stands for whatever fills the
window slots: probabilities, or the gradient of scores.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..problem import Operation, Problem
from .exact import (
    Place,
    Rows,
    as_read,
    as_rows,
    by_token,
    grid_tokens,
    join_rows,
    key_boxes,
    window_tokens,
)

__all__ = ["product_rows"]

_ELEMENTS = 1 << 25

# What each operation gives for a query, and for a key.
RESULTS: dict[Operation, tuple[str, str]] = {
    "qk": ("scores", ""),
    "av": ("out", ""),
    "qk_backward": ("dq", "dk"),
    "av_backward": ("dweights", "dv"),
}


def product_rows(
    problem: Problem,
    operation: Operation,
    tensors: Mapping[str, Any],
    queries: list[Place],
    keys: list[Place],
) -> dict[str, Rows]:
    """Rows of an operation's results, at some queries and, where it has any, at some keys."""
    of_query, of_key = RESULTS[operation]
    step = max(1, _ELEMENTS // (problem.window * max(problem.head_dim, problem.value_dim)))
    parts = [
        _at_queries(problem, operation, tensors, queries[first : first + step])
        for first in range(0, len(queries), step)
    ]
    rows = {of_query: join_rows(parts)}
    if of_key:
        rows[of_key] = join_rows([_at_key(problem, operation, tensors, place) for place in keys])
    return rows


def _at_queries(
    problem: Problem, operation: Operation, tensors: Mapping[str, Any], places: list[Place]
) -> Rows:
    import torch

    device = next(iter(tensors.values())).device
    tokens, inside = window_tokens(problem, places)
    keys = torch.from_numpy(tokens).to(device)
    seen = torch.from_numpy(inside).to(device)
    batch = torch.tensor([place.batch for place in places], device=device)
    heads = torch.tensor([place.head for place in places], device=device)
    flat = [int(np.ravel_multi_index(place.token, problem.spatial)) for place in places]
    own = torch.tensor(flat, device=device)

    def of_query(name: str) -> Any:
        return by_token(problem, tensors[name])[batch, own, heads]

    def of_keys(name: str) -> Any:
        kv_heads = (heads // problem.head_group)[:, None]
        return by_token(problem, tensors[name])[batch[:, None], keys, kv_heads]

    scale = problem.head_dim**-0.5 if operation.startswith("qk") else 1.0
    if operation in ("qk", "av_backward"):
        row, rows = (
            (of_query("q"), of_keys("k")) if operation == "qk" else (of_query("dout"), of_keys("v"))
        )
        empty = -math.inf if operation == "qk" else 0.0

        def dot(row: Any, rows: Any) -> Any:
            return scale * torch.einsum("sd,swd->sw", row, rows)

        return as_rows(
            dot(row.double(), rows.double()).masked_fill(~seen, empty),
            dot(as_read(problem, row), as_read(problem, rows)).masked_fill(~seen, empty),
            dot(row.double().abs(), rows.double().abs()).masked_fill(~seen, 0),
        )
    weights = of_query("weights").masked_fill(~seen, 0)
    rows = of_keys("v" if operation == "av" else "k")

    def weigh(weights: Any, rows: Any) -> Any:
        return scale * torch.einsum("sw,swd->sd", weights, rows)

    return as_rows(
        weigh(weights.double(), rows.double()),
        weigh(as_read(problem, weights), as_read(problem, rows)),
        weigh(weights.double().abs(), rows.double().abs()),
    )


def _at_key(
    problem: Problem, operation: Operation, tensors: Mapping[str, Any], place: Place
) -> Rows:
    """Every query that sees the key, by the weight in its slot for it."""
    import torch

    device = tensors["weights"].device
    boxes = key_boxes(problem, place)
    queries = torch.from_numpy(grid_tokens(problem, [box.queries for box in boxes])).to(device)
    slots = np.ravel_multi_index(np.ix_(*(box.slots for box in boxes)), problem.kernel_size)
    slot = torch.from_numpy(slots.reshape(-1)).to(device)
    group = range(place.head * problem.head_group, (place.head + 1) * problem.head_group)
    heads = torch.tensor(list(group), device=device)[:, None]
    weights = by_token(problem, tensors["weights"])[place.batch, queries, heads, slot]
    name, scale = ("q", problem.head_dim**-0.5) if operation == "qk_backward" else ("dout", 1.0)
    rows = by_token(problem, tensors[name])[place.batch, queries, heads]

    def weigh(weights: Any, rows: Any) -> Any:
        return scale * torch.einsum("hq,hqd->d", weights, rows)[None]

    return as_rows(
        weigh(weights.double(), rows.double()),
        weigh(as_read(problem, weights), as_read(problem, rows)),
        weigh(weights.double().abs(), rows.double().abs()),
    )
