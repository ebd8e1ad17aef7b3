"""From a checked call to a result: allocate like the inputs, pick a backend, run, hand back.

Every public function is one of these with a docstring, in :mod:`cupyna.api`, or one of these with
its method fixed, in :mod:`cupyna.naive`, :mod:`cupyna.gemm` and :mod:`cupyna.fused`.
"""

from __future__ import annotations

from typing import Any

from .arguments import Call, Options, check_out, parse
from .devices import device_spec
from .dispatch import candidates, select
from .execution import Backend, Execution, UnfusedBackend
from .explanation import Explanation
from .operands import BackwardArrays, ForwardArrays
from .problem import Operation

__all__ = [
    "explain",
    "na_av",
    "na_av_backward",
    "na_qk",
    "na_qk_backward",
    "neighborhood_attention",
    "neighborhood_attention_backward",
]


def neighborhood_attention(
    q: Any,
    k: Any,
    v: Any,
    kernel_size: Any,
    *,
    bias: Any = None,
    return_lse: bool = False,
    out: Any = None,
    **options: Any,
) -> Any:
    call = parse("forward", {"q": q, "k": k, "v": v, "bias": bias}, Options(kernel_size, **options))
    problem = call.problem
    results = _Results(call)
    heads = (problem.batch, *problem.spatial, problem.heads)
    if out is None:
        results.add("out", (*heads, problem.value_dim), problem.dtype)
    else:
        results.views["out"] = check_out(call, out)
    if return_lse:
        results.add("lse", heads, problem.accumulator)
    backend, execution = _prepare(call, "forward")
    if problem.batch:
        backend.forward(
            problem, call.scale, execution, ForwardArrays.of({**call.views, **results.views})
        )
    attended = results.hand_back("out") if out is None else out
    return (attended, results.hand_back("lse")) if return_lse else attended


def neighborhood_attention_backward(
    dout: Any,
    q: Any,
    k: Any,
    v: Any,
    out: Any,
    lse: Any,
    kernel_size: Any,
    *,
    dlse: Any = None,
    bias: Any = None,
    **options: Any,
) -> Any:
    arrays = {
        "q": q, "k": k, "v": v, "bias": bias,
        "out": out, "dout": dout, "lse": lse, "dlse": dlse,
    }  # fmt: skip
    call = parse("backward", arrays, Options(kernel_size, **options))
    results = _Results(call)
    for name in ("q", "k", "v", "bias"):
        results.add_gradient(name)
    backend, execution = _prepare(call, "backward")
    if call.problem.batch:
        backend.backward(
            call.problem, call.scale, execution, BackwardArrays.of({**call.views, **results.views})
        )
    return results.hand_back_all()


def na_qk(q: Any, k: Any, kernel_size: Any, *, bias: Any = None, **options: Any) -> Any:
    call = parse("qk", {"q": q, "k": k, "bias": bias}, Options(kernel_size, **options))
    problem = call.problem
    results = _Results(call)
    shape = (problem.batch, *problem.spatial, problem.heads, problem.window)
    results.add("scores", shape, problem.dtype)
    backend, execution = _prepare_unfused(call, "qk")
    if problem.batch:
        backend.qk(
            problem,
            call.scale,
            execution,
            q=call.view("q"),
            k=call.view("k"),
            bias=call.view("bias"),
            scores=results.views["scores"],
        )
    return results.hand_back("scores")


def na_qk_backward(
    dscores: Any, q: Any, k: Any, kernel_size: Any, *, bias: Any = None, **options: Any
) -> Any:
    arrays = {"q": q, "k": k, "bias": bias, "dscores": dscores}
    call = parse("qk_backward", arrays, Options(kernel_size, **options))
    results = _Results(call)
    for name in ("q", "k", "bias"):
        results.add_gradient(name)
    backend, execution = _prepare_unfused(call, "qk_backward")
    if call.problem.batch:
        backend.qk_backward(
            call.problem,
            call.scale,
            execution,
            dscores=call.view("dscores"),
            q=call.view("q"),
            k=call.view("k"),
            dq=results.views["dq"],
            dk=results.views["dk"],
            dbias=results.views.get("dbias"),
        )
    return results.hand_back_all()


