"""Images per second of NAT and DiNAT with each method, as the method's own paper measured them.

The paper is "Faster Neighborhood Attention" (NeurIPS 2024), Tables 5, 6 and 8. A model is the same
for all methods but for its attention, and its answers are compared before times count. Inference is
timed as a CUDA graph, training as the loop that anyone would write.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from time import perf_counter
from typing import Any

__all__ = ["PEERS", "ModelTimes", "Plan", "markdown", "measure"]

# Methods beside our own: the installed NATTEN, and 0.17.5's unfused kernels from a folder.
PEERS = ("natten", "natten-naive", "natten-gemm")

# Kernels that add in half precision err more; the file of results has every error.
_PEER_SLACK = 20

# One sample lasts at least this long.
_SAMPLE_MS = 150.0

# Images whose answers are compared.
_CHECKED = 2


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured.

    Parameters
    ----------
    models, methods, dtypes : sequence of str
        Methods may also be ``"natten"``, ``"natten-naive=FOLDER"`` or ``"natten-gemm=FOLDER"``;
        the latter two do no training.
    batch, rounds : int
        Images of a step; samples of each method, interleaved.
    training : bool
        A step of forward, backward and optimizer instead of inference.
    device : str
        torch's name of it.
    """

    models: Sequence[str]
    methods: Sequence[str]
    dtypes: Sequence[str]
    batch: int = 128
    rounds: int = 5
    training: bool = False
    device: str = "cuda"


@dataclass(slots=True)
class ModelTimes:
    """One model in one dtype: images per second by method, or why there are none."""

    model: str
    dtype: str
    batch: int
    training: bool
    images_per_s: dict[str, float] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    refusals: dict[str, str] = field(default_factory=dict)

    def gain(self, method: str, over: str) -> float | None:
        """By how much `method` is faster, in percent."""
        if method not in self.images_per_s or over not in self.images_per_s:
            return None
        return 100 * (self.images_per_s[method] / self.images_per_s[over] - 1)

    def to_json(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "dtype": self.dtype,
            "batch": self.batch,
            "what": "training step" if self.training else "inference",
            "images_per_s": {name: round(rate, 1) for name, rate in self.images_per_s.items()},
            "errors": {name: float(f"{error:.2e}") for name, error in self.errors.items()},
            "refusals": self.refusals,
        }


def measure(plan: Plan) -> Iterator[ModelTimes]:
    """Check and time every model.

    Raises
    ------
    RuntimeError
        If a method's answers are further from exact ones than rounding explains.
    """
    import torch

    from ..torch import models

    for name in plan.models:
        torch.manual_seed(0)
        with torch.device(plan.device):
            # A bias is left out, as in the paper's tables of training; the peer has none.
            model = models.NAT(models.LAYOUTS[name], rpb=False)
        make = _training_step if plan.training else _inference
        for dtype in plan.dtypes:
            times = ModelTimes(name, dtype, plan.batch, plan.training)
            methods = _checked(model, plan, dtype, times)
            images = _images(model, plan.batch, plan.device)
            steps = {name: make(model, m, dtype, images) for name, m in methods.items()}
            _time(steps, plan, times)
            yield times


