"""The unfused kernels of NATTEN 0.17.5, the last release that had them."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from ...problem import Problem
from ..implementations import PIECES, Direction, Work

__all__ = ["Unfused"]


class Unfused:
    """Naive or GEMM kernels, from a folder with their `api.py`.

    Arrays are ``[batch, heads, *spatial, head_dim]``. Weights are kept from forward to backward,
    as its modules keep them.

    Parameters
    ----------
    folder : Path
    method : {"naive", "gemm"}

    Raises
    ------
    FileNotFoundError
        If there is no `api.py` in the folder.
    """

    is_ours = False

    def __init__(self, folder: Path, method: str) -> None:
        self.name = f"NATTEN 0.17.5 {method}"
        self._method = method
        self._api = _load_api(folder)

    @property
    def api(self) -> Any:
        """Its functions."""
        return self._api

    def computes(self, problem: Problem) -> Problem:
        return problem

    def memory_bytes(self, problem: Problem, direction: Direction) -> int:
        weights = problem.batch * problem.heads * problem.tokens * problem.window
        return weights * problem.item_bytes * (2 if direction == "forward" else 4)

    def work(self, problem: Problem, tensors: Mapping[str, Any], direction: Direction) -> Work:
        api = self._api
        by_head = {name: tensor.movedim(-2, 1).contiguous() for name, tensor in tensors.items()}
        arguments = (
            *(by_head[name] for name in ("q", "k", "v")),
            problem.kernel_size,
            problem.dilation,
        )
        options = {"impl": self._method}

        def kept() -> Any:
            return api.attention(*arguments, return_saved=True, **options)[1]

        def backward(saved: Any) -> Any:
            return api.attention_backward(by_head["dout"], *arguments, saved=saved, **options)

        if direction in PIECES:
            return _piece(api, direction, problem, by_head, options)
        if direction == "forward":
            return Work(
                lambda: api.attention(*arguments, **options),
                lambda out: {"out": out.movedim(1, -2)},
            )
        if direction == "backward":
            saved = kept()
            return Work(lambda: backward(saved), _gradients)
        return Work(lambda: backward(kept()), _gradients)


@cache
def _load_api(folder: Path) -> Any:
    """Its module, once: it remembers which of the two its process-wide switches are set to."""
    file = folder / "api.py"
    spec = importlib.util.spec_from_file_location("natten175_api", file)
    if spec is None or spec.loader is None or not file.is_file():
        raise FileNotFoundError(f"no api.py in {folder}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _piece(
    api: Any,
    piece: str,
    problem: Problem,
    by_head: Mapping[str, Any],
    options: Mapping[str, Any],
) -> Work:
    """A single product; the scale is part of it in one direction only, as in its modules."""
    q, k, v, weights = (by_head.get(name) for name in ("q", "k", "v", "weights"))
    scale = problem.head_dim**-0.5
    window = (problem.kernel_size, problem.dilation)
    if piece == "qk":
        return Work(
            lambda: api.qk(q * scale, k, *window, **options),
            lambda scores: {"scores": scores.movedim(1, -2)},
        )
    if piece == "av":
        return Work(
            lambda: api.av(weights, v, *window, **options),
            lambda out: {"out": out.movedim(1, -2)},
        )
    if piece == "qk_backward":
        scaled = q * scale
        return Work(
            lambda: api.qk_backward(weights, scaled, k, *window, **options),
            lambda found: {
                "dq": found[0].movedim(1, -2) * scale, "dk": found[1].movedim(1, -2)
            },
        )  # fmt: skip
    return Work(
        lambda: api.av_backward(by_head["dout"], weights, v, *window, **options),
        lambda found: {"dweights": found[0].movedim(1, -2), "dv": found[1].movedim(1, -2)},
    )


def _gradients(tensors: tuple[Any, ...]) -> dict[str, Any]:
    return {
        name: tensor.movedim(1, -2)
        for name, tensor in zip(("dq", "dk", "dv"), tensors, strict=True)
    }
