"""What can be measured: our methods and backends, and how anything else is put beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, Protocol

from .. import api, operations
from ..arrays import Device, library_of
from ..dispatch import backends, select
from ..execution import Backend, Execution
from ..operands import BackwardArrays, ForwardArrays
from ..problem import METHODS, DeviceSpec, Method, Operation, Problem

__all__ = [
    "DIRECTIONS",
    "PIECES",
    "Direction",
    "Forced",
    "Implementation",
    "Ours",
    "Piece",
    "Refused",
    "Work",
    "ours",
]

Piece = Literal["qk", "av", "qk_backward", "av_backward"]
Direction = Literal["forward", "backward", "forward+backward"] | Piece

DIRECTIONS: tuple[Direction, ...] = ("forward", "backward", "forward+backward")

# The single products of unfused methods, on weights in memory.
PIECES: tuple[Piece, ...] = ("qk", "av", "qk_backward", "av_backward")

Tensors = Mapping[str, Any]


class Refused(Exception):  # noqa: N818 - not an error: an answer
    """Why an implementation does not run a problem."""


@dataclass(frozen=True, slots=True)
class Work:
    """One direction on one set of inputs.

    Parameters
    ----------
    run : callable
        Queues the work on torch's current stream; what it returns is kept for `read`.
    read : callable
        Results in our layout by name (`out`, or `dq`, `dk` and `dv`; for single products
        `scores`, `out`, `dq` and `dk`, or `dweights` and `dv`); not part of the time.
    about : dict
        What runs: kernel, tiles, configuration.
    """

    run: Callable[[], Any]
    read: Callable[[Any], Mapping[str, Any]]
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def expected_us(self) -> float:
        """Time that our cost models expect; 0 for other libraries."""
        passes = [part for part in self.about.values() if isinstance(part, Mapping)]
        return sum((part["expected_us"] for part in passes), 0.0)


class Implementation(Protocol):
    """Something that computes neighborhood attention, or what one would use instead."""

    @property
    def name(self) -> str:
        """What results call it."""

    @property
    def is_ours(self) -> bool:
        """Whether the tolerance rule is its law, and not only a measure."""

    def computes(self, problem: Problem) -> Problem:
        """The problem that its results are of: dense attention sees every key."""

    def memory_bytes(self, problem: Problem, direction: Direction) -> int:
        """Memory it takes beside inputs and results, if known; else 0."""

    def work(self, problem: Problem, tensors: Tensors, direction: Direction) -> Work:
        """One direction on torch tensors of our layout.

        Raises
        ------
        Refused
            If it cannot.
        """


class Ours:
    """A method of this library, through its public functions."""

    is_ours = True

    def __init__(self, method: Method, device: DeviceSpec, deterministic: bool = False) -> None:
        self.name = f"{method}, deterministic" if deterministic else str(method)
        self._method = method
        self._device = device
        self._deterministic = deterministic

    def computes(self, problem: Problem) -> Problem:
        return problem

    def memory_bytes(self, problem: Problem, direction: Direction) -> int:
        problem = replace(problem, deterministic=self._deterministic)
        try:
            return max(
                self._backend(problem, operation)
                .choice(problem, operation, self._device)
                .workspace_bytes
                for operation in _operations(direction)
            )
        except Refused:
            return 0

    def work(self, problem: Problem, tensors: Tensors, direction: Direction) -> Work:
        problem = replace(problem, deterministic=self._deterministic)
        about: dict[str, Any] = {
            operation: _about(self._backend(problem, operation), problem, operation, self._device)
            for operation in _operations(direction)
        }
        q, k, v = (tensors[name] for name in ("q", "k", "v"))
        options: dict[str, Any] = {
            "kernel_size": problem.kernel_size, "stride": problem.stride,
            "dilation": problem.dilation, "is_causal": problem.is_causal, "method": self._method,
            "allow_tf32": problem.allow_tf32,
        }  # fmt: skip
        if direction in PIECES:
            return _piece(direction, tensors, options, about)
        options["deterministic"] = problem.deterministic
        if "sink_k" in tensors:
            return _with_sinks(direction, tensors, options, about)
        forward = partial(api.neighborhood_attention, q, k, v, **options)
        if direction == "forward":
            return Work(forward, lambda out: {"out": out}, about)

        def backward(out: Any, lse: Any) -> Any:
            return api.neighborhood_attention_backward(
                tensors["dout"], q, k, v, out, lse, **options
            )

        if direction == "backward":
            return Work(partial(backward, *forward(return_lse=True)), gradients, about)
        return Work(lambda: backward(*forward(return_lse=True)), gradients, about)

    def _backend(self, problem: Problem, operation: Operation) -> Backend:
        try:
            return select(problem, operation, self._device, self._method)
        except ValueError as error:
            raise Refused(str(error)) from None


class Forced:
    """One backend, called where the library may prefer another; forward and backward are its own.

    Where it has no backward, backward is refused.
    """

    is_ours = True

    def __init__(self, backend: Backend, device: DeviceSpec) -> None:
        self.name = backend.name
        self._backend = backend
        self._device = device

    def computes(self, problem: Problem) -> Problem:
        return problem

    def memory_bytes(self, problem: Problem, direction: Direction) -> int:
        return max(
            0
            if self._backend.refusals(problem, operation, self._device)
            else self._backend.choice(problem, operation, self._device).workspace_bytes
            for operation in _operations(direction)
        )

    def work(self, problem: Problem, tensors: Tensors, direction: Direction) -> Work:
        if direction in PIECES or "sink_k" in tensors:
            raise Refused("single products and tokens beside the grid are timed by method")
        about: dict[str, Any] = {}
        for operation in _operations(direction):
            refusals = self._backend.refusals(problem, operation, self._device)
            if refusals:
                raise Refused("; ".join(refusals))
            about[operation] = _about(self._backend, problem, operation, self._device)

        def forward() -> tuple[Any, Any]:
            return self._forward(problem, tensors, with_lse=direction != "forward")

        if direction == "forward":
            return Work(forward, lambda results: {"out": results[0]}, about)
        if direction == "backward":
            return Work(partial(self._backward, problem, tensors, *forward()), gradients, about)
        return Work(lambda: self._backward(problem, tensors, *forward()), gradients, about)

    def _forward(self, problem: Problem, tensors: Tensors, with_lse: bool) -> tuple[Any, Any]:
        import torch

        q = tensors["q"]
        out = torch.empty((*q.shape[:-1], problem.value_dim), dtype=q.dtype, device=q.device)
        lse = None
        if with_lse:
            accumulator = getattr(torch, problem.accumulator)
            lse = torch.empty(q.shape[:-1], dtype=accumulator, device=q.device)
        arrays: ForwardArrays[Any] = ForwardArrays.of(_views({**tensors, "out": out, "lse": lse}))
        execution = _execution(self._device, q)
        self._backend.forward(problem, problem.head_dim**-0.5, execution, arrays)
        return out, lse

    def _backward(self, problem: Problem, tensors: Tensors, out: Any, lse: Any) -> Any:
        import torch

        results = {f"d{name}": torch.empty_like(tensors[name]) for name in ("q", "k", "v")}
        arrays: BackwardArrays[Any] = BackwardArrays.of(
            _views({**tensors, **results, "out": out, "lse": lse})
        )
        execution = _execution(self._device, out)
        self._backend.backward(problem, problem.head_dim**-0.5, execution, arrays)
        return tuple(results.values())


def ours(
    names: Iterable[str], device: DeviceSpec, deterministic: bool = False
) -> list[Implementation]:
    """Our methods and backends of these names; on request the fused method twice.

    The second one is deterministic. What others add, they always add in the same order.

    Raises
    ------
    ValueError
        If a name is neither a method nor a backend for the kind of device.
    """
    forced = {backend.name: backend for backend in backends(device.kind)}
    found: list[Implementation] = []
    for name in names:
        if name in METHODS:
            method = next(m for m in METHODS if m == name)
            ways = (False, True) if deterministic and method == "fused" else (False,)
            found.extend(Ours(method, device, way) for way in ways)
        elif name in forced:
            found.append(Forced(forced[name], device))
        else:
            known = ", ".join((*METHODS, *forced))
            raise ValueError(f"method must be one of {known}, got {name!r}")
    return found


def gradients(results: tuple[Any, ...]) -> dict[str, Any]:
    """Gradients by name."""
    return dict(zip(("dq", "dk", "dv"), results, strict=True))


def _operations(direction: Direction) -> tuple[Operation, ...]:
    return ("forward", "backward") if direction == "forward+backward" else (direction,)


def _with_sinks(
    direction: Direction, tensors: Tensors, options: Mapping[str, Any], about: Mapping[str, Any]
) -> Work:
    """The window and tokens that every query sees."""
    if direction != "forward":
        raise Refused("tokens beside the grid are timed forward")
    from ..torch import neighborhood_attention

    q, k, v, keys, values = (tensors[name] for name in ("q", "k", "v", "sink_k", "sink_v"))
    run = partial(
        neighborhood_attention, q, k, v, additional_keys=keys, additional_values=values, **options
    )
    return Work(run, lambda out: {"out": out}, about)


def _piece(
    piece: Direction, tensors: Tensors, options: Mapping[str, Any], about: Mapping[str, Any]
) -> Work:
    q, k, v = (tensors[name] for name in ("q", "k", "v"))
    weights = tensors["weights"]
    if piece == "qk":
        run = partial(operations.na_qk, q, k, **options)
        return Work(run, lambda scores: {"scores": scores}, about)
    if piece == "av":
        return Work(partial(operations.na_av, weights, v, **options), lambda o: {"out": o}, about)
    if piece == "qk_backward":
        run, names = partial(operations.na_qk_backward, weights, q, k, **options), ("dq", "dk")
    else:
        dout = tensors["dout"]
        run = partial(operations.na_av_backward, dout, weights, v, **options)
        names = ("dweights", "dv")
    return Work(run, lambda results: dict(zip(names, results, strict=True)), about)


def _about(
    backend: Backend, problem: Problem, operation: Operation, device: DeviceSpec
) -> dict[str, Any]:
    choice = backend.choice(problem, operation, device)
    return {
        "backend": backend.name,
        "kernel": choice.kernel,
        "q_tile": choice.q_tile,
        "kv_tile": choice.kv_tile,
        "useful_products": choice.useful_products,
        "computed_products": choice.computed_products,
        "workspace_bytes": choice.workspace_bytes,
        "expected_us": round(choice.time_us, 1),
    }


def _views(tensors: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: library_of(tensor, name).view(tensor)
        for name, tensor in tensors.items()
        if tensor is not None
    }


def _execution(device: DeviceSpec, like: Any) -> Execution:
    library = library_of(like, "q")
    place = Device(device.kind, device.index)
    carriers = []  # alive as long as the execution

    def empty(shape: tuple[int, ...], dtype: str) -> Any:
        carriers.append(library.empty(shape, dtype, place))
        return library.view(carriers[-1])

    return Execution(device, library.stream(place), empty)
