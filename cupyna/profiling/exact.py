"""Exact results for a few rows of a problem of any size, from the whole tensors where they are.

A row of `out` or `dq` needs one window, which is gathered. A row of `dk` or `dv` needs every query
that sees the key, and each of those its own window: they are a box of queries against the box of
all their keys, under a mask. Both are computed in float64, and again in float32 as a kernel rounds.
Tensors are torch's, on any device.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..problem import Problem

__all__ = [
    "Place",
    "Rows",
    "as_rows",
    "by_token",
    "grid_tokens",
    "join_rows",
    "key_boxes",
    "key_products",
    "key_rows",
    "query_rows",
    "window_tokens",
]

# Elements of one intermediate; a few of them are alive at a time.
_ELEMENTS = 1 << 25


@dataclass(frozen=True, slots=True)
class Place:
    """One row of a result: a batch entry, a head and a token.

    `head` counts query heads for `out` and `dq`, key heads for `dk` and `dv`.
    """

    batch: int
    head: int
    token: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Rows:
    """Some rows of one result, ``[rows, channels]``: what the tolerance rule needs."""

    exact: np.ndarray
    emulated: np.ndarray
    magnitude: np.ndarray


def query_rows(
    problem: Problem, scale: float, tensors: Mapping[str, Any], places: list[Place]
) -> dict[str, Rows]:
    """Rows of `out`, and of `dq` if `tensors` has `dout`, at some queries.

    ``sink_k`` and ``sink_v``, ``[batch, tokens, heads, channels]``, are seen beside every window.
    """
    step = max(1, _ELEMENTS // (problem.window * max(problem.head_dim, problem.value_dim)))
    parts = [
        _query_chunk(problem, scale, tensors, places[first : first + step])
        for first in range(0, len(places), step)
    ]
    return {name: join_rows([part[name] for part in parts]) for name in parts[0]}


def key_rows(
    problem: Problem, scale: float, tensors: Mapping[str, Any], places: list[Place]
) -> dict[str, Rows]:
    """Rows of `dk` and `dv` at some keys."""
    found = [_key(problem, scale, tensors, place) for place in places]
    return {name: join_rows([part[name] for part in found]) for name in ("dk", "dv")}


def key_products(problem: Problem, place: Place) -> int:
    """Pairs of a query and a key that one row of `dk` takes."""
    boxes = key_boxes(problem, place)
    return math.prod(len(box.queries) * len(box.keys) for box in boxes)


def join_rows(parts: list[Rows]) -> Rows:
    return Rows(*(
        np.concatenate([getattr(part, name) for part in parts])
        for name in ("exact", "emulated", "magnitude")
    ))  # fmt: skip


def as_rows(exact: Any, emulated: Any, magnitude: Any) -> Rows:
    return Rows(*(tensor.cpu().double().numpy() for tensor in (exact, emulated, magnitude)))


def by_token(problem: Problem, tensor: Any) -> Any:
    """``[batch, tokens, heads, channels]``."""
    return tensor.reshape(problem.batch, problem.tokens, *tensor.shape[-2:])


def _query_chunk(
    problem: Problem, scale: float, tensors: Mapping[str, Any], places: list[Place]
) -> dict[str, Rows]:
    import torch

    device, dtype = tensors["q"].device, tensors["q"].dtype
    flat, inside = window_tokens(problem, places)
    keys = torch.from_numpy(flat).to(device)
    seen = torch.from_numpy(inside).to(device)
    batch = torch.tensor([place.batch for place in places], device=device)
    heads = torch.tensor([place.head for place in places], device=device)
    own = torch.tensor(
        [int(np.ravel_multi_index(place.token, problem.spatial)) for place in places],
        device=device,
    )

    def of_query(name: str) -> Any:
        return by_token(problem, tensors[name])[batch, own, heads]

    def of_keys(name: str) -> Any:
        kv_heads = heads // problem.head_group
        rows = by_token(problem, tensors[name])[batch[:, None], keys, kv_heads[:, None]]
        if f"sink_{name}" not in tensors:
            return rows
        beside = tensors[f"sink_{name}"][batch, :, kv_heads]
        return torch.cat([rows, beside], 1)

    q, k, v = of_query("q"), of_keys("k"), of_keys("v")
    if "sink_k" in tensors:
        everywhere = torch.ones(len(places), tensors["sink_k"].shape[1], dtype=torch.bool)
        seen = torch.cat([seen, everywhere.to(device)], 1)
    dout = of_query("dout") if "dout" in tensors else None

    def weigh(weights: Any, rows: Any) -> Any:
        return torch.einsum("sw,swd->sd", weights, rows)

    def dot(row: Any, rows: Any) -> Any:
        return torch.einsum("sd,swd->sw", row, rows)

    q64, k64, v64 = q.double(), k.double(), v.double()
    scores = (scale * dot(q64, k64)).masked_fill(~seen, -math.inf)
    lse = scores.logsumexp(-1, keepdim=True)
    weights = (scores - lse).exp()
    out = weigh(weights, v64)
    q32, k32, v32 = (as_read(problem, tensor) for tensor in (q, k, v))
    scores32 = (scale * dot(q32, k32)).masked_fill(~seen, -math.inf)
    raw = (scores32 - scores32.amax(-1, keepdim=True)).exp()
    out32 = weigh(as_stored(problem, raw), v32) / raw.sum(-1, keepdim=True)
    size = (abs(scale) * dot(q64.abs(), k64.abs())).masked_fill(~seen, 0)
    # An error of a score is a relative error of its weight, hence the factor.
    shifted = weights * (1 + size.amax(-1, keepdim=True))
    rows = {"out": as_rows(out, out32, weigh(shifted, v64.abs()))}
    if dout is None:
        return rows
    do64, do32 = dout.double(), as_read(problem, dout)
    delta = (do64 * out).sum(-1, keepdim=True)
    dscores = weights * (dot(do64, v64) - delta)
    terms = dot(do64.abs(), v64.abs()) + (do64 * out).abs().sum(-1, keepdim=True)
    delta32 = (dout.float() * out.to(dtype).float()).sum(-1, keepdim=True)
    dscores32 = (scores32 - lse.float()).exp() * (dot(do32, v32) - delta32)
    rows["dq"] = as_rows(
        scale * weigh(dscores, k64),
        scale * weigh(as_stored(problem, dscores32), k32),
        abs(scale) * weigh(shifted * terms, k64.abs()),
    )
    return rows


def as_stored(problem: Problem, weights: Any) -> Any:
    """Weights in float32 as the second product reads them: no wider than the inputs."""
    import torch

    if problem.item_bytes < 4:
        return weights.to(getattr(torch, problem.dtype)).float()
    return as_read(problem, weights)


def as_read(problem: Problem, tensor: Any) -> Any:
    """A tensor in float32 as products read it, perhaps as TF32."""
    import torch

    if not problem.allow_tf32:
        return tensor.float()
    # Ten bits of mantissa, ties away from zero.
    bits = tensor.float().contiguous().view(torch.int32)
    return ((bits + 0x1000) & ~0x1FFF).view(torch.float32)


def window_tokens(problem: Problem, places: list[Place]) -> tuple[np.ndarray, np.ndarray]:
    """Key tokens of each query's window slots, ``[rows, window]``, and which slots hold one."""
    rank, rows = problem.rank, len(places)
    flat = np.zeros((rows,) + (1,) * rank, np.int64)
    inside = np.ones((rows,) + (1,) * rank, bool)
    for i, axis in enumerate(problem.axes):
        tokens = np.array([place.token[i] for place in places])
        group, position = np.divmod(tokens, axis.dilation)[::-1]
        lines = [axis.line(int(g)) for g in group]
        bounds = [
            (s.window_begin(p), s.window_end(p)) for s, p in zip(lines, position, strict=True)
        ]
        begin, end = np.array(bounds, np.int64).T[:, :, None]
        slots = begin + np.arange(axis.kernel_size)
        there = slots < end
        keys = group[:, None] + np.where(there, slots, begin) * axis.dilation
        along = (slice(None), *(slice(None) if j == i else None for j in range(rank)))
        flat = flat * axis.length + keys[along]
        inside = inside & there[along]
    return flat.reshape(rows, -1), inside.reshape(rows, -1)


