"""Any input to one frozen call: the only place that raises errors at users.

Everything is checked here, before anything is allocated or launched; below this file arrays,
options and shapes are right.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

from .arrays import (
    Device,
    Library,
    View,
    has_forward_strides,
    has_short_steps,
    has_vector_rows,
    library_of,
)
from .overlap import overlaps_itself, share_memory
from .problem import METHODS, Method, Operation, Problem

__all__ = ["Call", "Options", "parse"]

DTYPES = ("float16", "bfloat16", "float32", "float64")

# Channels axis, after [batch, *spatial]; the leading argument of an operation fixes the grid.
_LAYOUTS: Mapping[str, Callable[[Problem], tuple[int, ...]]] = {
    "q": lambda p: (p.heads, p.head_dim),
    "k": lambda p: (p.kv_heads, p.head_dim),
    "v": lambda p: (p.kv_heads, p.value_dim),
    "out": lambda p: (p.heads, p.value_dim),
    "dout": lambda p: (p.heads, p.value_dim),
    "lse": lambda p: (p.heads,),
    "dlse": lambda p: (p.heads,),
    "weights": lambda p: (p.heads, p.window),
    "dscores": lambda p: (p.heads, p.window),
}
_ACCUMULATED = ("lse", "dlse")
_ROWS = ("q", "k", "v", "out", "dout")


@dataclass(frozen=True, slots=True)
class Options:
    """Keywords of the public functions, as the user gave them."""

    kernel_size: Any
    stride: Any = 1
    dilation: Any = 1
    is_causal: Any = False
    scale: Any = None
    method: Any = "auto"
    allow_tf32: Any = False
    deterministic: Any = False
    tune: Any = False


@dataclass(frozen=True, slots=True)
class Call:
    """A checked call.

    Parameters
    ----------
    problem : Problem
    scale : float
        Factor of the scores.
    method : str or None
        None where the library chooses.
    tune : bool
    library : Library
        Whose arrays these are.
    device : Device
        Where they are.
    views : dict
        Each array by argument name, as a backend reads it.
    like : object
        One of the caller's arrays; results are handed back as its kind.
    """

    problem: Problem
    scale: float
    method: Method | None
    tune: bool
    library: Library
    device: Device
    views: Mapping[str, View]
    like: Any

    def view(self, name: str) -> Any:
        """An argument's view; None where it was not given."""
        return self.views.get(name)


def parse(operation: Operation, arrays: Mapping[str, Any], options: Options) -> Call:
    """Check arrays and options of one operation.

    Parameters
    ----------
    operation : str
        What is asked for.
    arrays : dict
        The user's arrays by argument name, the one that fixes the grid first. Optional ones may
        be None.
    options : Options

    Raises
    ------
    TypeError
        For anything that is no array, mixes libraries or dtypes, or is of a type no one reads.
    ValueError
        For shapes, devices and options that do not fit together.
    """
    given = {name: array for name, array in arrays.items() if array is not None}
    leading, like = next(iter(given.items()))
    library, device, dtype = _common_home(given)
    shape = tuple(like.shape)
    rank = len(shape) - 3
    if rank not in (1, 2, 3):
        raise ValueError(
            f"{leading} must be [batch, *spatial, heads, channels] with 1, 2 or 3 spatial axes, "
            f"got {len(shape)} axes of shape {shape}"
        )
    problem = _problem(given, leading, shape, dtype, options)
    for name, array in given.items():
        expected = problem.bias_shape
        if name != "bias":
            expected = (problem.batch, *problem.spatial, *_LAYOUTS[name](problem))
        if tuple(array.shape) != expected:
            raise ValueError(f"{name} must have shape {expected}, got {tuple(array.shape)}")
    views = {name: library.view(array) for name, array in given.items()}
    rows = [view for name, view in views.items() if name in _ROWS]
    problem = replace(
        problem,
        has_vector_rows=all(map(has_vector_rows, rows)),
        has_forward_strides=all(map(has_forward_strides, rows)),
        has_short_steps=all(has_short_steps(view, problem.dilation) for view in rows),
    )
    return Call(
        problem=problem,
        scale=_scale(options.scale, problem),
        method=_method(options.method),
        tune=_flag("tune", options.tune),
        library=library,
        device=device,
        views=views,
        like=like,
    )


def check_out(call: Call, out: Any) -> View:
    """Check the array that a caller wants the result in, and give its view."""
    library, problem = call.library, call.problem
    if library_of(out, "out").name != library.name:
        raise TypeError(
            f"out must be a {library.name} array like the inputs, got {type(out).__module__}."
            f"{type(out).__qualname__}"
        )
    library.check(out, "out")
    expected = (problem.batch, *problem.spatial, problem.heads, problem.value_dim)
    if tuple(out.shape) != expected:
        raise ValueError(f"out must have shape {expected}, got {tuple(out.shape)}")
    if library.dtype(out) != problem.dtype:
        raise TypeError(f"out must be {problem.dtype} like the inputs, got {library.dtype(out)}")
    if library.device(out) != call.device:
        raise ValueError(f"out must be on {_place(call.device)}, got {_place(library.device(out))}")
    if not library.is_writable(out):
        raise ValueError(f"out must be writable, got a read-only {library.name} array")
    view = library.view(out)
    if overlaps_itself(view):
        raise ValueError(f"out must not overlap itself, got strides {view.strides}")
    for name, other in call.views.items():
        if share_memory(view, other):
            raise ValueError(f"out must not share memory with {name}")
    return view


