"""Where a call runs: what every backend is handed beside the problem and its arrays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from .operands import BackwardArrays, BackwardBesideArrays, ForwardArrays, ForwardBesideArrays
from .problem import DeviceSpec, Method, Operation, Problem

__all__ = ["Backend", "BesideBackend", "Choice", "Execution", "UnfusedBackend"]


@dataclass(frozen=True, slots=True)
class Execution:
    """The device of a call, its stream, and how to get memory there.

    Parameters
    ----------
    device : DeviceSpec
        Where the arrays are.
    stream : int
        The caller's current stream, a ``cudaStream_t`` as an integer; 0 on a CPU.
    empty : callable
        ``empty(shape, dtype_name)`` gives workspace from the caller's own library and pool.
    tune : bool
        Whether candidates may be measured.
    """

    device: DeviceSpec
    stream: int
    empty: Callable[[tuple[int, ...], str], Any]
    tune: bool = False


@dataclass(frozen=True, slots=True)
class Choice:
    """How a backend would run a problem: what :func:`cupyna.explain` prints.

    Parameters
    ----------
    kernel : str
        Name of the compiled variant, or of the host routine.
    q_tile, kv_tile : tuple of int
        Tile extents, one entry per axis; empty where the method has no tiles.
    useful_products, computed_products : int
        Query-key pairs that the windows ask for, and that are evaluated; of every pass that walks
        them, as backward over queries and over keys does.
    workspace_bytes : int
        Memory beside inputs and outputs.
    time_us : float
        What the cost model expects, in microseconds.
    notes : tuple of str
        Whatever else a reader should know.
    """

    kernel: str
    q_tile: tuple[int, ...] = ()
    kv_tile: tuple[int, ...] = ()
    useful_products: int = 0
    computed_products: int = 0
    workspace_bytes: int = 0
    time_us: float = 0.0
    notes: tuple[str, ...] = ()


class Backend(Protocol):
    """One way to run the operations of one method on one kind of device.

    Every array is already validated and, for outputs, allocated: a backend fills outputs and
    returns nothing; it is not called for an empty batch. Host backends get NumPy arrays, CUDA
    backends get :class:`cupyna.arrays.DeviceArray`. Optional arrays are None where they are not
    asked for. Layouts are ``[batch, *spatial, heads, channels]``; weights and scores are
    ``[batch, *spatial, heads, prod(kernel_size)]``.

    A CUDA backend that does all of its work by `cupyna.kernels.launch.launch`, on memory from
    `Execution.empty`, may say ``is_recordable = True``. Its calls are then recorded once for each
    layout (`cupyna.kernels.recording`) and cost their launches from there on.
    """

    @property
    def name(self) -> str:
        """What explanations call it."""

    @property
    def method(self) -> Method:
        """The method it computes by."""

    @property
    def is_lean(self) -> bool:
        """Whether it stores neither weights nor copies of arrays."""

    def refusals(
        self, problem: Problem, operation: Operation, device: DeviceSpec
    ) -> tuple[str, ...]:
        """Why this backend cannot run the operation; empty where it can."""

    def choice(self, problem: Problem, operation: Operation, device: DeviceSpec) -> Choice:
        """How it would be run."""

    def forward(
        self, problem: Problem, scale: float, execution: Execution, arrays: ForwardArrays[Any]
    ) -> None:
        """``out = softmax(scale * q k^T + bias) v`` and the log-sum-exp of each row."""

    def backward(
        self, problem: Problem, scale: float, execution: Execution, arrays: BackwardArrays[Any]
    ) -> None:
        """Gradients of :meth:`forward`."""


@runtime_checkable
class UnfusedBackend(Backend, Protocol):
    """A backend whose method stores weights, and so can give and take them.

    Any other one refuses the operations on weights.
    """

    def qk(
        self,
        problem: Problem,
        scale: float,
        execution: Execution,
        q: Any,
        k: Any,
        bias: Any | None,
        scores: Any,
    ) -> None:
        """Scaled scores of every window slot; -inf where a causal window has no key."""

    def av(self, problem: Problem, execution: Execution, weights: Any, v: Any, out: Any) -> None:
        """Sum of values under the weights of each window."""

    def qk_backward(
        self,
        problem: Problem,
        scale: float,
        execution: Execution,
        dscores: Any,
        q: Any,
        k: Any,
        dq: Any,
        dk: Any,
        dbias: Any | None,
    ) -> None:
        """Gradients of :meth:`qk`; gradients of slots without a key are ignored."""

    def av_backward(
        self,
        problem: Problem,
        execution: Execution,
        dout: Any,
        weights: Any,
        v: Any,
        dweights: Any,
        dv: Any,
    ) -> None:
        """Gradients of :meth:`av`; zero in slots without a key."""


@runtime_checkable
class BesideBackend(Backend, Protocol):
    """A backend that takes keys and values beside the windows in the same pass."""

    def takes_beside(self, problem: Problem, device: DeviceSpec) -> bool:
        """Whether it does for a problem that it does not refuse."""

    def forward_beside(
        self, problem: Problem, scale: float, execution: Execution, arrays: ForwardBesideArrays[Any]
    ) -> None:
        """:meth:`forward` where every query sees more keys than those of its window."""

    def slices_beside(self, problem: Problem, tokens: int, device: DeviceSpec) -> int | None:
        """Slices of :meth:`backward_beside`; None where it cannot run."""

    def backward_beside(
        self,
        problem: Problem,
        scale: float,
        execution: Execution,
        arrays: BackwardBesideArrays[Any],
    ) -> None:
        """What those keys add to backward of the windows."""