@dataclass(frozen=True, slots=True)
class Box:
    """Along one axis: the queries that see a key, and every key they see.

    `begins` and `ends` bound what each query sees of the box. `slots` is where in each query's
    window the key is, and `column` where in the box.
    """

    queries: np.ndarray
    keys: np.ndarray
    begins: np.ndarray
    ends: np.ndarray
    slots: np.ndarray
    column: int


def key_boxes(problem: Problem, place: Place) -> list[Box]:
    boxes = []
    for axis, token in zip(problem.axes, place.token, strict=True):
        group, position = token % axis.dilation, token // axis.dilation
        line = axis.line(group)
        queries = np.arange(int(line.query_begin(position)), int(line.query_end(position)))
        begins, ends = line.window_begin(queries), line.window_end(queries)
        first = int(begins.min(initial=position))
        keys = np.arange(first, int(ends.max(initial=position + 1)))
        boxes.append(
            Box(
                queries=group + queries * axis.dilation,
                keys=group + keys * axis.dilation,
                begins=begins - first,
                ends=ends - first,
                slots=position - begins,
                column=position - first,
            )
        )
    return boxes


def grid_tokens(problem: Problem, tokens: list[np.ndarray]) -> np.ndarray:
    """Flat tokens of a product of tokens along each axis."""
    flat: np.ndarray = np.ravel_multi_index(np.ix_(*tokens), problem.spatial).reshape(-1)
    return flat


