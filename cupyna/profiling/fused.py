"""The fused method on a GPU, beside our own naive kernels: forward.

Each case is checked against the oracle before its times count, and timed as a CUDA graph in
interleaved rounds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from .. import fused, naive
from .naive import CASES, OURS, Measurement, case_problem, random_tensors
from .sample import Sample
from .timing import interleave

__all__ = ["CASES", "DTYPES", "measure"]

DTYPES = ("float16", "bfloat16")


def measure(
    cases: Sequence[str] = tuple(CASES), dtypes: Sequence[str] = DTYPES, rounds: int = 7
) -> Iterator[Measurement]:
    """Check and time the cases, one dtype after the other.

    Parameters
    ----------
    cases, dtypes : sequence of str, optional
    rounds : int, optional
        Samples of each method.

    Raises
    ------
    RuntimeError
        If a result is wrong.
    """
    for case in cases:
        for dtype in dtypes:
            found = Measurement(case, case_problem(case, dtype))
            problem = found.problem
            tensors = random_tensors(problem)
            arguments = [tensors[name] for name in ("q", "k", "v")]
            options: dict[str, Any] = {
                "kernel_size": problem.kernel_size,
                "dilation": problem.dilation,
            }
            works = {
                OURS: partial(fused.neighborhood_attention, *arguments, **options),
                "cupyna naive": partial(naive.neighborhood_attention, *arguments, **options),
            }
            sample = Sample.of(problem)
            inputs = {name: sample.cut_tensor(tensor) for name, tensor in tensors.items()}
            for name, work in works.items():
                found.errors[name] = sample.errors(inputs, {"out": sample.cut_tensor(work())})
                if not found.is_right(name, "out"):
                    raise RuntimeError(f"{name} is wrong for {problem}: {found.errors[name]}")
            found.times["forward"] = dict(interleave(works, rounds))
            yield found