def markdown(document: Mapping[str, Any]) -> str:
    """Tables in the form of the paper's, from a file of `cupyna bench models --out`."""
    found = document["measurements"]
    lines = []
    for what, dtype in dict.fromkeys((one["what"], one["dtype"]) for one in found):
        rows = [one for one in found if (one["what"], one["dtype"]) == (what, dtype)]
        names = list(dict.fromkeys(name for row in rows for name in row["images_per_s"]))
        others = [name for name in names if name != "fused"]
        lines += [
            f"Images per second, {what}, {dtype}. In brackets: what fused gains.",
            "",
            f"| model | batch | {' | '.join(names)} |",
            "|" + "---|" * (len(names) + 2),
        ]
        for row in rows:
            rates = row["images_per_s"]
            cells = []
            for name in names:
                cell = f"{rates[name]:.0f}" if name in rates else "-"
                if name in others and name in rates and "fused" in rates:
                    cell += f" ({100 * (rates['fused'] / rates[name] - 1):+.0f} %)"
                cells.append(cell)
            lines.append(f"| {row['model']} | {row['batch']} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def _use(model: Any, method: str) -> None:
    from ..torch import neighborhood_attention

    name, _, folder = method.partition("=")
    if name == "natten":
        model.use(attend=_natten(), method="auto")
    elif name in PEERS:
        model.use(attend=_unfused(Path(folder), name.removeprefix("natten-")), method="auto")
    else:
        model.use(attend=neighborhood_attention, method=method)


@cache
def _natten() -> Callable[..., Any]:
    import natten

    if not natten.HAS_LIBNATTEN:
        raise ImportError(f"natten {natten.__version__} is installed without its kernels")

    def attend(q: Any, k: Any, v: Any, kernel_size: Any, **options: Any) -> Any:
        return natten.na2d(
            q, k, v, kernel_size, dilation=options["dilation"], scale=options["scale"]
        )

    return attend


@cache
def _unfused(folder: Path, method: str) -> Callable[..., Any]:
    from .peers.unfused import Unfused

    api = Unfused(folder, method).api

    def attend(q: Any, k: Any, v: Any, kernel_size: Any, **options: Any) -> Any:
        # Its modules make heads the second axis, too.
        by_head = (tensor.movedim(-2, 1).contiguous() for tensor in (q, k, v))
        out = api.attention(
            *by_head, kernel_size, dilation=options["dilation"], scale=options["scale"], impl=method
        )
        return out.movedim(1, -2)

    return attend


def _images(model: Any, batch: int, device: str) -> Any:
    import torch

    side = model.layout.image_size
    return torch.randn(batch, 3, side, side, device=device)


def _checked(model: Any, plan: Plan, dtype: str, times: ModelTimes) -> dict[str, str]:
    """Methods that run, by name without their folder; each one's error or refusal is noted."""
    import torch

    images = _images(model, _CHECKED, plan.device)
    model.eval()
    with torch.no_grad():
        _use(model, "naive")
        exact = model.double()(images.double())
        model.float()
    largest = float(exact.abs().max())

    def error(method: str) -> float:
        _use(model, method)
        with torch.no_grad():
            answers = _cast(model, dtype)(images.to(getattr(torch, dtype)))
        model.float()
        return float((answers.double() - exact).abs().max()) / largest

    # Rounding through all layers cannot be counted: what naive kernels make of it is the measure.
    allowed = 2 * error("naive") + 4 * torch.finfo(getattr(torch, dtype)).eps
    methods = {}
    for method in plan.methods:
        name = method.partition("=")[0]
        if plan.training and name in PEERS[1:]:
            times.refusals[name] = "is measured in inference alone"
            continue
        try:
            times.errors[name] = error(method)
        except (ImportError, OSError, ValueError, NotImplementedError) as refusal:
            model.float()
            times.refusals[name] = str(refusal)
            continue
        if not times.errors[name] <= allowed * (_PEER_SLACK if name in PEERS else 1):
            found = f"errs by {times.errors[name]:.2e}, allowed {allowed:.2e}"
            raise RuntimeError(f"{name} {found} in {times.model}, {dtype}")
        methods[name] = method
    return methods


def _cast(model: Any, dtype: str) -> Any:
    import torch

    return model.to(getattr(torch, dtype))


def _inference(model: Any, method: str, dtype: str, images: Any) -> Callable[[], None]:
    import torch

    _cast(model, dtype).eval()
    images = images.to(getattr(torch, dtype))

    def step() -> None:
        _use(model, method)
        with torch.no_grad():
            model(images)

    if images.device.type != "cuda":
        return step
    # A graph, so that no method pays for another's host time.
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        step()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            step()
    torch.cuda.synchronize()
    return graph.replay  # type: ignore[no-any-return]


def _training_step(model: Any, method: str, dtype: str, images: Any) -> Callable[[], None]:
    import torch

    model.float().train()
    kind = images.device.type
    labels = torch.randint(1000, (len(images),), device=images.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    scaler = torch.amp.GradScaler(kind, enabled=dtype == "float16")
    cast = torch.autocast(kind, getattr(torch, dtype), enabled=dtype != "float32")

    def step() -> None:
        _use(model, method)
        with cast:
            loss = torch.nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    return step


def _time(steps: Mapping[str, Callable[[], None]], plan: Plan, times: ModelTimes) -> None:
    repeats = {}
    for name, step in steps.items():
        step()
        repeats[name] = max(1, round(_SAMPLE_MS / _sample_ms(step, 1, plan.device)))
    samples: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(plan.rounds):
        for name, step in steps.items():
            samples[name].append(_sample_ms(step, repeats[name], plan.device))
    for name, of_rounds in samples.items():
        times.images_per_s[name] = 1e3 * plan.batch / statistics.median(of_rounds)


def _sample_ms(step: Callable[[], None], repeats: int, device: str) -> float:
    """Time of one step, as a loop of them runs."""
    import torch

    wait = torch.cuda.synchronize if device.startswith("cuda") else int
    wait()
    begin = perf_counter()
    for _ in range(repeats):
        step()
    wait()
    return (perf_counter() - begin) * 1e3 / repeats