def _key(
    problem: Problem, scale: float, tensors: Mapping[str, Any], place: Place
) -> dict[str, Rows]:
    import torch

    dtype, device = tensors["q"].dtype, tensors["q"].device
    boxes = key_boxes(problem, place)
    queries = torch.from_numpy(grid_tokens(problem, [box.queries for box in boxes])).to(device)
    keys = torch.from_numpy(grid_tokens(problem, [box.keys for box in boxes])).to(device)
    column = int(np.ravel_multi_index([box.column for box in boxes], [len(b.keys) for b in boxes]))
    k, v = (by_token(problem, tensors[name])[place.batch, keys, place.head] for name in ("k", "v"))
    k64, v64 = k.double(), v.double()
    largest_shift = 1.0
    sums: dict[str, Any] = {}

    def add(name: str, term: Any) -> None:
        sums[name] = sums[name] + term if name in sums else term

    shape = [len(box.queries) for box in boxes]
    step = max(1, _ELEMENTS // max(len(keys), problem.head_dim))
    group = range(place.head * problem.head_group, (place.head + 1) * problem.head_group)
    for head, part in ((h, p) for h in group for p in _parts(len(queries), step)):
        rows = [by_token(problem, tensors[name])[place.batch, queries[part], head]
                for name in ("q", "dout")]  # fmt: skip
        q, dout = (row.double() for row in rows)
        q32, dout32 = (as_read(problem, row) for row in rows)
        seen = _seen(boxes, np.unravel_index(np.arange(part.start, part.stop), shape), device)
        scores = (scale * (q @ k64.T)).masked_fill(~seen, -math.inf)
        lse = scores.logsumexp(-1)
        weights = (scores - lse[:, None]).exp()
        out = weights @ v64
        weight = weights[:, column]
        dscore = weight * (dout @ v64[column] - (dout * out).sum(-1))
        add("dk", scale * (dscore @ q))
        add("dv", weight @ dout)
        # What a kernel is handed is rounded: the output and the log-sum-exp.
        weight32 = (scale * (q32 @ as_read(problem, k[column])) - lse.float()).exp()
        weight32 = weight32 * seen[:, column]
        delta32 = (dout.float() * out.to(dtype).float()).sum(-1)
        dscore32 = weight32 * (dout32 @ as_read(problem, v[column]) - delta32)
        add("dk32", scale * (as_stored(problem, dscore32) @ q32))
        add("dv32", as_stored(problem, weight32) @ dout32)
        size = (abs(scale) * (q.abs() @ k64.abs().T)).masked_fill(~seen, 0).amax(-1)
        terms = dout.abs() @ v64[column].abs() + (dout * out).abs().sum(-1)
        add("dk size", abs(scale) * ((weight * terms * (1 + size)) @ q.abs()))
        add("dv size", weight @ dout.abs())
        largest_shift = max(largest_shift, 1 + float(size.max()))
    if not sums:  # no query sees the key
        dk, dv = torch.zeros_like(k64[0]), torch.zeros_like(v64[0])
        sums = {"dk": dk, "dk32": dk, "dk size": dk, "dv": dv, "dv32": dv, "dv size": dv}
    sums["dv size"] = sums["dv size"] * largest_shift
    return {
        name: as_rows(*(sums[part][None] for part in (name, f"{name}32", f"{name} size")))
        for name in ("dk", "dv")
    }


def _parts(count: int, step: int) -> Iterator[slice]:
    return (slice(first, min(first + step, count)) for first in range(0, count, step))


def _seen(boxes: list[Box], rows: tuple[np.ndarray, ...], device: Any) -> Any:
    """Which keys of the box each of some queries sees, ``[queries, keys]``."""
    import torch

    rank = len(boxes)
    seen = torch.ones((len(rows[0]),) + (1,) * rank, dtype=torch.bool, device=device)
    for i, (box, row) in enumerate(zip(boxes, rows, strict=True)):
        begins, ends = (torch.from_numpy(b[row]).to(device) for b in (box.begins, box.ends))
        keys = torch.arange(len(box.keys), device=device)
        own = (begins[:, None] <= keys) & (keys < ends[:, None])
        seen = seen & own[(slice(None), *(slice(None) if j == i else None for j in range(rank)))]
    return seen.reshape(len(rows[0]), -1)
