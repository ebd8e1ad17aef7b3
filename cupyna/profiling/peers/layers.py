"""Other libraries in the place of the attention of a model's layers, with gradients."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch

from .unfused import Unfused

__all__ = ["PEERS", "attend_by"]

# The installed NATTEN, and 0.17.5's unfused kernels from a folder.
PEERS = ("natten", "natten-naive", "natten-gemm")

Tensor = Any
Attend = Callable[..., Tensor]


@cache
def attend_by(peer: str) -> Attend:
    """What takes the place of `cupyna.torch.neighborhood_attention` in a layer.

    Parameters
    ----------
    peer : str
        ``"natten"``, ``"natten-naive=FOLDER"`` or ``"natten-gemm=FOLDER"``.

    Raises
    ------
    ImportError, OSError
        If it is not there.
    """
    name, _, folder = peer.partition("=")
    if name == "natten":
        return _natten()
    return _unfused(Path(folder), name.removeprefix("natten-"))


def _natten() -> Attend:
    import natten

    if not natten.HAS_LIBNATTEN:
        raise ImportError(f"natten {natten.__version__} is installed without its kernels")

    def attend(q: Tensor, k: Tensor, v: Tensor, kernel_size: Any, **options: Any) -> Tensor:
        return natten.na2d(
            q, k, v, kernel_size, dilation=options["dilation"], scale=options["scale"]
        )

    return attend


def _unfused(folder: Path, method: str) -> Attend:
    api = Unfused(folder, method).api

    def attend(q: Tensor, k: Tensor, v: Tensor, kernel_size: Any, **options: Any) -> Tensor:
        # Its modules make heads the second axis, too.
        by_head = (tensor.movedim(-2, 1).contiguous() for tensor in (q, k, v))
        window = (kernel_size, options["dilation"], options["scale"], method)
        return _Unfused.apply(api, *by_head, *window).movedim(1, -2)

    return attend


class _Unfused(torch.autograd.Function):  # type: ignore[misc]
    """Its products with a softmax between them; the weights are kept for backward.

    Autocast would make the softmax float32 here, as it does in its modules: they are faster
    this way.
    """

    @staticmethod
    def forward(
        ctx: Any, api: Any, q: Tensor, k: Tensor, v: Tensor,
        kernel_size: Any, dilation: Any, scale: float, method: str,
    ) -> Tensor:  # fmt: skip
        ctx.call = (api, kernel_size, dilation, scale, method)
        with torch.autocast(q.device.type, enabled=False):
            out, saved = api.attention(
                q, k, v, kernel_size, dilation=dilation, scale=scale, impl=method,
                return_saved=True,
            )  # fmt: skip
        ctx.save_for_backward(k, v, *saved)
        return out

    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> tuple[Any, ...]:
        api, kernel_size, dilation, scale, method = ctx.call
        k, v, scaled, weights = ctx.saved_tensors
        with torch.autocast(dout.device.type, enabled=False):
            gradients = api.attention_backward(
                dout.contiguous(), scaled, k, v, kernel_size, dilation=dilation, scale=scale,
                impl=method, saved=(scaled, weights),
            )  # fmt: skip
        return None, *gradients, None, None, None, None
