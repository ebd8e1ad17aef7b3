"""What the unfused methods share: attention from three products over stored weights.

The products are those of the paper: query x neighborhood (scores, and gradients of weights),
weights x neighborhood (outputs, and dQ), and weights x inverse neighborhood (dK, dV). A method is
a way to compute the three; the softmax between them is the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np

from ...execution import Choice, Execution
from ...operands import BackwardArrays, ForwardArrays
from ...problem import DeviceSpec, Method, Operation, Problem
from .neighborhoods import chunks, neighborhoods
from .threads import map_tiles

__all__ = ["CpuUnfused", "Products"]

# Tokens whose weights are normalized in one step.
_SOFTMAX_TOKENS = 1024


class Products(Protocol):
    """The three products of a method. Weights are ``[batch, *spatial, heads, window]``."""

    def scores(
        self, problem: Problem, a: np.ndarray, b: np.ndarray, scores: np.ndarray, empty: float
    ) -> None:
        """``scores[i, j] = a[i] . b[neighbor j of i]``; `empty` where there is no neighbor."""

    def outputs(
        self, problem: Problem, weights: np.ndarray, b: np.ndarray, out: np.ndarray
    ) -> None:
        """``out[i] = sum_j weights[i, j] b[neighbor j of i]``."""

    def inverse(
        self, problem: Problem, weights: np.ndarray, a: np.ndarray, out: np.ndarray
    ) -> None:
        """``out[n] = sum of weights[i, j] a[i]`` over the i whose neighbor j is n."""

    def choice(self, problem: Problem, operation: Operation, device: DeviceSpec) -> Choice:
        """How the products would run."""


@dataclass(frozen=True, slots=True)
class CpuUnfused:
    """A backend made of three products and a softmax."""

    name: str
    method: Method
    products: Products

    is_lean: ClassVar[bool] = False

    def refusals(
        self, problem: Problem, operation: Operation, device: DeviceSpec
    ) -> tuple[str, ...]:
        return ()

    def choice(self, problem: Problem, operation: Operation, device: DeviceSpec) -> Choice:
        return self.products.choice(problem, operation, device)

    def forward(
        self,
        problem: Problem,
        scale: float,
        execution: Execution,
        arrays: ForwardArrays[np.ndarray],
    ) -> None:
        weights, norm = self._weights(problem, scale, execution, arrays)
        if arrays.lse is not None:
            arrays.lse[...] = norm
        self.products.outputs(problem, weights, arrays.v, arrays.out)

    def backward(
        self,
        problem: Problem,
        scale: float,
        execution: Execution,
        arrays: BackwardArrays[np.ndarray],
    ) -> None:
        dout = arrays.dout
        weights, _ = self._weights(problem, scale, execution, arrays, arrays.lse)
        self.products.inverse(problem, weights, dout, arrays.dv)
        dscores = execution.empty(weights.shape, problem.accumulator)
        self.products.scores(problem, dout, arrays.v, dscores, 0.0)
        wide = problem.accumulator
        delta = np.einsum("...d,...d->...", dout.astype(wide), arrays.out.astype(wide))[..., None]
        if arrays.dlse is not None:
            delta -= arrays.dlse[..., None]
        dscores -= delta
        dscores *= weights
        self._score_gradients(
            problem, scale, dscores, arrays.q, arrays.k, arrays.dq, arrays.dk, arrays.dbias
        )

    def qk(
        self,
        problem: Problem,
        scale: float,
        execution: Execution,
        q: np.ndarray,
        k: np.ndarray,
        bias: np.ndarray | None,
        scores: np.ndarray,
    ) -> None:
        self.products.scores(problem, _scaled(problem, q, scale), k, scores, -np.inf)
        if bias is None:
            return
        rows = scores.reshape(problem.batch, problem.tokens, problem.heads, problem.window)
        entries = bias.reshape(problem.heads, -1).astype(scores.dtype)

        def add_bias(tokens: slice) -> None:
            rows[:, tokens] += entries[:, neighborhoods(problem, tokens).bias].swapaxes(0, 1)

        for _ in map_tiles(add_bias, chunks(problem)):
            pass

    def av(
        self,
        problem: Problem,
        execution: Execution,
        weights: np.ndarray,
        v: np.ndarray,
        out: np.ndarray,
    ) -> None:
        self.products.outputs(problem, weights, v, out)

    def qk_backward(
        self,
        problem: Problem,
        scale: float,
        execution: Execution,
        dscores: np.ndarray,
        q: np.ndarray,
        k: np.ndarray,
        dq: np.ndarray,
        dk: np.ndarray,
        dbias: np.ndarray | None,
    ) -> None:
        self._score_gradients(problem, scale, dscores, q, k, dq, dk, dbias)

    def av_backward(
        self,
        problem: Problem,
        execution: Execution,
        dout: np.ndarray,
        weights: np.ndarray,
        v: np.ndarray,
        dweights: np.ndarray,
        dv: np.ndarray,
    ) -> None:
        self.products.scores(problem, dout, v, dweights, 0.0)
        self.products.inverse(problem, weights, dout, dv)

    def _weights(
        self,
        problem: Problem,
        scale: float,
        execution: Execution,
        arrays: ForwardArrays[np.ndarray] | BackwardArrays[np.ndarray],
        lse: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Softmax of the scores, and its log-sum-exp (which is taken as given if it is)."""
        shape = (*arrays.q.shape[:-1], problem.window)
        weights = execution.empty(shape, problem.accumulator)
        self.qk(problem, scale, execution, arrays.q, arrays.k, arrays.bias, weights)
        rows = weights.reshape(-1, problem.window)
        norms = np.empty(len(rows), rows.dtype) if lse is None else lse.reshape(-1)

        def normalize(begin: int) -> None:
            part = slice(begin, begin + _SOFTMAX_TOKENS)
            scores = rows[part]
            if lse is not None:
                np.exp(scores - norms[part, None], out=scores)
                return
            # Not exp(scores - lse): where scores are large, their sum's logarithm is coarse.
            largest = scores.max(-1, keepdims=True)
            np.exp(scores - largest, out=scores)
            sums = scores.sum(-1, keepdims=True)
            scores /= sums
            norms[part] = (largest + np.log(sums))[:, 0]

        for _ in map_tiles(normalize, range(0, len(rows), _SOFTMAX_TOKENS)):
            pass
        return weights, norms.reshape(shape[:-1])

    def _score_gradients(
        self,
        problem: Problem,
        scale: float,
        dscores: np.ndarray,
        q: np.ndarray,
        k: np.ndarray,
        dq: np.ndarray,
        dk: np.ndarray,
        dbias: np.ndarray | None,
    ) -> None:
        self.products.outputs(problem, dscores, _scaled(problem, k, scale), dq)
        self.products.inverse(problem, dscores, _scaled(problem, q, scale), dk)
        if dbias is None:
            return
        rows = dscores.reshape(problem.batch, problem.tokens, problem.heads, problem.window)
        entries = int(np.prod(dbias.shape[1:]))

        def by_position(tokens: slice) -> np.ndarray:
            near = neighborhoods(problem, tokens)
            flat = near.bias.ravel()
            summed = rows[:, tokens].astype(np.float64).sum(0)  # [tokens, heads, window]
            summed = np.where(near.is_key[:, None], summed, 0).swapaxes(0, 1)
            return np.stack([np.bincount(flat, head.ravel(), entries) for head in summed])

        total = np.zeros((problem.heads, entries))
        for part in map_tiles(by_position, chunks(problem)):
            total += part
        dbias[...] = total.reshape(dbias.shape)


def _scaled(problem: Problem, array: np.ndarray, scale: float) -> np.ndarray:
    """The array in the accumulator's type, times the scale of the scores."""
    wide = array.astype(problem.accumulator)
    wide *= scale
    return wide
