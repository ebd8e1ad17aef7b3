"""Dense attention as torch offers it: every query sees every token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ...problem import Problem
from ..implementations import Direction, Refused, Work
from .autograd import autograd_run

__all__ = ["Dense"]


class Dense:
    """torch's scaled dot product attention, held to one of its backends.

    Parameters
    ----------
    name : str
    backend : str
        A name of `torch.nn.attention.SDPBackend`.
    """

    is_ours = False

    def __init__(self, name: str, backend: str) -> None:
        self.name = name
        self._backend = backend

    def computes(self, problem: Problem) -> Problem:
        ones = (1,) * problem.rank
        return replace(
            problem, kernel_size=problem.spatial, stride=ones, dilation=ones,
            is_causal=(False,) * problem.rank,
        )  # fmt: skip

    def memory_bytes(self, problem: Problem, direction: Direction) -> int:
        return 0

    def work(self, problem: Problem, tensors: Mapping[str, Any], direction: Direction) -> Work:
        from torch.nn.attention import SDPBackend, sdpa_kernel
        from torch.nn.functional import scaled_dot_product_attention

        if problem.dtype not in ("float16", "bfloat16"):
            raise Refused(f"computes in float16 and bfloat16, not in {problem.dtype}")
        backend = getattr(SDPBackend, self._backend)

        def call(q: Any, k: Any, v: Any) -> Any:
            with sdpa_kernel(backend):
                return scaled_dot_product_attention(q, k, v)

        by_head = {
            name: tensor.flatten(1, problem.rank).transpose(1, 2)
            for name, tensor in tensors.items()
        }
        inputs = [by_head[name] for name in ("q", "k", "v")]

        def ours(tensor: Any) -> Any:
            return tensor.transpose(1, 2).unflatten(1, problem.spatial)

        run = autograd_run(call, inputs, by_head.get("dout"), direction)
        if direction == "forward":
            return Work(run, lambda out: {"out": ours(out)})
        return Work(run, lambda found: dict(zip(("dq", "dk", "dv"), map(ours, found), strict=True)))
