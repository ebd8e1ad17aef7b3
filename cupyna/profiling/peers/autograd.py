"""Work of a peer that is a differentiable torch function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..implementations import PIECES, Direction, Refused

__all__ = ["autograd_run"]


def autograd_run(
    call: Callable[..., Any], inputs: Sequence[Any], dout: Any, direction: Direction
) -> Callable[[], Any]:
    """One direction of ``call(q, k, v)``: the output, or the gradients of the inputs.

    Backward alone repeats on what one forward pass kept.
    """
    import torch

    if direction in PIECES:
        raise Refused("has no single products")
    if direction == "forward":

        def forward() -> Any:
            with torch.no_grad():
                return call(*inputs)

        return forward
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    if direction == "backward":
        out = call(*leaves)
        return lambda: torch.autograd.grad(out, leaves, dout, retain_graph=True)
    return lambda: torch.autograd.grad(call(*leaves), leaves, dout)
