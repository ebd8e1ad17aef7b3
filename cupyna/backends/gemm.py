"""Host side of the gemm CUDA method: tiles on tensor cores, weights stored.

The kernels are the paper's three products: query tile x key box, weights x key box, and weights^T x
query box. Forward and backward keep their weights as fragments of tensor core products between two
kernels; single products read and write a caller's compact rows, and so does the backward pass that
has a bias or float64. A call may be several: for dilation groups of two lengths, and for planes
whose weights would take too much memory at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from ..arrays.device_array import DeviceArray
from ..execution import Choice, Execution
from ..operands import BackwardArrays, ForwardArrays
from ..problem import DeviceSpec, Method, Operation, Problem
from ..tiles import useful_pairs
from .naive import CudaNaive

if TYPE_CHECKING:
    from ..kernels.gemm.parts import Part
    from ..kernels.gemm.products import GemmProducts

__all__ = ["CudaGemm", "CudaGemmPlain"]

_MOST_BLOCKS = 2**31 - 1

# Positions are 32-bit numbers with room for sums.
_MOST_TOKENS = 2**30 - 1

# Tensor cores have to be expected to be faster by so much than the naive method's kernels, which
# compute a product without padding: models err.
_CLEARLY_FASTER = 0.9


class CudaGemm:
    """Backend of gemm CUDA kernels."""

    name = "cuda-gemm"
    method: Method = "gemm"
    is_lean = False
    is_recordable = True

    def refusals(
        self, problem: Problem, operation: Operation, device: DeviceSpec
    ) -> tuple[str, ...]:
        return self.limits(problem, operation, device) or slower_than_plain(
            problem, operation, device
        )

    def limits(self, problem: Problem, operation: Operation, device: DeviceSpec) -> tuple[str, ...]:
        """Why the kernels cannot run an operation at all, whatever it would take."""
        from ..kernels.gemm.schedule import schedule
        from ..kernels.variant import SERVED, architectures_on

        if not architectures_on(device.compute_capability):
            major, minor = device.compute_capability
            return (f"needs compute capability {SERVED}, {device.name} has {major}.{minor}",)
        reasons = []
        if problem.tokens > _MOST_TOKENS:
            reasons.append(f"{problem.tokens} tokens are more than {_MOST_TOKENS}")
        try:
            blocks = schedule(problem, operation, device).blocks
        except ValueError as error:
            return (*reasons, str(error))
        if blocks > _MOST_BLOCKS:
            reasons.append(f"needs {blocks} blocks of threads, more than {_MOST_BLOCKS}")
        return tuple(reasons)

    def choice(self, problem: Problem, operation: Operation, device: DeviceSpec) -> Choice:
        from ..kernels.gemm.schedule import schedule

        found = schedule(problem, operation, device)
        first = found.plans[0]
        part = found.parts[0]
        return Choice(
            kernel=f"cupyna_gemm_*_{problem.dtype}",
            q_tile=part.whole_axes(first.tile),
            kv_tile=part.whole_axes(first.box(part.problem)),
            useful_products=useful_pairs(problem),
            computed_products=found.computed_products,
            workspace_bytes=found.workspace_bytes,
            time_us=found.time_us,
            notes=found.notes,
        )

    def forward(
        self,
        problem: Problem,
        scale: float,
        execution: Execution,
        arrays: ForwardArrays[DeviceArray],
    ) -> None:
        for part, run in _runs(problem, "forward", execution):
            of_q, of_k, of_bias = part.of_queries, part.of_keys, part.of_bias
            # Both kernels walk the same chunks: one leaves the fragments that the other takes.
            plan = run.plan("forward", problem.head_dim)
            weights, maxima = run.fragments(plan), run.maxima(plan)
            run.weights(
                plan, of_q(arrays.q), of_k(arrays.k), weights, maxima, scale,
                bias=of_bias(arrays.bias), lse=of_q(arrays.lse),
            )  # fmt: skip
            run.values(plan, weights, of_k(arrays.v), of_q(arrays.out), 1.0, maxima=maxima)

    def backward(
        self,
        problem: Problem,
        scale: float,
        execution: Execution,
        arrays: BackwardArrays[DeviceArray],
    ) -> None:
        for part, run in _runs(problem, "backward", execution):
            backward = _backward if run.keeps_fragments else _compact_backward
            backward(run, scale, _backward_of(part, arrays))

    def qk(
        self,
        problem: Problem,
        scale: float,
        execution: Execution,
        q: DeviceArray,
        k: DeviceArray,
        bias: DeviceArray | None,
        scores: DeviceArray,
    ) -> None:
        for part, run in _runs(problem, "qk", execution):
            of_q, of_k, bias_of = part.of_queries, part.of_keys, part.of_bias
            run.scores(of_q(q), of_k(k), of_q(scores), scale, empty=-math.inf, bias=bias_of(bias))

    def av(
        self,
        problem: Problem,
        execution: Execution,
        weights: DeviceArray,
        v: DeviceArray,
        out: DeviceArray,
    ) -> None:
        for part, run in _runs(problem, "av", execution):
            of_q, of_k = part.of_queries, part.of_keys
            run.outputs(of_q(weights), of_k(v), of_q(out), 1.0)

    def qk_backward(
        self,
        problem: Problem,
        scale: float,
        execution: Execution,
        dscores: DeviceArray,
        q: DeviceArray,
        k: DeviceArray,
        dq: DeviceArray,
        dk: DeviceArray,
        dbias: DeviceArray | None,
    ) -> None:
        for part, run in _runs(problem, "qk_backward", execution):
            of_q, of_k = part.of_queries, part.of_keys
            run.outputs(of_q(dscores), of_k(k), of_q(dq), scale)
            run.inverse(of_q(dscores), of_q(q), of_k(dk), scale)
            if dbias is not None:
                run.bias_gradient(of_q(dscores), part.of_bias(dbias))

    def av_backward(
        self,
        problem: Problem,
        execution: Execution,
        dout: DeviceArray,
        weights: DeviceArray,
        v: DeviceArray,
        dweights: DeviceArray,
        dv: DeviceArray,
    ) -> None:
        for part, run in _runs(problem, "av_backward", execution):
            of_q, of_k = part.of_queries, part.of_keys
            run.scores(of_q(dout), of_k(v), of_q(dweights), 1.0, empty=0.0)
            run.inverse(of_q(weights), of_q(dout), of_k(dv), 1.0)


class CudaGemmPlain(CudaNaive):
    """The method where tensor cores lose: windows so small that tiles are mostly padding.

    The kernels are those of the naive method, and so is the time.
    """

    name = "cuda-gemm-plain"
    method: Method = "gemm"

    def refusals(
        self, problem: Problem, operation: Operation, device: DeviceSpec
    ) -> tuple[str, ...]:
        reasons = super().refusals(problem, operation, device)
        tensor_cores = CudaGemm()
        if reasons or tensor_cores.limits(problem, operation, device):
            return (*reasons, "stands in only where tensor cores are slower, not where they cannot")
        if not tensor_cores.refusals(problem, operation, device):
            return ("tensor cores are expected to be faster",)
        return ()

    def choice(self, problem: Problem, operation: Operation, device: DeviceSpec) -> Choice:
        found = super().choice(problem, operation, device)
        return replace(found, notes=(*found.notes, "products outside of tensor cores"))


def slower_than_plain(
    problem: Problem, operation: Operation, device: DeviceSpec
) -> tuple[str, ...]:
    """Why tensor cores are not worth while, if so."""
    plain = CudaNaive()
    if plain.refusals(problem, operation, device):
        return ()
    plain_us = plain.choice(problem, operation, device).time_us
    time_us = CudaGemm().choice(problem, operation, device).time_us
    if time_us <= _CLEARLY_FASTER * plain_us:
        return ()
    return (
        f"expected to take {time_us:.0f} us, which is not clearly less than {plain_us:.0f} us "
        "outside of tensor cores",
    )


def _runs(
    problem: Problem, operation: Operation, execution: Execution
) -> Iterator[tuple[Part, GemmProducts]]:
    """The parts of a call and the launches of each; they take turns with the workspace."""
    from ..kernels.gemm.products import GemmProducts
    from ..kernels.gemm.schedule import SharedWorkspace, schedule

    workspace = SharedWorkspace(execution.empty)
    shared = replace(execution, empty=workspace.empty)
    for part in schedule(problem, operation, execution.device).parts:
        workspace.restart()
        yield part, GemmProducts(part.problem, shared)


def _backward_of(part: Part, arrays: BackwardArrays[DeviceArray]) -> BackwardArrays[DeviceArray]:
    """What of a call's arrays is a part's."""
    of_q, of_k, of_bias = part.of_queries, part.of_keys, part.of_bias
    return BackwardArrays(
        q=of_q(arrays.q), k=of_k(arrays.k), v=of_k(arrays.v), bias=of_bias(arrays.bias),
        out=of_q(arrays.out), lse=of_q(arrays.lse),
        dout=of_q(arrays.dout), dlse=of_q(arrays.dlse),
        dq=of_q(arrays.dq), dk=of_k(arrays.dk), dv=of_k(arrays.dv), dbias=of_bias(arrays.dbias),
    )  # fmt: skip


def _backward(run: GemmProducts, scale: float, arrays: BackwardArrays[DeviceArray]) -> None:
    of_queries, of_keys = run.gradient_plan("query"), run.gradient_plan("key")
    kept = [plan for plan in (of_queries, of_keys) if not plan.leaves_rows]
    # Fragments of queries have been used when those of keys come.
    dscores = run.fragments(*kept) if kept else None
    of_dq = arrays.dq if dscores is None or of_queries.leaves_rows else dscores
    statistics = run.query_gradients(of_queries, scale, arrays, of_dq)
    if of_dq is not arrays.dq:
        run.values(of_queries, of_dq, arrays.k, arrays.dq, scale)
    if dscores is None or of_keys.leaves_rows:
        run.key_gradients(of_keys, scale, arrays, statistics, arrays.dv, arrays.dk)
        return
    weights = run.fragments(of_keys)
    run.key_gradients(of_keys, scale, arrays, statistics, weights, dscores)
    run.values(of_keys, weights, arrays.dout, arrays.dv, 1.0)
    run.values(of_keys, dscores, arrays.q, arrays.dk, scale)


def _compact_backward(run: GemmProducts, scale: float, arrays: BackwardArrays[DeviceArray]) -> None:
    rows, drows = run.rows(), run.rows()
    run.score_gradients(scale, arrays, weights=rows, dscores=drows)
    run.inverse(rows, arrays.dout, arrays.dv, 1.0)
    run.outputs(drows, arrays.k, arrays.dq, scale)
    run.inverse(drows, arrays.q, arrays.dk, scale)
    if arrays.dbias is not None:
        run.bias_gradient(drows, arrays.dbias)
