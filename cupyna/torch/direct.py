"""From tensors to launches, with everything that a layout decides done once.

Tensors are read through their addresses, results and workspace come from torch's allocator, and
launches go to torch's current stream. Gradients are recorded above this file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from .. import operations
from ..arguments import Options, parse
from ..devices import device_spec
from ..dispatch import backends
from ..plans import (
    Plan,
    plan_backward,
    plan_backward_beside,
    plan_forward,
    plan_forward_beside,
)
from .options import CallOptions

__all__ = [
    "attend",
    "attend_backward",
    "attend_beside",
    "attend_beside_backward",
    "entry_of",
    "is_plain",
    "raw_stream",
    "readable",
]

Tensor = Any
Named = dict[str, Any]

_PLAIN = (torch.Tensor, torch.nn.Parameter)
_PLANS: dict[str, Callable[..., Plan | None]] = {
    "forward": plan_forward,
    "backward": plan_backward,
    "beside": plan_forward_beside,
    "beside_backward": plan_backward_beside,
}
_ROWS = ("q", "k", "v", "out", "dout")

# Layouts that a process remembers; a training run has some dozens.
_MOST_ENTRIES = 4096
_VECTOR_BYTES = 16


class _Prepared(NamedTuple):
    """A plan in torch's terms."""

    results: tuple[tuple[tuple[int, ...], Any], ...]
    workspace_bytes: int
    recording: Any


class _Entry(NamedTuple):
    """What is known of a layout: the options of its calls, and their plan if there is one."""

    options: Options
    prepared: _Prepared | None


_entries: dict[Any, _Entry] = {}


def is_plain(*tensors: Tensor | None) -> bool:
    """Whether nobody has to see the operator: no subclass, mode or transform is at work."""
    for tensor in tensors:
        if tensor is not None and type(tensor) not in _PLAIN:
            return False
    return (
        not tensors[0].is_meta  # type: ignore[union-attr]
        and not torch._C._are_functorch_transforms_active()
        and not torch._C._len_torch_dispatch_stack()
    )


def attend(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, options: CallOptions, with_lse: bool
) -> tuple[Tensor, Tensor | None]:
    """Output and log-sum-exp; None for the second where it is not asked for."""
    tensors = (q, k, v) if bias is None else (q, k, v, bias)
    entry = entry_of(tensors, options, with_lse)
    if entry is None:
        key = (_layout(tensors), options, with_lse)
        named = {"q": q, "k": k, "v": v, "bias": bias}
        entry = _remember(key, _entry("forward", named, options, with_lse))
    if entry.prepared is not None:
        results = _launch(entry.prepared, tensors, q.device)
        if results is not None:
            return results[0], results[1] if with_lse else None
    rows = (q, k, v)
    copies = readable(rows)
    if copies is not rows:
        q, k, v = copies
        return attend(q, k, v, bias, options, with_lse)
    found = operations.neighborhood_attention(
        **_detached({"q": q, "k": k, "v": v, "bias": bias}), **_keywords(entry.options),
        return_lse=with_lse,
    )  # fmt: skip
    return found if with_lse else (found, None)


def attend_beside(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    more_k: Tensor,
    more_v: Tensor,
    options: CallOptions,
) -> tuple[Tensor, Tensor] | None:
    """Output and log-sum-exp with keys beside the windows, in one pass; None where none can."""
    named = {"q": q, "k": k, "v": v, "bias": bias, "more_k": more_k, "more_v": more_v}
    tensors = [tensor for tensor in named.values() if tensor is not None]
    rest = (bias is None, options, "beside")
    entry = entry_of(tensors, *rest)
    if entry is None:
        entry = _remember((_layout(tensors), *rest), _entry("beside", named, options))
    if entry.prepared is None:
        return None
    results = _launch(entry.prepared, tensors, q.device)
    return None if results is None else (results[0], results[1])


def attend_backward(
    dout: Tensor,
    dlse: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    out: Tensor,
    lse: Tensor,
    options: CallOptions,
) -> tuple[Tensor, ...]:
    """Gradients for q, k, v and the bias; the last is empty where there is no bias.

    The method of forward computes them if it can, else any that can.
    """
    named = {
        "q": q, "k": k, "v": v, "bias": bias, "out": out, "dout": dout, "lse": lse, "dlse": dlse,
    }  # fmt: skip
    tensors = [tensor for tensor in named.values() if tensor is not None]
    rest = (bias is None, dlse is None, options)
    entry = entry_of(tensors, *rest)
    if entry is None:
        key = (_layout(tensors), *rest)
        entry = _remember(key, _entry("backward", named, options))
    results: Sequence[Tensor] | None = None
    if entry.prepared is not None:
        results = _launch(entry.prepared, tensors, q.device)
    if results is None:
        rows = (dout, q, k, v, out)
        copies = readable(rows)
        if copies is not rows:
            dout, q, k, v, out = copies
            return attend_backward(dout, dlse, q, k, v, bias, out, lse, options)
        results = operations.neighborhood_attention_backward(
            **_detached(named), **_keywords(entry.options)
        )
    return tuple(results) if bias is not None else (*results, q.new_empty((0,)))


