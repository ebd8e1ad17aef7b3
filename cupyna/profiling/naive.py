"""The naive method on a GPU, beside the naive kernels of NATTEN 0.17.5.

Each case is checked against the oracle before its times count. Pieces of both implementations are
replayed as CUDA graphs, in interleaved rounds.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from .. import naive
from .._version import __version__
from ..kernels.machine import examine
from ..kernels.sources import installed_sources
from ..kernels.store import default_store
from ..problem import Problem
from .peers import Natten175, Pieces
from .sample import Sample
from .timing import Times, interleave

__all__ = [
    "CASES",
    "OURS",
    "Measurement",
    "case_problem",
    "environment",
    "measure",
    "random_tensors",
    "write",
]

OURS = "cupyna"

# batch, heads, head_dim, grid, window, dilation
CASES: dict[str, tuple[int, int, int, tuple[int, ...], tuple[int, ...], int]] = {
    "D": (64, 4, 32, (56, 56), (7, 7), 1),
    "E": (16, 16, 64, (64, 64), (13, 13), 1),
    "F1": (8, 8, 64, (4096,), (63,), 1),
    "G1": (2, 8, 32, (32, 32, 32), (5, 5, 5), 1),
    "H": (32, 4, 32, (112, 112), (7, 7), 8),
}
DTYPES = ("float16", "float32")


@dataclass(slots=True)
class Measurement:
    """One case in one dtype.

    Parameters
    ----------
    case : str
    problem : Problem
    errors : dict
        By implementation and result: the relative error of a sample, and what rounding explains.
    times : dict
        By piece and implementation.
    """

    case: str
    problem: Problem
    errors: dict[str, dict[str, tuple[float, float]]] = field(default_factory=dict)
    times: dict[str, dict[str, Times]] = field(default_factory=dict)

    def ratio(self, piece: str) -> float | None:
        """How many times our time the peer takes; None where there is no peer."""
        times = self.times[piece]
        peers = [t.median_us for name, t in times.items() if name != OURS]
        return peers[0] / times[OURS].median_us if peers else None

    def is_right(self, name: str, result: str) -> bool:
        """Whether a result's error is explained by rounding."""
        found, allowed = self.errors[name][result]
        return found <= allowed

    def to_json(self) -> dict[str, Any]:
        problem = self.problem
        return {
            "case": self.case,
            "dtype": problem.dtype,
            "batch": problem.batch,
            "heads": problem.heads,
            "head_dim": problem.head_dim,
            "spatial": problem.spatial,
            "kernel_size": problem.kernel_size,
            "dilation": problem.dilation,
            "relative_errors": {
                name: {
                    result: {"found": float(f"{found:.2e}"), "allowed": float(f"{allowed:.2e}")}
                    for result, (found, allowed) in results.items()
                }
                for name, results in self.errors.items()
            },
            "pieces": {
                piece: {
                    **{name: found.to_json() for name, found in times.items()},
                    "peer_over_ours": _rounded(self.ratio(piece)),
                }
                for piece, times in self.times.items()
            },
        }


def case_problem(case: str, dtype: str) -> Problem:
    """The problem of a case."""
    batch, heads, head_dim, spatial, kernel_size, dilation = CASES[case]
    rank = len(spatial)
    return Problem(
        batch, spatial, heads, heads, head_dim, head_dim, dtype,
        kernel_size, (1,) * rank, (dilation,) * rank, (False,) * rank,
    )  # fmt: skip


def measure(
    peer: Natten175 | None,
    cases: Sequence[str] = tuple(CASES),
    dtypes: Sequence[str] = DTYPES,
    rounds: int = 7,
) -> Iterator[Measurement]:
    """Check and time the cases, one dtype after the other.

    Parameters
    ----------
    peer : Natten175, optional
    cases, dtypes : sequence of str, optional
    rounds : int, optional
        Samples of each piece and implementation.

    Raises
    ------
    RuntimeError
        If one of our own results is wrong.
    """
    import torch

    for case in cases:
        for dtype in dtypes:
            found = Measurement(case, case_problem(case, dtype))
            tensors = random_tensors(found.problem)
            implementations = {OURS: _pieces(tensors, found.problem)}
            if peer is not None:
                implementations[peer.name] = peer.pieces(
                    tensors, found.problem.kernel_size, found.problem.dilation
                )
            _check(found, tensors, implementations)
            for piece in implementations[OURS]:
                works = {name: pieces[piece] for name, pieces in implementations.items()}
                found.times[piece] = dict(interleave(works, rounds))
                torch.cuda.empty_cache()
            yield found