def na_av(weights: Any, v: Any, kernel_size: Any, **options: Any) -> Any:
    call = parse("av", {"weights": weights, "v": v}, Options(kernel_size, **options))
    problem = call.problem
    results = _Results(call)
    shape = (problem.batch, *problem.spatial, problem.heads, problem.value_dim)
    results.add("out", shape, problem.dtype)
    backend, execution = _prepare_unfused(call, "av")
    if problem.batch:
        backend.av(
            problem,
            execution,
            weights=call.view("weights"),
            v=call.view("v"),
            out=results.views["out"],
        )
    return results.hand_back("out")


def na_av_backward(dout: Any, weights: Any, v: Any, kernel_size: Any, **options: Any) -> Any:
    arrays = {"weights": weights, "v": v, "dout": dout}
    call = parse("av_backward", arrays, Options(kernel_size, **options))
    results = _Results(call)
    for name in ("weights", "v"):
        results.add_gradient(name)
    backend, execution = _prepare_unfused(call, "av_backward")
    if call.problem.batch:
        backend.av_backward(
            call.problem,
            execution,
            dout=call.view("dout"),
            weights=call.view("weights"),
            v=call.view("v"),
            dweights=results.views["dweights"],
            dv=results.views["dv"],
        )
    return results.hand_back_all()


def explain(
    q: Any,
    k: Any,
    v: Any,
    kernel_size: Any,
    *,
    bias: Any = None,
    return_lse: bool = False,
    out: Any = None,
    **options: Any,
) -> Explanation:
    call = parse("forward", {"q": q, "k": k, "v": v, "bias": bias}, Options(kernel_size, **options))
    if out is not None:
        check_out(call, out)
    device = device_spec(call.device)
    return Explanation(
        call.problem,
        device,
        call.method,
        forward=candidates(call.problem, "forward", device),
        backward=candidates(call.problem, "backward", device),
    )


class _Results:
    """Arrays that a call gives back, allocated like its inputs."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._carriers: dict[str, Any] = {}
        self.views: dict[str, Any] = {}

    def add(self, name: str, shape: tuple[int, ...], dtype: str) -> None:
        library = self._call.library
        self._carriers[name] = library.empty(shape, dtype, self._call.device)
        self.views[name] = library.view(self._carriers[name])

    def add_gradient(self, name: str) -> None:
        """Room for the gradient of an argument, if it was given."""
        view = self._call.view(name)
        if view is not None:
            self.add(f"d{name}", tuple(view.shape), self._call.problem.dtype)
            if self._call.problem.batch == 0:
                self._carriers[f"d{name}"][...] = 0  # a bias is there even where no query is

    def hand_back(self, name: str) -> Any:
        return self._call.library.hand_back(self._carriers[name], self._call.like)

    def hand_back_all(self) -> tuple[Any, ...]:
        return tuple(self.hand_back(name) for name in self._carriers)


def _prepare(call: Call, operation: Operation) -> tuple[Backend, Execution]:
    device = device_spec(call.device)
    backend = select(call.problem, operation, device, call.method)
    library = call.library

    carriers = []  # alive as long as the execution: a pool would hand freed memory out again

    def empty(shape: tuple[int, ...], dtype: str) -> Any:
        carriers.append(library.empty(shape, dtype, call.device))
        return library.view(carriers[-1])

    return backend, Execution(device, library.stream(call.device), empty, call.tune)


def _prepare_unfused(call: Call, operation: Operation) -> tuple[UnfusedBackend, Execution]:
    backend, execution = _prepare(call, operation)
    assert isinstance(backend, UnfusedBackend), f"{backend.name} does not refuse {operation}"
    return backend, execution
