"""Run the GPU kernels under compute-sanitizer: ``python -m cupyna.testing.sanitize``.

Memcheck finds accesses out of bounds, racecheck finds races in shared memory. Each runs all
operations of small problems by every backend of a method, in a process of its own, where every
array is an allocation of its own (a memory pool would hide an access past its end), and results are
held to the oracle as well.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from ..execution import Backend
from ..problem import METHODS, DeviceSpec, Method, Problem

__all__ = ["TOOLS", "main", "only", "run_small_problems"]

TOOLS = ("memcheck", "racecheck")
DTYPES = ("float16", "bfloat16", "float32", "float64")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Parameters
    ----------
    arguments : sequence of str, optional
        Words after the program's name; ``sys.argv`` when absent.

    Returns
    -------
    int
        0 where every tool is content, else 1; 2 where there is no compute-sanitizer.
    """
    parser = argparse.ArgumentParser(prog="python -m cupyna.testing.sanitize", description=__doc__)
    parser.add_argument("--tool", action="append", choices=TOOLS, help="default: both")
    parser.add_argument("--dtype", action="append", choices=DTYPES, help="default: all")
    parser.add_argument("--method", choices=METHODS, default="naive", help="default: naive")
    parser.add_argument("--here", action="store_true", help="run in this process, without a tool")
    chosen = parser.parse_args(arguments)
    dtypes = DTYPES if chosen.dtype is None else tuple(chosen.dtype)
    if chosen.here:
        count = run_small_problems(chosen.method, dtypes)
        print(f"{count} small problems are right")
        return 0
    program = _program()
    if program is None:
        print("compute-sanitizer is not installed: it comes with the CUDA toolkit", file=sys.stderr)
        return 2
    repeated = [word for dtype in dtypes for word in ("--dtype", dtype)]
    failed = []
    for tool in TOOLS if chosen.tool is None else chosen.tool:
        command = [
            program, "--tool", tool, "--error-exitcode", "1",
            sys.executable, "-m", "cupyna.testing.sanitize", "--here", "--method", chosen.method,
            *repeated,
        ]  # fmt: skip
        if subprocess.run(command, check=False).returncode != 0:
            failed.append(tool)
    print(f"failed: {', '.join(failed)}" if failed else "every tool is content")
    return 1 if failed else 0


def run_small_problems(method: Method, dtypes: Sequence[str]) -> int:
    """Run every operation of small problems on CuPy arrays and hold results to the oracle.

    Parameters
    ----------
    method : str
        Each of its backends takes the problems that it can run, whatever others would take.
    dtypes : sequence of str

    Returns
    -------
    int
        Number of problems that were run, counted for each backend.

    Raises
    ------
    AssertionError
        If a result is wrong.
    """
    import cupy

    from .. import dispatch
    from ..arrays import Device
    from ..backends import gemm
    from ..devices import device_spec
    from .cases import small_problems

    cupy.cuda.set_allocator(None)
    device = device_spec(Device("cuda", 0))
    count = 0
    # Tensor cores compute what is so small that others would be faster, too.
    with patch.object(gemm, "slower_than_plain", lambda *_: ()):
        for backend in dispatch.backends("cuda"):
            if backend.method != method:
                continue
            with only(backend):
                for _, problem in small_problems(tuple(dtypes)):
                    count += _run(problem, backend, device)
    return count


@contextmanager
def only(backend: Backend) -> Iterator[None]:
    """One backend takes every call, whatever the models hold of it."""
    from .. import dispatch

    with patch.object(dispatch, "_ordered", lambda *_: (backend,)):
        yield


def _run(problem: Problem, backend: Backend, device: DeviceSpec) -> bool:
    """Every operation that a backend can run; whether it can run any."""
    can = {
        operation: not backend.refusals(problem, operation, device)
        for operation in ("forward", "backward", "qk")
    }
    if can["forward"]:
        _attend(problem, backend.method, with_backward=can["backward"])
    if can["qk"]:
        _multiply(problem, backend.method)
    return any(can.values())


def _attend(problem: Problem, method: Method, with_backward: bool) -> None:
    import cupy

    from .. import api
    from .expected import expected_backward, expected_forward, stored_forward
    from .strategies import inputs

    given = inputs(problem)
    q, k, v, dout, dlse = map(cupy.asarray, (given.q, given.k, given.v, given.dout, given.dlse))
    bias = None if given.bias is None else cupy.asarray(given.bias)
    options = {**_window(problem), "bias": bias, "scale": given.scale, "method": method}
    results = api.neighborhood_attention(q, k, v, return_lse=True, **options)
    # On tensor cores weights have the inputs' type when they meet the values.
    weights = problem.dtype if method != "naive" and problem.item_bytes == 2 else None
    wanted = expected_forward(problem, given, weights).values()
    for found, expected in zip(results, wanted, strict=True):
        expected.check(cupy.asnumpy(found))
    if with_backward:
        stored = map(cupy.asarray, stored_forward(problem, given))
        gradients = api.neighborhood_attention_backward(
            dout, q, k, v, *stored, dlse=dlse, **options
        )
        steps = expected_backward(problem, given, with_dlse=True, weights=weights).values()
        for found, expected in zip(gradients, steps, strict=True):
            expected.check(cupy.asnumpy(found))


def _multiply(problem: Problem, method: Method) -> None:
    import cupy

    from .. import operations
    from .expected import (
        expected_av,
        expected_av_backward,
        expected_qk,
        expected_qk_backward,
    )
    from .strategies import inputs

    given = inputs(problem)
    q, k, v, dout = map(cupy.asarray, (given.q, given.k, given.v, given.dout))
    bias = None if given.bias is None else cupy.asarray(given.bias)
    window = {**_window(problem), "method": method}
    scaled = {**window, "bias": bias, "scale": given.scale}
    scores = cupy.asnumpy(operations.na_qk(q, k, **scaled))
    expected_qk(problem, given).check(scores)
    weights = np.where(np.isneginf(scores), 0, given.dout.dtype.type(0.25)).astype(scores.dtype)
    stored = cupy.asarray(weights)
    out = operations.na_av(stored, v, **window)
    expected_av(problem, given, weights).check(cupy.asnumpy(out))
    pairs = [
        (
            operations.na_av_backward(dout, stored, v, **window),
            expected_av_backward(problem, given, weights),
        ),
        (
            operations.na_qk_backward(stored, q, k, **scaled),
            expected_qk_backward(problem, given, weights),
        ),
    ]
    for gradients, expected in pairs:
        for found, wanted in zip(gradients, expected.values(), strict=True):
            wanted.check(cupy.asnumpy(found))


def _window(problem: Problem) -> dict[str, Any]:
    return {
        "kernel_size": problem.kernel_size,
        "stride": problem.stride,
        "dilation": problem.dilation,
        "is_causal": problem.is_causal,
    }


def _program() -> str | None:
    found = shutil.which("compute-sanitizer")
    home = os.environ.get("CUDA_HOME")
    beside = None if home is None else Path(home) / "bin" / "compute-sanitizer"
    return str(beside) if found is None and beside is not None and beside.is_file() else found


if __name__ == "__main__":
    raise SystemExit(main())