def attend_beside_backward(
    dout: Tensor,
    dlse: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    more_k: Tensor,
    more_v: Tensor,
    out: Tensor,
    lse: Tensor,
    window_dq: Tensor,
    options: CallOptions,
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Gradients for q, `more_k` and `more_v` by kernels; None where there are none for a call.

    `window_dq` is what the windows give to the gradient for q.
    """
    named = {
        "q": q, "k": k, "v": v, "bias": bias, "out": out, "dout": dout, "lse": lse, "dlse": dlse,
        "more_k": more_k, "more_v": more_v, "window_dq": window_dq,
    }  # fmt: skip
    tensors = [tensor for tensor in named.values() if tensor is not None]
    rest = (bias is None, dlse is None, options, "beside_backward")
    entry = entry_of(tensors, *rest)
    if entry is None:
        key = (_layout(tensors), *rest)
        entry = _remember(key, _entry("beside_backward", named, options))
    results = None
    if entry.prepared is not None:
        results = _launch(entry.prepared, tensors, q.device)
    if results is None:
        return None
    dq, key_sums, value_sums = results
    return dq, key_sums.sum(0).to(q.dtype), value_sums.sum(0).to(q.dtype)


def entry_of(tensors: Sequence[Tensor], *rest: Any) -> _Entry | None:
    """What is known of a call's layout so far."""
    return _entries.get((_layout(tensors), *rest))


def _layout(tensors: Sequence[Tensor]) -> tuple[Any, ...]:
    """All that a plan depends on but the options."""
    return tuple([(t.shape, t.stride(), t.dtype, t.device) for t in tensors])


def _remember(key: Any, entry: _Entry) -> _Entry:
    if entry.prepared is None and entry.options.tune:
        return entry  # the call that measures; later ones can be prepared
    if len(_entries) >= _MOST_ENTRIES:
        _entries.clear()
    _entries[key] = entry
    return entry


def _entry(operation: str, named: Named, options: CallOptions, *with_lse: bool) -> _Entry:
    given, parsed = _detached(named), options.parsed()
    if operation == "backward":
        parsed = _able(given, parsed)
    rows = tuple(given[name] for name in _ROWS if name in given)
    if not given["q"].is_cuda or readable(rows) is not rows:
        return _Entry(parsed, None)
    plan = _PLANS[operation](given, parsed, *with_lse)
    if plan is None:
        return _Entry(parsed, None)
    results = tuple((shape, getattr(torch, dtype)) for shape, dtype in plan.results.values())
    return _Entry(parsed, _Prepared(results, plan.recording.workspace_bytes, plan.recording))


def _able(named: Named, options: Options) -> Options:
    """The options with a method that can run backward: the forward's, or else any."""
    call = parse("backward", named, options)
    device = device_spec(call.device)
    for backend in backends(device.kind):
        if backend.method == call.method and not backend.refusals(call.problem, "backward", device):
            return options
    return Options(**{**_keywords(options), "method": "auto"})


def _keywords(options: Options) -> dict[str, Any]:
    return {name: getattr(options, name) for name in options.__slots__}


def _detached(named: Named) -> Named:
    return {name: None if tensor is None else tensor.detach() for name, tensor in named.items()}


def _launch(prepared: _Prepared, tensors: Sequence[Tensor], device: Any) -> list[Tensor] | None:
    """Results of a plan; None where an address is not aligned as the plan assumes."""
    addresses = [tensor.data_ptr() for tensor in tensors]
    for address in addresses:
        if address % _VECTOR_BYTES:
            return None
    empty = torch.empty
    results = [empty(shape, dtype=dtype, device=device) for shape, dtype in prepared.results]
    addresses += [tensor.data_ptr() for tensor in results]
    workspace = 0
    if prepared.workspace_bytes:
        memory = empty(prepared.workspace_bytes, dtype=torch.uint8, device=device)
        workspace = memory.data_ptr()
    prepared.recording(addresses, workspace, raw_stream(device.index))
    return results


def _current_stream(index: int) -> int:
    return int(torch.cuda.current_stream(index).cuda_stream)


# The handle without an object around it, as torch's own compiler asks for it.
raw_stream = getattr(torch._C, "_cuda_getCurrentRawStream", _current_stream)


def readable(rows: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The same tuple, or one with copies of the tensors that cannot be read in 16-byte steps."""
    if not rows[0].is_cuda or all(map(_is_readable, rows)):
        return rows
    return tuple(
        row if _is_readable(row) else row.clone(memory_format=torch.contiguous_format)
        for row in rows
    )


def _is_readable(tensor: Tensor) -> bool:
    size = tensor.element_size()
    if tensor.shape[-1] * size % _VECTOR_BYTES:
        return True  # a copy would be no better
    steps = zip(tensor.stride()[:-1], tensor.shape[:-1], strict=True)
    return (
        tensor.data_ptr() % _VECTOR_BYTES == 0
        and (tensor.stride(-1) == 1 or tensor.shape[-1] == 1)
        and all(step * size % _VECTOR_BYTES == 0 for step, length in steps if length > 1)
    )
