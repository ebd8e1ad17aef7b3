"""Other libraries' kernels, called as their users call them, for measurements beside ours."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

__all__ = ["Natten175", "Pieces"]

# What is timed, by name; every piece gives its results.
Pieces = Mapping[str, Callable[[], Any]]


class Natten175:
    """The unfused kernels of NATTEN 0.17.5, from a folder with their `api.py`.

    Arrays are ``[batch, heads, *spatial, head_dim]``. Weights are kept from forward to backward,
    as its modules keep them.
    """

    name = "NATTEN 0.17.5 naive"

    def __init__(self, folder: Path) -> None:
        spec = importlib.util.spec_from_file_location("natten175_api", folder / "api.py")
        if spec is None or spec.loader is None or not (folder / "api.py").is_file():
            raise FileNotFoundError(f"no api.py in {folder}")
        self._api = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self._api)

    def pieces(
        self, tensors: Mapping[str, Any], kernel_size: tuple[int, ...], dilation: tuple[int, ...]
    ) -> Pieces:
        """Everything to time, for contiguous tensors of ours, ``[batch, *spatial, heads, d]``."""
        api = self._api
        q, k, v, dout = (
            tensors[name].movedim(-2, 1).contiguous() for name in ("q", "k", "v", "dout")
        )
        options = (kernel_size, dilation)
        naive = {"impl": "naive"}
        scale = q.shape[-1] ** -0.5

        def forward() -> Any:
            return api.attention(q, k, v, *options, **naive)

        saved = api.attention(q, k, v, *options, return_saved=True, **naive)[1]
        scaled, weights = saved

        def backward() -> Any:
            return api.attention_backward(dout, q, k, v, *options, saved=saved, **naive)

        def both() -> Any:
            kept = api.attention(q, k, v, *options, return_saved=True, **naive)[1]
            return api.attention_backward(dout, q, k, v, *options, saved=kept, **naive)

        return {
            "forward": lambda: {"out": _ours(forward())},
            "backward": lambda: _gradients(backward()),
            "forward + backward": lambda: _gradients(both()),
            "qk": lambda: api.qk(q * scale, k, *options, **naive),
            "av": lambda: api.av(weights, v, *options, **naive),
            "qk backward": lambda: api.qk_backward(weights, scaled, k, *options, **naive),
            "av backward": lambda: api.av_backward(dout, weights, v, *options, **naive),
        }


def _ours(tensor: Any) -> Any:
    return tensor.movedim(1, -2)


def _gradients(tensors: tuple[Any, ...]) -> dict[str, Any]:
    return dict(zip(("dq", "dk", "dv"), map(_ours, tensors), strict=True))
