"""torch's FlexAttention, compiled, with neighborhood attention as its mask."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from ...problem import Problem
from ..implementations import Direction, Work
from .autograd import autograd_run

__all__ = ["Flex"]

# Tokens of one block of its block mask.
_BLOCK = 128
_ROWS = 512


class Flex:
    """FlexAttention over tokens in row-major order, or tile by tile.

    Reordering tokens is not part of the time; whoever uses tiles can do it once for a whole model.

    Parameters
    ----------
    is_tiled : bool
        Whether the tokens of a tile of 128 follow one another.
    """

    is_ours = False

    def __init__(self, is_tiled: bool) -> None:
        self.name = "FlexAttention, tiled order" if is_tiled else "FlexAttention"
        self._is_tiled = is_tiled
        self._compiled: dict[Problem, tuple[Callable[..., Any], Any]] = {}

    def computes(self, problem: Problem) -> Problem:
        return problem

    def memory_bytes(self, problem: Problem, direction: Direction) -> int:
        return 4 * problem.least_bytes + 64 * _ROWS * problem.tokens

    def work(self, problem: Problem, tensors: Mapping[str, Any], direction: Direction) -> Work:
        import torch

        tile = tile_of(problem) if self._is_tiled else (1,) * problem.rank
        order = torch.from_numpy(token_order(problem.spatial, tile)).to(tensors["q"].device)
        if problem not in self._compiled:
            # Every problem is a program of its own; one kept program would use up its limit.
            torch.compiler.reset()
            self._compiled.clear()
            from torch.nn.attention.flex_attention import flex_attention

            mask = _block_mask(problem, tile, order.device)
            self._compiled[problem] = (torch.compile(flex_attention, dynamic=False), mask)
        compiled, mask = self._compiled[problem]
        by_head = {
            name: tensor.flatten(1, problem.rank)[:, order].transpose(1, 2).contiguous()
            for name, tensor in tensors.items()
        }
        inputs = [by_head[name] for name in ("q", "k", "v")]
        back = order.argsort()

        def ours(tensor: Any) -> Any:
            return tensor.transpose(1, 2)[:, back].unflatten(1, problem.spatial)

        run = autograd_run(
            partial(compiled, block_mask=mask), inputs, by_head.get("dout"), direction
        )
        about = {"tile": tile if self._is_tiled else ()}
        if direction == "forward":
            return Work(run, lambda out: {"out": ours(out)}, about)
        return Work(
            run, lambda found: dict(zip(("dq", "dk", "dv"), map(ours, found), strict=True)), about
        )


def tile_of(problem: Problem) -> tuple[int, ...]:
    """Tile of at most 128 tokens that divides the grid, as nearly a cube as can be."""
    tile = [1] * problem.rank
    grows = True
    while grows:
        grows = False
        for i in sorted(range(problem.rank), key=lambda i: (tile[i], -i)):
            fits = problem.spatial[i] % (2 * tile[i]) == 0
            if fits and math.prod(tile) * 2 <= _BLOCK:
                tile[i] *= 2
                grows = True
                break
    return tuple(tile)


def token_order(spatial: tuple[int, ...], tile: tuple[int, ...]) -> np.ndarray:
    """Row-major token of every place in the order of tiles."""
    rank = len(spatial)
    shape = [
        n for length, extent in zip(spatial, tile, strict=True) for n in (length // extent, extent)
    ]
    tokens = np.arange(math.prod(spatial)).reshape(shape)
    axes = (*range(0, 2 * rank, 2), *range(1, 2 * rank, 2))
    order: np.ndarray = tokens.transpose(axes).reshape(-1)
    return order


def mask_function(
    problem: Problem, tile: tuple[int, ...], device: Any
) -> Callable[[Any, Any, Any, Any], Any]:
    """Whether a place of a query sees a place of a key, as FlexAttention asks."""
    import torch

    tables = [
        tuple(torch.from_numpy(bounds).to(device, torch.int32) for bounds in axis.windows())
        for axis in problem.axes
    ]
    is_plain = [
        axis.stride == 1 and axis.dilation == 1 and not axis.is_causal for axis in problem.axes
    ]
    tiles = [length // extent for length, extent in zip(problem.spatial, tile, strict=True)]
    block = math.prod(tile)

    def coordinates(place: Any) -> list[Any]:
        outer, inner = place // block, place % block
        found = []
        for count, extent in zip(reversed(tiles), reversed(tile), strict=True):
            found.append(outer % count * extent + inner % extent)
            outer, inner = outer // count, inner // extent
        return found[::-1]

    def sees(batch: Any, head: Any, query: Any, key: Any) -> Any:
        seen = query >= 0
        along = zip(
            problem.axes, is_plain, tables, coordinates(query), coordinates(key), strict=True
        )
        for axis, plain, (begins, ends), own, other in along:
            if plain:
                begin = torch.clamp(own - axis.kernel_size // 2, 0, axis.length - axis.kernel_size)
                seen = seen & (other >= begin) & (other < begin + axis.kernel_size)
                continue
            position = other // axis.dilation
            seen = seen & (other % axis.dilation == own % axis.dilation)
            seen = seen & (begins[own] <= position) & (position < ends[own])
        return seen

    return sees


def _block_mask(problem: Problem, tile: tuple[int, ...], device: Any) -> Any:
    """The mask by blocks, a few rows at a time: all pairs at once would not fit in memory."""
    import torch
    from torch.nn.attention.flex_attention import BlockMask

    sees = mask_function(problem, tile, device)
    tokens = problem.tokens
    blocks = -(-tokens // _BLOCK)
    places = torch.arange(blocks * _BLOCK, device=device)
    some, whole = [], []
    for first in range(0, blocks * _BLOCK, _ROWS):
        rows = places[first : first + _ROWS, None]
        # Places past the end repeat the last token, which adds no block.
        seen = sees(0, 0, rows.clamp(max=tokens - 1), places.clamp(max=tokens - 1)[None, :])
        by_block = seen.view(-1, _BLOCK, blocks, _BLOCK)
        some.append(by_block.any(3).any(1))
        whole.append(by_block.all(3).all(1))
    full = torch.cat(whole)
    if tokens % _BLOCK:
        full[-1], full[:, -1] = False, False
    some_blocks = torch.cat(some) & ~full

    def listed(wanted: Any) -> tuple[Any, Any]:
        order = wanted.to(torch.int8).argsort(dim=-1, descending=True, stable=True)
        return wanted.sum(-1).to(torch.int32)[None, None], order.to(torch.int32)[None, None]

    return BlockMask.from_kv_blocks(
        *listed(some_blocks), *listed(full), BLOCK_SIZE=_BLOCK, mask_mod=sees,
        seq_lengths=(tokens, tokens),
    )  # fmt: skip
