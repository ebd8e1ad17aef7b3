"""Check a large result against the oracle where the oracle is affordable.

A part of a grid whose windows are the same as in the whole grid is a small problem of its own:
along each axis the first tokens of the first dilation group.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import reference
from ..problem import Problem
from ..reference import EXACT, Precision

__all__ = ["Sample"]


@dataclass(frozen=True, slots=True)
class Sample:
    """The part of a problem that is checked: its first batch entry, first head, first tokens.

    Parameters
    ----------
    problem : Problem
        The small problem.
    tokens : tuple of slice
        Its tokens in the whole grid.
    queries, keys : tuple of slice
        Its tokens whose windows, and whose inverse neighborhoods, are those of the whole grid.
    """

    problem: Problem
    tokens: tuple[slice, ...]
    queries: tuple[slice, ...]
    keys: tuple[slice, ...]

    @classmethod
    def of(cls, problem: Problem) -> Sample:
        """The part of `problem` to check; one head of queries for each head of keys."""
        tokens, queries, keys, lengths = [], [], [], []
        for axis in problem.axes:
            whole = axis.line(0)
            length = min(whole.length, 2 * axis.kernel_size + 2)
            part = dataclasses.replace(whole, length=length)
            same = [
                part.window_begin(i) == whole.window_begin(i)
                and part.window_end(i) == whole.window_end(i)
                for i in range(length)
            ]
            past = same.index(False) if False in same else length
            # Windows that the cut shifted inward see keys that they do not see in the whole grid.
            seen = sum(
                int(whole.query_end(i)) == int(part.query_end(i)) <= past for i in range(length)
            )
            tokens.append(slice(0, length * axis.dilation, axis.dilation))
            queries.append(slice(0, past))
            keys.append(slice(0, seen))
            lengths.append(length)
        small = dataclasses.replace(
            problem, batch=1, heads=1, kv_heads=1, spatial=tuple(lengths),
            dilation=(1,) * problem.rank,
        )  # fmt: skip
        return cls(small, tuple(tokens), tuple(queries), tuple(keys))

    def cut(self, array: np.ndarray) -> np.ndarray:
        """The part of ``[batch, *spatial, heads, ...]``."""
        cut: np.ndarray = array[(slice(0, 1), *self.tokens, slice(0, 1))]
        return cut

    def cut_tensor(self, tensor: Any) -> np.ndarray:
        """The part of a torch tensor on a GPU, as an array on the host."""
        from ..arrays import library_of

        part = tensor[(slice(0, 1), *self.tokens, slice(0, 1))].cpu()
        return np.asarray(library_of(part, "tensor").view(part))

    def errors(
        self, inputs: Mapping[str, np.ndarray], results: Mapping[str, np.ndarray]
    ) -> dict[str, tuple[float, float]]:
        """Errors of results, relative to the largest value, each beside what rounding explains.

        Parameters
        ----------
        inputs : mapping
            ``q``, ``k``, ``v`` and ``dout``, already cut.
        results : mapping
            Any of ``out``, ``dq``, ``dk`` and ``dv``, already cut.
        """
        import ml_dtypes

        finfo: Any = ml_dtypes.finfo
        exact = self._results(inputs, EXACT)
        rounded = self._results(inputs, Precision("float32", "float32"))
        errors = {}
        for name, result in results.items():
            part = (slice(None), *(self.keys if name in ("dk", "dv") else self.queries))
            truth = exact[name][part]
            largest = float(np.abs(truth).max(initial=0)) or 1.0
            honest = rounded[name][part].astype(result.dtype).astype(np.float64)
            eps = float(finfo(result.dtype).eps)
            allowed = 2 * float(np.abs(honest - truth).max(initial=0)) / largest + 4 * eps
            difference = np.abs(result[part].astype(np.float64) - truth)
            found = float(difference.max(initial=0)) / largest
            errors[name] = (found, allowed)
        return errors

    def _results(
        self, inputs: Mapping[str, np.ndarray], precision: Precision
    ) -> dict[str, np.ndarray]:
        scale = self.problem.head_dim**-0.5
        arguments = (self.problem, scale, inputs["q"], inputs["k"], inputs["v"])
        out, lse = reference.forward(*arguments[:4], inputs["v"], None, precision)
        dq, dk, dv, _ = reference.backward(
            self.problem, scale, inputs["dout"], *arguments[2:], precision=precision,
            saved=(out.astype(inputs["q"].dtype), lse) if precision is not EXACT else None,
        )  # fmt: skip
        return {"out": out, "dq": dq, "dk": dk, "dv": dv}
