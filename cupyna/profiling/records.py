"""What `cupyna bench` writes, and two such files side by side."""

from __future__ import annotations

import json
import math
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

from .._version import __version__
from ..kernels.machine import examine
from ..kernels.sources import installed_sources
from ..kernels.store import default_store
from ..problem import Problem
from ..tiles import useful_pairs
from ..tolerance import Deviation
from .implementations import DIRECTIONS
from .timing import Times

__all__ = [
    "FORMAT",
    "NOISE",
    "Comparison",
    "Journal",
    "Measurement",
    "Record",
    "compare",
    "dtype_of",
    "environment",
    "flops",
    "write",
]

# Of one run; later forms may hold more.
FORMAT = "cupyna bench 2"

# Slower or faster than this is more than the noise of one machine.
NOISE = 0.03


@dataclass(slots=True)
class Record:
    """One implementation on one problem, by direction.

    Parameters
    ----------
    times : dict
    is_graph : dict
        Whether a CUDA graph was replayed, or each run launched.
    deviations : dict
        By direction and result.
    peak_bytes : dict
        Most memory that one call held beside its inputs.
    about : dict
        Kernels, tiles, configurations.
    refused : dict
        Why there is no time.
    """

    times: dict[str, Times] = field(default_factory=dict)
    is_graph: dict[str, bool] = field(default_factory=dict)
    deviations: dict[str, dict[str, Deviation]] = field(default_factory=dict)
    peak_bytes: dict[str, int] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        directions = {*self.times, *self.refused, *self.deviations}
        return {direction: self._direction(direction) for direction in sorted(directions)}

    def _direction(self, direction: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if direction in self.times:
            found |= self.times[direction].to_json()
            found["rounds"] = len(self.times[direction].rounds)
            found["timed"] = "graph" if self.is_graph[direction] else "launches"
            found["peak_bytes"] = self.peak_bytes[direction]
        if direction in self.refused:
            found["refused"] = self.refused[direction]
        if self.about.get(direction):
            found["about"] = self.about[direction]
        if direction in self.deviations:
            found["errors"] = {
                name: {
                    "largest": float(f"{deviation.largest:.2e}"),
                    "allowed": float(f"{deviation.largest_allowed:.2e}"),
                    **({"wrong": deviation.complaint} if deviation.complaint else {}),
                }
                for name, deviation in self.deviations[direction].items()
            }
        return found


@dataclass(slots=True)
class Measurement:
    """Every implementation on one problem in one dtype."""

    suite: str
    name: str
    problem: Problem
    records: dict[str, Record] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        problem = self.problem
        return {
            "suite": self.suite,
            "problem": self.name,
            "dtype": problem.dtype,
            **({"allow_tf32": True} if problem.allow_tf32 else {}),
            "batch": problem.batch,
            "heads": problem.heads,
            "head_dim": problem.head_dim,
            "spatial": problem.spatial,
            "kernel_size": problem.kernel_size,
            "stride": problem.stride,
            "dilation": problem.dilation,
            "is_causal": problem.is_causal,
            "useful_flops": {way: flops(problem, way) for way in DIRECTIONS},
            "least_bytes": problem.least_bytes,
            "implementations": {name: record.to_json() for name, record in self.records.items()},
        }


@dataclass(frozen=True, slots=True)
class Comparison:
    """One time in two files."""

    problem: str
    dtype: str
    implementation: str
    direction: str
    first_us: float
    second_us: float

    @property
    def ratio(self) -> float:
        """How many times the second file's time the first one's is."""
        return self.first_us / self.second_us


def dtype_of(stored: Mapping[str, Any]) -> str:
    """What tables call the dtype of a stored measurement."""
    return f"{stored['dtype']}, TF32 allowed" if stored.get("allow_tf32") else str(stored["dtype"])


def flops(problem: Problem, direction: str) -> int:
    """Useful floating-point operations; backward has five products where forward has two."""
    pairs = useful_pairs(problem)
    forward = 2 * pairs * (problem.head_dim + problem.value_dim)
    backward = 2 * pairs * (3 * problem.head_dim + 2 * problem.value_dim)
    products = {
        "forward": forward,
        "backward": backward,
        "forward+backward": forward + backward,
        "qk": 2 * pairs * problem.head_dim,
        "av": 2 * pairs * problem.value_dim,
        "qk_backward": 4 * pairs * problem.head_dim,
        "av_backward": 4 * pairs * problem.value_dim,
    }
    return products[direction]


def environment(commit: str) -> dict[str, Any]:
    """What the numbers depend on besides the code that is measured."""
    machine = examine()
    shipped = default_store().index if machine.shipped and not machine.shipped_is_stale else {}
    name, identifier = _gpu_in_use()
    return {
        "gpus": [name] if name else [gpu.name for gpu in machine.gpus],
        "driver": machine.gpus[0].driver if machine.gpus else "",
        "clocks_mhz": _clocks(identifier),
        "versions": {
            "cupyna": __version__,
            "python": machine.python,
            "numpy": machine.numpy,
            "cupy": machine.cupy,
            "torch": machine.torch,
            "kernel compiler": shipped.get("compiler", machine.compiler),
        },
        "commit": commit or _commit(),
        "device_sources": installed_sources().digest[:16],
    }


class Journal:
    """A file that grows with every measurement, and is whole at any time.

    Parameters
    ----------
    path : Path
    interval_s : float, optional
        It is not written again sooner than this; :meth:`close` writes the rest.
    """

    def __init__(self, path: Path, interval_s: float = 2.0) -> None:
        self._path = path
        self._interval_s = interval_s
        self._written = -math.inf
        # A file of hundreds of problems takes a second to encode: each is encoded once.
        self._parts: list[str] = []
        self._head: Mapping[str, Any] = {}

    def add(self, head: Mapping[str, Any], measurement: Measurement) -> None:
        """Take one more measurement, under what the whole file says of the run."""
        self._head = head
        self._parts.append(_indented(measurement.to_json(), 2))
        if monotonic() - self._written > self._interval_s:
            self.close()

    def close(self) -> None:
        """Write everything as JSON, whole or not at all."""
        # The list is the last thing of the head.
        text = _indented({"format": FORMAT, **self._head, "measurements": []}, 0)
        if self._parts:
            parts = ",\n".join(f"  {part}" for part in self._parts)
            text = text.removesuffix("[]\n}") + f"[\n{parts}\n ]\n}}"
        self._path.parent.mkdir(parents=True, exist_ok=True)
        part = self._path.with_name(self._path.name + ".part")
        part.write_text(text + "\n", "utf-8")
        part.replace(self._path)
        self._written = monotonic()


def write(path: Path, head: Mapping[str, Any], measurements: Iterable[Measurement]) -> None:
    """Write a whole file at once."""
    journal = Journal(path, math.inf)
    for measurement in measurements:
        journal.add(head, measurement)
    journal.close()


def _indented(value: Any, depth: int) -> str:
    return json.dumps(value, indent=1).replace("\n", "\n" + " " * depth)


def compare(first: Path, second: Path) -> Sequence[Comparison]:
    """Every time that both files hold.

    Raises
    ------
    ValueError
        If a file is not of this form.
    """
    times = [dict(_times(path)) for path in (first, second)]
    return [
        Comparison(*key, first_us, times[1][key])
        for key, first_us in times[0].items()
        if key in times[1]
    ]


def _times(path: Path) -> Iterator[tuple[tuple[str, str, str, str], float]]:
    document = json.loads(path.read_text("utf-8"))
    if document.get("format") != FORMAT:
        raise ValueError(f"{path} is no file of `cupyna bench --out` of this version")
    for found in document["measurements"]:
        for implementation, directions in found["implementations"].items():
            for direction, result in directions.items():
                if "median_us" in result:
                    dtype = dtype_of(found)
                    key = (found["problem"], dtype, implementation, direction)
                    yield key, result["median_us"]


def _gpu_in_use() -> tuple[str, str]:
    """Name of torch's current GPU, one of several perhaps, and what `nvidia-smi` knows it by."""
    try:
        import torch
    except ModuleNotFoundError:
        return "", ""
    if not torch.cuda.is_available():
        return "", ""
    properties = torch.cuda.get_device_properties()
    uuid = getattr(properties, "uuid", None)
    return str(properties.name), "" if uuid is None else f"--id=GPU-{uuid}"


def _clocks(identifier: str) -> dict[str, int]:
    """Clocks of the GPU in use now, after the work, and the most it can have."""
    names = {"sm": "clocks.sm", "memory": "clocks.mem", "most_sm": "clocks.max.sm"}
    query = f"--query-gpu={','.join(names.values())}"
    of_one = [identifier] if identifier else []
    try:
        printed = subprocess.run(
            ["nvidia-smi", *of_one, query, "--format=csv,noheader,nounits"],
            capture_output=True, text=True, timeout=60, check=True,
        ).stdout  # fmt: skip
        values = [int(value) for value in printed.splitlines()[0].split(",")]
    except (OSError, ValueError, IndexError, subprocess.SubprocessError):
        return {}
    return dict(zip(names, values, strict=True))


def _commit() -> str:
    """The checkout's commit, if this is one."""
    try:
        return subprocess.run(
            ["git", "describe", "--always", "--dirty", "--exclude", "*"],
            cwd=Path(__file__).parent, capture_output=True, text=True, timeout=60, check=True,
        ).stdout.strip()  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return ""
