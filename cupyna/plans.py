"""Calls prepared once: for arrays of some layout, all that is left to do is launching.

The general way checks a call, chooses a backend, packs parameters and launches, every time. Here
the first three are done once for each layout, where the backend can be recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .arguments import Call, Options, parse
from .arrays import DeviceArray, has_vector_rows
from .devices import device_spec
from .dispatch import backends, select
from .execution import BesideBackend, Execution
from .operands import BackwardArrays, BackwardBesideArrays, ForwardArrays, ForwardBesideArrays
from .problem import Operation

if TYPE_CHECKING:
    from .kernels.recording import Recording

__all__ = ["Plan", "plan_backward", "plan_backward_beside", "plan_forward", "plan_forward_beside"]


@dataclass(frozen=True, slots=True)
class Plan:
    """A call that is ready to launch.

    Parameters
    ----------
    results : dict
        Shape and dtype of each array that the call writes, all of them contiguous, in the order
        of the recording's last arrays.
    recording : Recording
        Takes addresses of the inputs that were given, in the operation's order, then of results.
    """

    results: Mapping[str, tuple[tuple[int, ...], str]]
    recording: Recording


def plan_forward(arrays: Mapping[str, Any], options: Options, with_lse: bool) -> Plan | None:
    """Prepare a forward call.

    Parameters
    ----------
    arrays : dict
        `q`, `k`, `v` and `bias`, which may be None, on a CUDA device.
    options : Options
    with_lse : bool
        Whether the log-sum-exp is written too.

    Returns
    -------
    Plan or None
        None where the call has to go the general way.

    Raises
    ------
    TypeError, ValueError
        As the call.
    """
    call = parse("forward", arrays, options)
    problem = call.problem
    heads = (problem.batch, *problem.spatial, problem.heads)
    results = {"out": ((*heads, problem.value_dim), problem.dtype)}
    if with_lse:
        results["lse"] = (heads, problem.accumulator)
    return _plan(call, "forward", ForwardArrays, results)


def plan_forward_beside(arrays: Mapping[str, Any], options: Options) -> Plan | None:
    """Prepare a forward call with keys that every query sees beside its window.

    Parameters
    ----------
    arrays : dict
        `q`, `k`, `v`, `bias`, and `more_k` and `more_v`, ``[batch, tokens, kv_heads, channels]``
        of the dtype and on the device of the others.
    options : Options

    Returns
    -------
    Plan or None
        None where no backend takes them in its one pass.
    """
    call, more = _parse_beside("forward", arrays, options)
    problem = call.problem
    device = device_spec(call.device)
    for backend in _beside_backends(call, "forward", more):
        if backend.takes_beside(problem, device):
            heads = (problem.batch, *problem.spatial, problem.heads)
            results = {
                "out": ((*heads, problem.value_dim), problem.dtype),
                "lse": (heads, problem.accumulator),
            }
            run = backend.forward_beside
            return _record(call, backend, run, ForwardBesideArrays, more, results)
    return None


def plan_backward_beside(arrays: Mapping[str, Any], options: Options) -> Plan | None:
    """Prepare what such keys add to backward of the windows.

    Parameters
    ----------
    arrays : dict
        `dout`, `q`, `k`, `v`, `bias`, `more_k`, `more_v`, `out`, `lse`, `dlse` and `window_dq`.
    options : Options

    Returns
    -------
    Plan or None
        Its results are `dq` and sums for the keys and values, which the caller adds up over their
        first axis and rounds.
    """
    window_dq = arrays["window_dq"]
    others = {name: array for name, array in arrays.items() if name != "window_dq"}
    call, more = _parse_beside("backward", others, options)
    problem, more_k, more_v = call.problem, more["more_k"], more["more_v"]
    device = device_spec(call.device)
    for backend in _beside_backends(call, "backward", more):
        slices = backend.slices_beside(problem, more_k.shape[1], device)
        if slices is not None:
            results = {
                "dq": (tuple(call.views["q"].shape), problem.dtype),
                "key_sums": ((slices, *more_k.shape), problem.accumulator),
                "value_sums": ((slices, *more_v.shape), problem.accumulator),
            }
            run = backend.backward_beside
            added = {**more, "window_dq": call.library.view(window_dq)}
            return _record(call, backend, run, BackwardBesideArrays, added, results)
    return None


def _parse_beside(
    operation: Operation, arrays: Mapping[str, Any], options: Options
) -> tuple[Call, dict[str, Any]]:
    """The call without keys beside the windows, and views of those."""
    nearby = {name: array for name, array in arrays.items() if not name.startswith("more")}
    call = parse(operation, nearby, options)
    return call, {name: call.library.view(arrays[name]) for name in ("more_k", "more_v")}


def _beside_backends(
    call: Call, operation: Operation, more: Mapping[str, Any]
) -> Iterator[BesideBackend]:
    """Backends that may take the keys beside the windows of a call."""
    device = device_spec(call.device)
    for backend in backends(device.kind):
        if (
            call.method in (None, backend.method)
            and isinstance(backend, BesideBackend)
            and not backend.refusals(call.problem, operation, device)
            and all(map(has_vector_rows, more.values()))
        ):
            yield backend


def plan_backward(arrays: Mapping[str, Any], options: Options) -> Plan | None:
    """Prepare a backward call; see :func:`plan_forward`.

    Parameters
    ----------
    arrays : dict
        `q`, `k`, `v`, `bias`, `out`, `dout`, `lse` and `dlse`, in this order.
    options : Options
    """
    call = parse("backward", arrays, options)
    dtype = call.problem.dtype
    results = {
        f"d{name}": (tuple(call.views[name].shape), dtype)
        for name in ("q", "k", "v", "bias")
        if name in call.views
    }
    return _plan(call, "backward", BackwardArrays, results)


def _plan(
    call: Call,
    operation: Operation,
    kind: type[Any],
    results: Mapping[str, tuple[tuple[int, ...], str]],
) -> Plan | None:
    device = device_spec(call.device)
    backend = select(call.problem, operation, device, call.method)
    # Made-up addresses cannot be measured on.
    is_tuned = getattr(backend, "is_tuned", None)
    if call.tune and is_tuned is not None and not is_tuned(call.problem, operation, device):
        return None
    return _record(call, backend, getattr(backend, operation), kind, {}, results)


def _record(
    call: Call,
    backend: Any,
    run: Callable[..., None],
    kind: type[Any],
    more: Mapping[str, Any],
    results: Mapping[str, tuple[tuple[int, ...], str]],
) -> Plan | None:
    is_recordable = getattr(backend, "is_recordable", False)
    if call.device.kind != "cuda" or not is_recordable or not call.problem.batch:
        return None
    device = device_spec(call.device)
    from .kernels.recording import record

    index = call.device.index
    arrays: dict[str, Any] = {**call.views, **more} | {
        name: DeviceArray.contiguous(0, shape, dtype, index)
        for name, (shape, dtype) in results.items()
    }

    def repeat(views: Mapping[str, Any], empty: Any) -> None:
        execution = Execution(device, 0, empty, call.tune)
        run(call.problem, call.scale, execution, kind.of(views))

    recording = record(arrays, index, repeat)
    return None if recording is None else Plan(results, recording)
