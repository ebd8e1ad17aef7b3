"""Host time of a call from torch, whole and in parts: what bounds a model of small layers.

Times are of the Python side alone. Calls are queued in short runs, and the GPU catches up between
them outside the measurement, so a full queue never makes the host wait.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any

__all__ = ["Overhead", "measure"]

# Shapes and windows: one that the portable kernels serve anywhere, and one that Hopper's do.
_SMALL = (1, 16, 16, 4, 64), 7
_LARGE = (1, 64, 64, 16, 128), 31
_CALLS = 100

Part = Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Overhead:
    """Host times in microseconds by what was called.

    Parameters
    ----------
    calls : dict
        Whole calls.
    parts : dict
        What a direct call without gradients consists of, each by itself.
    others : dict
        Other things for comparison.
    """

    calls: Mapping[str, float]
    parts: Mapping[str, float]
    others: Mapping[str, float]

    def to_json(self) -> dict[str, dict[str, float]]:
        groups = {"calls": self.calls, "parts": self.parts, "others": self.others}
        return {
            group: {name: round(time_us, 2) for name, time_us in times.items()}
            for group, times in groups.items()
        }


def measure(rounds: int = 15) -> Overhead:
    """Measure on the current CUDA device.

    Parameters
    ----------
    rounds : int, optional
        Runs of 100 calls; the median counts.
    """
    small, large = (_inputs(*shape) for shape in (_SMALL, _LARGE))
    calls = [_calls(*inputs) for inputs in (small, large)]
    groups = (
        calls[0] | calls[1],
        _parts(*small),
        {**_others(*small), **_peer(*small)},
    )
    times = [{name: _time_us(part, rounds) for name, part in group.items()} for group in groups]
    return Overhead(*times)


def _inputs(shape: tuple[int, ...], kernel_size: int) -> tuple[Any, ...]:
    import torch

    q, k, v = torch.randn(3, *shape, device="cuda", dtype=torch.float16)
    return q, k, v, q.clone().requires_grad_(), kernel_size


def _calls(q: Any, k: Any, v: Any, leaf: Any, kernel_size: int) -> dict[str, Part]:
    import torch

    from .. import explain, ranked
    from ..torch import direct, na2d, ops
    from ..torch.options import CallOptions

    chosen = explain(q, k, v, kernel_size).selected
    name = f"na2d on {'x'.join(map(str, q.shape[1:3]))} by {chosen.name if chosen else 'none'}"
    options = CallOptions.of(2, kernel_size)
    out, lse = na2d(leaf, k, v, kernel_size, return_lse=True)
    dout = torch.ones_like(out)
    saved = (q, k, v, None, out.detach(), lse.detach())
    return {
        f"{name}, no gradient": lambda: na2d(q, k, v, kernel_size),
        f"{name}, gradient recorded": lambda: na2d(leaf, k, v, kernel_size),
        f"{name}, backward": lambda: torch.autograd.grad(out, leaf, dout, retain_graph=True),
        f"{name}, backward without autograd": lambda: direct.attend_backward(
            dout, None, *saved, options
        ),
        f"{name}, torch.ops.cupyna.attention": lambda: ops.attention(q, k, v, None, *options),
        f"{name}, the general way": lambda: ranked.na2d(q, k, v, kernel_size),
    }


def _parts(q: Any, k: Any, v: Any, leaf: Any, kernel_size: int) -> dict[str, Part]:
    import torch

    from ..torch import direct
    from ..torch.options import CallOptions

    options = CallOptions.of(2, kernel_size)
    direct.attend(q, k, v, None, options, False)
    entry = direct.entry_of((q, k, v), options, False)
    if entry is None or entry.prepared is None:
        return {}  # this backend's calls go the general way
    prepared = entry.prepared
    result = torch.empty_like(q)
    addresses = [tensor.data_ptr() for tensor in (q, k, v, result)]
    workspace = torch.empty(prepared.workspace_bytes, dtype=torch.uint8, device="cuda")
    stream = torch.cuda.current_stream().cuda_stream

    def results() -> Any:
        return [torch.empty(s, dtype=d, device=q.device) for s, d in prepared.results]

    return {
        "options": lambda: CallOptions.of(2, kernel_size),
        "plain tensors?": lambda: direct.is_plain(q, k, v, None),
        "layout looked up": lambda: direct.entry_of((q, k, v), options, False),
        "results allocated": results,
        "addresses": lambda: [tensor.data_ptr() for tensor in (q, k, v, result)],
        "stream": lambda: direct.raw_stream(q.device.index),
        "launch": lambda: prepared.recording(list(addresses), workspace.data_ptr(), stream),
    }


def _others(q: Any, k: Any, v: Any, *rest: Any) -> dict[str, Part]:
    import torch

    attend = torch.nn.functional.scaled_dot_product_attention
    flat = [tensor.flatten(1, 2).transpose(1, 2) for tensor in (q, k, v)]

    def dense() -> Any:
        with torch.no_grad():
            return attend(*flat)

    return {"torch.add": lambda: torch.add(q, k), "torch's dense attention": dense}


def _peer(q: Any, k: Any, v: Any, leaf: Any, kernel_size: int) -> dict[str, Part]:
    try:
        import natten
    except ImportError:
        return {}
    if not natten.HAS_LIBNATTEN:
        return {}
    name = f"NATTEN {natten.__version__} na2d"
    return {
        f"{name}, no gradient": lambda: natten.na2d(q, k, v, kernel_size),
        f"{name}, gradient recorded": lambda: natten.na2d(leaf, k, v, kernel_size),
    }


def _time_us(part: Part, rounds: int) -> float:
    import torch

    samples = []
    for _ in range(rounds + 1):  # the first one warms up
        torch.cuda.synchronize()
        begin = perf_counter()
        for _ in range(_CALLS):
            part()
        samples.append((perf_counter() - begin) / _CALLS * 1e6)
    torch.cuda.synchronize()
    return statistics.median(samples[1:])