def _common_home(given: Mapping[str, Any]) -> tuple[Library, Device, str]:
    """The library, device and dtype that all arrays share."""
    homes = {name: library_of(array, name) for name, array in given.items()}
    (leading, library), *others = homes.items()
    for name, other in others:
        if other.name != library.name:
            raise TypeError(
                f"{name} must be a {library.name} array like {leading}, got a {other.name} array"
            )
    for name, array in given.items():
        homes[name].check(array, name)
    dtype = library.dtype(given[leading])
    if dtype not in DTYPES:
        raise TypeError(f"{leading} must be one of {', '.join(DTYPES)}, got {dtype}")
    accumulator = "float64" if dtype == "float64" else "float32"
    device = library.device(given[leading])
    for name, array in given.items():
        expected = accumulator if name in _ACCUMULATED else dtype
        if library.dtype(array) != expected:
            raise TypeError(
                f"{name} must be {expected} for {dtype} {leading}, got {library.dtype(array)}"
            )
        if library.device(array) != device:
            raise ValueError(
                f"{name} must be on {_place(device)} like {leading}, "
                f"got {_place(library.device(array))}"
            )
    return library, device, dtype


def _problem(
    given: Mapping[str, Any], leading: str, shape: tuple[int, ...], dtype: str, options: Options
) -> Problem:
    batch, *grid, heads, _ = shape
    spatial = tuple(grid)
    kernel_size = _per_axis("kernel_size", options.kernel_size, len(spatial), _integer)
    stride = _per_axis("stride", options.stride, len(spatial), _integer)
    dilation = _per_axis("dilation", options.dilation, len(spatial), _integer)
    is_causal = _per_axis("is_causal", options.is_causal, len(spatial), _flag)
    for i, (length, size, step, gap) in enumerate(
        zip(spatial, kernel_size, stride, dilation, strict=True)
    ):
        if size < 1:
            raise ValueError(f"kernel_size[{i}] must be at least 1, got {size}")
        if not 1 <= step <= size:
            raise ValueError(
                f"stride[{i}] must be between 1 and kernel_size[{i}] = {size}, got {step}"
            )
        if gap < 1:
            raise ValueError(f"dilation[{i}] must be at least 1, got {gap}")
        if size * gap > length:
            raise ValueError(
                f"kernel_size[{i}] * dilation[{i}] must be at most the axis length {length}, "
                f"got {size} * {gap} = {size * gap}"
            )
    others = {name: tuple(given[name].shape) for name in ("q", "k", "v", "dout") if name in given}
    for name, other in others.items():
        if len(other) != len(shape):
            raise ValueError(
                f"{name} must have {len(shape)} axes like {leading}, got shape {other}"
            )
    kv = others.get("k", others.get("v", shape))
    kv_name = "k" if "k" in others else "v"
    kv_heads = kv[-2]
    head_dim = others["q"][-1] if "q" in others else others["v"][-1]
    value_dim = others["v"][-1] if "v" in others else head_dim
    for name, size in (("heads", heads), ("head_dim", head_dim), ("value head_dim", value_dim)):
        if size < 1:
            raise ValueError(f"{leading}'s {name} must be at least 1, got {size}")
    if kv_heads < 1 or heads % kv_heads:
        raise ValueError(
            f"{leading}'s heads must be a multiple of {kv_name}'s heads, got {heads} and {kv_heads}"
        )
    return Problem(
        batch=batch,
        spatial=spatial,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        value_dim=value_dim,
        dtype=dtype,
        kernel_size=kernel_size,
        stride=stride,
        dilation=dilation,
        is_causal=is_causal,
        has_bias="bias" in given,
        allow_tf32=_flag("allow_tf32", options.allow_tf32),
        deterministic=_flag("deterministic", options.deterministic),
    )


def _per_axis(name: str, value: Any, rank: int, convert: Callable[[str, Any], Any]) -> Any:
    """One entry per axis, from one value for all or a sequence."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        if len(value) != rank:
            raise ValueError(
                f"{name} must have one entry for each of {rank} spatial axes, got {value!r}"
            )
        return tuple(convert(f"{name}[{i}]", entry) for i, entry in enumerate(value))
    return (convert(name, value),) * rank


def _integer(name: str, value: Any) -> int:
    if isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(
            f"{name} must be an integer or a sequence of integers, got {value!r}"
        ) from None


def _flag(name: str, value: Any) -> bool:
    if isinstance(value, bool) or type(value).__name__ in ("bool", "bool_"):
        return bool(value)
    raise TypeError(f"{name} must be True or False, got {value!r}")


def _scale(value: Any, problem: Problem) -> float:
    if value is None:
        return float(problem.head_dim**-0.5)
    if isinstance(value, bool) or not hasattr(value, "__float__"):
        raise TypeError(f"scale must be a real number or None, got {value!r}")
    scale = float(value)
    if not math.isfinite(scale):
        raise ValueError(f"scale must be finite, got {scale}")
    return scale


def _method(value: Any) -> Method | None:
    if value == "auto":
        return None
    if value not in get_args(Method):
        choices = ", ".join(repr(method) for method in ("auto", *METHODS))
        raise ValueError(f"method must be one of {choices}, got {value!r}")
    method: Method = value
    return method


def _place(device: Device) -> str:
    return "the CPU" if device.kind == "cpu" else f"cuda:{device.index}"
