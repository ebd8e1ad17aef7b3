"""The GPU that is measured: its memory, its stream, and inputs on it."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from ..problem import Problem
from .timing import Repeat, own_stream

__all__ = ["Meter", "random_tensors"]


def random_tensors(
    problem: Problem,
    seed: int = 0,
    with_gradient: bool = True,
    with_weights: bool = False,
    sinks: int = 0,
    place: str = "cuda",
) -> dict[str, Any]:
    """Reproducible torch tensors: q, k, v and, if asked, dout, weights and keys beside the grid."""
    import torch

    generator = torch.Generator(place).manual_seed(seed)
    dtype = getattr(torch, problem.dtype)

    def draw(heads: int, channels: int, tokens: tuple[int, ...] = problem.spatial) -> Any:
        shape = (problem.batch, *tokens, heads, channels)
        values = torch.randn(shape, generator=generator, device=place, dtype=dtype)
        # Some of the mean is lost with a lost term; half sums overflow for a large one.
        return values.add_(0.25)

    tensors = {
        "q": draw(problem.heads, problem.head_dim),
        "k": draw(problem.kv_heads, problem.head_dim),
        "v": draw(problem.kv_heads, problem.value_dim),
    }
    if with_gradient:
        tensors["dout"] = draw(problem.heads, problem.value_dim)
    if with_weights:
        tensors["weights"] = draw(problem.heads, problem.window)
    if sinks:
        tensors["sink_k"] = draw(problem.kv_heads, problem.head_dim, (sinks,))
        tensors["sink_v"] = draw(problem.kv_heads, problem.value_dim, (sinks,))
    return tensors


class Meter:
    """torch's current CUDA device."""

    place = "cuda"

    def stream(self) -> AbstractContextManager[None]:
        """A stream of one's own, for everything that is captured."""
        return own_stream()

    def free_bytes(self) -> int:
        """Memory that nobody holds, what waits in torch's pool included."""
        import torch

        pooled = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
        return int(torch.cuda.mem_get_info()[0] + pooled)

    def settle(self) -> None:
        """Give memory back and wait; raises where the device is lost."""
        import torch

        gc.collect()  # what fell out of memory is held by its own traceback
        torch.cuda.empty_cache()
        torch.cuda.synchronize()

    def run(self, work: Callable[[], Any], like: Any, count: int) -> tuple[Any, int]:
        """What a call returns, and the most memory that it held.

        It gets memory that is full of NaN: what it does not write, shows.

        Parameters
        ----------
        work : callable
        like : Tensor
            As large as one of its results.
        count : int
            How many results it has.
        """
        import torch

        poison = [torch.full_like(like, math.nan) for _ in range(count)]
        del poison
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        kept = work()
        torch.cuda.synchronize()
        return kept, int(torch.cuda.max_memory_allocated()) - before

    def repeat(self, runs: Sequence[Callable[[], Any]]) -> Repeat:
        """The same work on several sets of inputs, ready to be timed."""
        return Repeat(runs)
