"""The fused CUDA method for rows that no vector holds: copies that whole vectors fill."""

from __future__ import annotations

import math
from dataclasses import replace

from ..arrays import DeviceArray, has_short_steps
from ..execution import Backend, Choice, Execution
from ..operands import BackwardArrays, ForwardArrays
from ..problem import DeviceSpec, Method, Operation, Problem
from .direct import CudaDirect
from .fused import CudaFused
from .hopper import CudaHopper
from .window import CudaWindow

__all__ = ["CudaPadded"]

_MULTIPLE = 8  # channels
_LAUNCH_US = 3.0

# Elements of two bytes are moved at this share of the memory's rate.
_COPY_SHARE = 0.4


class CudaPadded:
    """Copies rows to multiples of eight channels, and results back; the kernels are others'."""

    name = "cuda-fused-padded"
    method: Method = "fused"
    is_lean = False
    is_recordable = True
    _inner: tuple[Backend, ...] = (CudaHopper(), CudaDirect(), CudaWindow(), CudaFused())

    def refusals(
        self, problem: Problem, operation: Operation, device: DeviceSpec
    ) -> tuple[str, ...]:
        if _has_whole_rows(problem):
            return ("copies only rows that are not whole vectors: these are",)
        padded = _padded(problem)
        if self._fitting(padded, operation, device):
            return ()
        return self._inner[-1].refusals(padded, operation, device)

    def choice(self, problem: Problem, operation: Operation, device: DeviceSpec) -> Choice:
        padded = _padded(problem)
        choice = self._of(padded, operation, device).choice(padded, operation, device)
        shapes = _copied(padded, operation)
        copied = sum(math.prod(shape) for shape in shapes) * problem.item_bytes
        copy_us = 2 * copied / (_COPY_SHARE * device.bytes_per_us) + _LAUNCH_US * len(shapes)
        channels = f"head_dim {padded.head_dim}, value_dim {padded.value_dim}"
        return replace(
            choice,
            workspace_bytes=choice.workspace_bytes + copied,
            time_us=choice.time_us + copy_us,
            notes=(*choice.notes, f"copies rows, to {channels}"),
        )

    def forward(
        self,
        problem: Problem,
        scale: float,
        execution: Execution,
        arrays: ForwardArrays[DeviceArray],
    ) -> None:
        padded = _padded(problem)
        rows = _Rows(execution)
        out = rows.like(arrays.out)
        copies = replace(
            arrays, q=rows.of(arrays.q), k=rows.of(arrays.k), v=rows.of(arrays.v), out=out
        )
        self._of(padded, "forward", execution.device).forward(padded, scale, execution, copies)
        rows.copy(out, arrays.out)

    def backward(
        self,
        problem: Problem,
        scale: float,
        execution: Execution,
        arrays: BackwardArrays[DeviceArray],
    ) -> None:
        padded = _padded(problem)
        rows = _Rows(execution)
        gradients = arrays.dq, arrays.dk, arrays.dv
        dq, dk, dv = (rows.like(gradient) for gradient in gradients)
        copies = replace(
            arrays, q=rows.of(arrays.q), k=rows.of(arrays.k), v=rows.of(arrays.v),
            out=rows.of(arrays.out), dout=rows.of(arrays.dout), dq=dq, dk=dk, dv=dv,
        )  # fmt: skip
        self._of(padded, "backward", execution.device).backward(padded, scale, execution, copies)
        for source, target in zip((dq, dk, dv), gradients, strict=True):
            rows.copy(source, target)

    def _of(self, padded: Problem, operation: Operation, device: DeviceSpec) -> Backend:
        """Whose kernels run."""
        return min(
            self._fitting(padded, operation, device),
            key=lambda backend: backend.choice(padded, operation, device).time_us,
        )

    def _fitting(self, padded: Problem, operation: Operation, device: DeviceSpec) -> list[Backend]:
        return [b for b in self._inner if not b.refusals(padded, operation, device)]


class _Rows:
    """Rows of whole vectors in the caller's workspace."""

    def __init__(self, execution: Execution) -> None:
        self._execution = execution

    def like(self, array: DeviceArray) -> DeviceArray:
        """Room for the rows of an array."""
        shape = (*array.shape[:-1], _whole(array.shape[-1]))
        found: DeviceArray = self._execution.empty(shape, array.dtype)
        return found

    def of(self, array: DeviceArray) -> DeviceArray:
        """A copy of an array, zero in the channels that it has not."""
        copy = self.like(array)
        self.copy(array, copy)
        return copy

    def copy(self, source: DeviceArray, target: DeviceArray) -> None:
        from ..kernels.copies import copy_rows

        copy_rows(source, target, self._execution.stream)


def _whole(channels: int) -> int:
    return -(-channels // _MULTIPLE) * _MULTIPLE


def _has_whole_rows(problem: Problem) -> bool:
    channels = problem.head_dim, problem.value_dim
    return problem.has_vector_rows and all(_whole(count) == count for count in channels)


def _padded(problem: Problem) -> Problem:
    """The problem of the copies."""
    padded = replace(
        problem,
        head_dim=_whole(problem.head_dim),
        value_dim=_whole(problem.value_dim),
        has_vector_rows=True,
        has_forward_strides=True,
    )
    copies = (
        DeviceArray.contiguous(0, shape, problem.dtype, 0) for shape in _copied(padded, "forward")
    )
    has_steps = all(has_short_steps(copy, problem.dilation) for copy in copies)
    return replace(padded, has_short_steps=has_steps)


def _copied(padded: Problem, operation: Operation) -> list[tuple[int, ...]]:
    """Shapes of all copies."""
    grid = (padded.batch, *padded.spatial)
    q, out = (*grid, padded.heads, padded.head_dim), (*grid, padded.heads, padded.value_dim)
    k, v = (*grid, padded.kv_heads, padded.head_dim), (*grid, padded.kv_heads, padded.value_dim)
    return [q, k, v, out] if operation == "forward" else [out, q, k, v, out, q, k, v]
