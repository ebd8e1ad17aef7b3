"""NATTEN as its user calls it, at the best of its tile shapes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from time import monotonic
from typing import Any

from ...problem import Problem
from ..implementations import Direction, Refused, Work, gradients
from ..timing import Repeat
from .autograd import autograd_run

__all__ = ["Natten"]

# Backends in the order of preference, with the functions that list their configurations.
_BACKENDS = ("blackwell_fna", "hopper_fna", "cutlass_fna")

# Time for trying configurations of one problem in one direction.
_TRIES_S = 3.0


class Natten:
    """The fused kernels of the `natten` package that is installed, 0.20 or newer.

    Parameters
    ----------
    backend : str, optional
        One of its backends; by default the first that runs the problem.

    Raises
    ------
    ImportError
        If it is not installed, or without its kernels.
    """

    is_ours = False

    def __init__(self, backend: str | None = None) -> None:
        import natten

        if not getattr(natten, "HAS_LIBNATTEN", False):
            raise ImportError(f"natten {natten.__version__} is installed without its kernels")
        self._natten = natten
        self._asked = backend
        self._best: dict[tuple[Problem, str], dict[str, Any]] = {}
        of = f" {backend}" if backend else ""
        self.name = f"NATTEN {natten.__version__}{of}"

    def computes(self, problem: Problem) -> Problem:
        return problem

    def memory_bytes(self, problem: Problem, direction: Direction) -> int:
        return 4 * problem.least_bytes

    def work(self, problem: Problem, tensors: Mapping[str, Any], direction: Direction) -> Work:
        inputs = [tensors[name] for name in ("q", "k", "v")]
        backend = self._backend(inputs)
        options: dict[str, Any] = {
            "kernel_size": problem.kernel_size, "stride": problem.stride,
            "dilation": problem.dilation, "is_causal": problem.is_causal,
            "backend": backend.replace("_", "-"),
        }  # fmt: skip
        tiles: dict[str, Any] = {}
        # Where a window is the whole grid another kernel runs, with tiles of its own.
        if problem.kernel_size != problem.spatial:
            tiles = self._tiles(problem, inputs, tensors.get("dout"), direction, backend, options)
        call = partial(getattr(self._natten, f"na{problem.rank}d"), **options, **tiles)
        run = autograd_run(call, inputs, tensors.get("dout"), direction)
        about = {"backend": options["backend"], **{name: str(tile) for name, tile in tiles.items()}}
        if direction == "forward":
            return Work(run, lambda out: {"out": out}, about)
        return Work(run, gradients, about)

    def _backend(self, inputs: list[Any]) -> str:
        for name in _BACKENDS if self._asked is None else (self._asked,):
            if list(self._configurations("get_configs_for", name, inputs)):
                return name
        raise Refused("has no kernels for this dtype, head_dim and GPU")

    def _configurations(self, prefix: str, backend: str, inputs: list[Any]) -> Iterator[Any]:
        vendor = "" if backend.startswith("cutlass") else "cutlass_"
        listed = getattr(self._natten, f"{prefix}_{vendor}{backend}", None)
        return iter(() if listed is None else listed(*inputs))

    def _tiles(
        self,
        problem: Problem,
        inputs: list[Any],
        dout: Any,
        direction: Direction,
        backend: str,
        options: dict[str, Any],
    ) -> dict[str, Any]:
        """The fastest tile shapes, tried once for each problem."""
        if direction == "forward+backward":
            forward, backward = (
                self._tiles(problem, inputs, dout, part, backend, options)
                for part in ("forward", "backward")
            )
            return {**forward, **backward}
        if (problem, direction) not in self._best:
            function = getattr(self._natten, f"na{problem.rank}d")
            found: list[tuple[float, dict[str, Any]]] = []
            start = monotonic()
            for tiles in self._candidates(inputs, backend, direction):
                run = autograd_run(partial(function, **options, **tiles), inputs, dout, direction)
                try:
                    run()  # the first call loads its kernel
                    found.append((Repeat([run]).call_us, tiles))
                except (RuntimeError, ValueError):  # not every shape that is listed is built
                    continue
                if monotonic() - start > _TRIES_S:
                    break
            self._best[problem, direction] = min(found, key=lambda f: f[0])[1] if found else {}
        return self._best[problem, direction]

    def _candidates(
        self, inputs: list[Any], backend: str, direction: Direction
    ) -> Iterator[dict[str, Any]]:
        is_hopper = backend == "hopper_fna"
        if direction == "forward":
            for configuration in self._configurations("get_configs_for", backend, inputs):
                shapes = configuration[0] if is_hopper else configuration
                tiles = dict(zip(("q_tile_shape", "kv_tile_shape"), shapes, strict=True))
                yield {**tiles, "kernel_schedule": configuration[1]} if is_hopper else tiles
            return
        names = ("backward_q_tile_shape", "backward_kv_tile_shape")
        for shapes in self._configurations("get_bwd_configs_for", backend, inputs):
            yield dict(zip(names, shapes, strict=True))