def random_tensors(problem: Problem) -> dict[str, Any]:
    """Reproducible torch tensors on the GPU: q, k, v and dout."""
    import torch

    generator = torch.Generator("cuda").manual_seed(0)
    shape = (problem.batch, *problem.spatial, problem.heads, problem.head_dim)
    dtype = getattr(torch, problem.dtype)

    def draw() -> Any:
        # Some of the mean is lost with a lost term; NATTEN's half sums overflow for a large one.
        values = torch.randn(shape, generator=generator, device="cuda") + 0.25
        return values.to(dtype)

    return {name: draw() for name in ("q", "k", "v", "dout")}


def _pieces(tensors: Mapping[str, Any], problem: Problem) -> Pieces:
    q, k, v, dout = (tensors[name] for name in ("q", "k", "v", "dout"))
    options = {"kernel_size": problem.kernel_size, "dilation": problem.dilation}
    forward = partial(naive.neighborhood_attention, q, k, v, **options)
    out, lse = forward(return_lse=True)
    scores = naive.na_qk(q, k, **options)
    weights = scores.float().softmax(-1).to(q.dtype)

    def backward(out: Any, lse: Any) -> dict[str, Any]:
        gradients = naive.neighborhood_attention_backward(dout, q, k, v, out, lse, **options)
        return dict(zip(("dq", "dk", "dv"), gradients, strict=True))

    return {
        "forward": lambda: {"out": forward()},
        "backward": lambda: backward(out, lse),
        "forward + backward": lambda: backward(*forward(return_lse=True)),
        "qk": lambda: naive.na_qk(q, k, **options),
        "av": lambda: naive.na_av(weights, v, **options),
        "qk backward": lambda: naive.na_qk_backward(weights, q, k, **options),
        "av backward": lambda: naive.na_av_backward(dout, weights, v, **options),
    }


def _check(
    found: Measurement, tensors: Mapping[str, Any], implementations: Mapping[str, Pieces]
) -> None:
    sample = Sample.of(found.problem)
    inputs = {name: sample.cut_tensor(tensor) for name, tensor in tensors.items()}
    for name, pieces in implementations.items():
        results = {**pieces["forward"](), **pieces["backward"]()}
        cuts = {result: sample.cut_tensor(tensor) for result, tensor in results.items()}
        found.errors[name] = sample.errors(inputs, cuts)
    wrong = [result for result in found.errors[OURS] if not found.is_right(OURS, result)]
    if wrong:
        raise RuntimeError(f"{', '.join(wrong)} of {found.problem} are wrong: {found.errors[OURS]}")


def environment(commit: str) -> dict[str, Any]:
    """What the numbers depend on besides the code that is measured."""
    machine = examine()
    shipped = default_store().index if machine.shipped and not machine.shipped_is_stale else {}
    return {
        "gpus": [gpu.name for gpu in machine.gpus],
        "driver": machine.gpus[0].driver if machine.gpus else "",
        "clocks_mhz": _clocks(),
        "versions": {
            "cupyna": __version__,
            "python": machine.python,
            "numpy": machine.numpy,
            "cupy": machine.cupy,
            "torch": machine.torch,
            "kernel compiler": shipped.get("compiler", machine.compiler),
        },
        "commit": commit,
        "device_sources": installed_sources().digest[:16],
    }


def write(path: Path, measurements: Sequence[Measurement], rounds: int, commit: str) -> None:
    """Write everything as JSON."""
    document = {
        "what": "medians of CUDA graph replays in interleaved rounds, microseconds",
        "rounds": rounds,
        **environment(commit),
        "measurements": [found.to_json() for found in measurements],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n", "utf-8")


def _clocks() -> dict[str, int]:
    """Clocks of the first GPU now, after the work, and the most it can have."""
    names = {"sm": "clocks.sm", "memory": "clocks.mem", "most_sm": "clocks.max.sm"}
    query = f"--query-gpu={','.join(names.values())}"
    try:
        printed = subprocess.run(
            ["nvidia-smi", query, "--format=csv,noheader,nounits"],
            capture_output=True, text=True, timeout=60, check=True,
        ).stdout  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return {}
    values = printed.splitlines()[0].split(",")
    return {name: int(value) for name, value in zip(names, values, strict=True)}


def _rounded(ratio: float | None) -> float | None:
    return None if ratio is None else round(ratio, 2)
