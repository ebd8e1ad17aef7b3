"""The CPU path beside what a user would do without it: time, and memory above the inputs.

Measured at 128x128 tokens, 4 heads of 32 channels, window 13x13, float32. The peers are a dense
softmax in NumPy under a mask (as the definition reads, and as an expert would write it) and torch's
FlexAttention, compiled. Each peer's own output is compared with ours before its time counts.
"""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ..api import neighborhood_attention
from ..devices import thread_count
from ..geometry import Axis

__all__ = ["GRID", "KERNEL_SIZE", "Measurement", "measure", "report"]

GRID = (128, 128)
HEADS, HEAD_DIM = 4, 32
KERNEL_SIZE = (13, 13)

# Query rows whose dense scores an expert would hold at once.
_DENSE_ROWS = 256


@dataclass(frozen=True, slots=True)
class Measurement:
    """What was measured.

    Parameters
    ----------
    threads : int
        Cores in use.
    time_s : dict
        Best time of each implementation in seconds.
    peak_bytes : int
        Most memory that our call held at once, above its inputs.
    out_bytes : int
        Size of its output, which is part of `peak_bytes`.
    """

    threads: int
    time_s: dict[str, float]
    peak_bytes: int
    out_bytes: int

    def speedup(self, peer: str) -> float:
        """How many times our time the peer takes."""
        return self.time_s[peer] / self.time_s["cupyna"]


def measure(with_flex: bool = True, rounds: int = 5) -> Measurement:
    """Time our forward and its peers, and trace our memory.

    Parameters
    ----------
    with_flex : bool, optional
        Whether to compile and time FlexAttention, which needs torch and a C++ compiler.
    rounds : int, optional
        Timed calls of each implementation but the dense one, interleaved.

    Raises
    ------
    RuntimeError
        If a peer's output differs from ours.
    """
    generator = np.random.default_rng(0)
    q, k, v = generator.standard_normal((3, 1, *GRID, HEADS, HEAD_DIM), np.float32)
    ours = partial(neighborhood_attention, q, k, v, KERNEL_SIZE)
    expected = ours()
    quick: dict[str, Callable[[], np.ndarray]] = {"cupyna": ours}
    if with_flex:
        quick["torch FlexAttention"] = _flex_attention(q, k, v)
    time_s = {
        "NumPy, dense mask": _time(partial(_dense_softmax, q, k, v), expected),
        "NumPy, dense mask in place": _time(partial(_dense_in_place, q, k, v), expected),
    }
    for _ in range(rounds):
        for name, run in quick.items():
            time_s[name] = min(_time(run, expected), time_s.get(name, np.inf))
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        ours()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return Measurement(thread_count(), time_s, peak - before, expected.nbytes)


def _time(run: Callable[[], np.ndarray], expected: np.ndarray) -> float:
    start = time.perf_counter()
    out = run()
    elapsed = time.perf_counter() - start
    largest = float(np.abs(out - expected).max())
    if not largest <= 1e-4 * float(np.abs(expected).max()):
        raise RuntimeError(f"outputs differ by {largest:.1e}, so their times cannot be compared")
    return elapsed


def _dense_softmax(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Attention of all tokens to all under a mask, as the definition reads; one head at a time."""
    tokens = GRID[0] * GRID[1]
    seen = _seen_tokens(slice(0, tokens))
    out = np.empty((tokens, HEADS, HEAD_DIM), np.float32)
    for head, (queries, keys, values) in enumerate(_by_head(q, k, v)):
        scores = np.where(seen, queries @ keys.T * HEAD_DIM**-0.5, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        out[:, head] = weights / weights.sum(-1, keepdims=True) @ values
    return out.reshape(q.shape)


def _dense_in_place(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """The same for an expert: rows in chunks that fit a cache better, every pass in place."""
    tokens = GRID[0] * GRID[1]
    out = np.empty((tokens, HEADS, HEAD_DIM), np.float32)
    for first in range(0, tokens, _DENSE_ROWS):
        rows = slice(first, first + _DENSE_ROWS)
        unseen = ~_seen_tokens(rows)
        for head, (queries, keys, values) in enumerate(_by_head(q, k, v)):
            scores = queries[rows] @ keys.T
            scores *= HEAD_DIM**-0.5
            scores[unseen] = -np.inf
            scores -= scores.max(-1, keepdims=True)
            np.exp(scores, out=scores)
            scores /= scores.sum(-1, keepdims=True)
            out[rows, head] = scores @ values
    return out.reshape(q.shape)


def _by_head(*arrays: np.ndarray) -> Iterator[tuple[np.ndarray, ...]]:
    tokens = GRID[0] * GRID[1]
    return zip(*(a.reshape(tokens, HEADS, HEAD_DIM).swapaxes(0, 1) for a in arrays), strict=True)


def _seen_tokens(rows: slice) -> np.ndarray:
    """Which tokens some query tokens see, ``[rows, tokens]``."""
    x, y = np.divmod(np.arange(rows.start, rows.stop), GRID[1])
    along_x, along_y = (_seen(Axis(n, w)) for n, w in zip(GRID, KERNEL_SIZE, strict=True))
    seen: np.ndarray = (along_x[x][:, :, None] & along_y[y][:, None, :]).reshape(len(x), -1)
    return seen


def _seen(axis: Axis) -> np.ndarray:
    begins, ends = axis.windows()
    keys = np.arange(axis.length)
    seen: np.ndarray = (begins[:, None] <= keys) & (keys < ends[:, None])
    return seen


def _flex_attention(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> Callable[[], np.ndarray]:
    """FlexAttention compiled for the same windows; compiling is not part of the time."""
    import torch
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    axes = [Axis(n, w) for n, w in zip(GRID, KERNEL_SIZE, strict=True)]
    begins = [torch.from_numpy(axis.windows()[0]) for axis in axes]
    width = GRID[1]

    def is_neighbor(batch: Any, head: Any, query: Any, key: Any) -> Any:
        above = key // width - begins[0][query // width]
        left = key % width - begins[1][query % width]
        return (above >= 0) & (above < KERNEL_SIZE[0]) & (left >= 0) & (left < KERNEL_SIZE[1])

    tokens = GRID[0] * width
    mask = create_block_mask(is_neighbor, None, None, tokens, tokens, device="cpu")
    compiled = torch.compile(flex_attention)
    tensors = [
        torch.from_numpy(a.reshape(1, tokens, HEADS, HEAD_DIM)).transpose(1, 2).contiguous()
        for a in (q, k, v)
    ]

    def run() -> np.ndarray:
        with torch.no_grad():
            out = compiled(*tensors, block_mask=mask)
        array: np.ndarray = out.transpose(1, 2).reshape(q.shape).numpy()
        return array

    run()
    return run


def report(found: Measurement) -> None:
    """Print a measurement as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"128x128 tokens, 4 heads x 32, window 13x13, {found.threads} threads")
    table.add_column("implementation")
    table.add_column("time, s", justify="right")
    table.add_column("times ours", justify="right")
    for name, seconds in sorted(found.time_s.items(), key=lambda entry: entry[1]):
        table.add_row(name, f"{seconds:.3f}", f"{found.speedup(name):.1f}")
    console = Console()
    console.print(table)
    console.print(
        f"memory above inputs: {found.peak_bytes / 2**20:.1f} MiB, "
        f"{found.out_bytes / 2**20:.1f} MiB of it the output"
    )


if __name__ == "__main__":
    report(measure())
