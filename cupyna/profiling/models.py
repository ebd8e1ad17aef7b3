"""Images per second of NAT and DiNAT with each method, as the method's own paper measured them.

The paper is "Faster Neighborhood Attention" (NeurIPS 2024), Tables 5, 6 and 8. A model is the same
for all methods but for its attention, and its answers, or in training its gradients, are compared
before times count. Inference is timed as a CUDA graph, training as a loop that anyone would write.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Any

__all__ = ["ModelTimes", "Plan", "gains", "markdown", "measure"]

# Kernels that add in half precision err more; the file of results has every error.
_PEER_SLACK = 20

# One sample lasts at least this long.
_SAMPLE_MS = 150.0

# Images whose answers are compared.
_CHECKED = 2

# What a layer makes queries, keys and values with.
_PROJECTION = "attn.qkv.weight"

# Keeps the gradients of a checked step in the range of half precision.
_LOSS_SCALE = 1024.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured.

    Parameters
    ----------
    models, methods, dtypes : sequence of str
    peers : sequence of str
        Other libraries: ``"natten"``, ``"natten-naive=FOLDER"`` or ``"natten-gemm=FOLDER"``.
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
    peers: Sequence[str] = ()
    batch: int = 128
    rounds: int = 5
    training: bool = False
    device: str = "cuda"


@dataclass(slots=True)
class ModelTimes:
    """One model in one dtype: images per second by method or peer, or why there are none.

    A peer that is `wrong` is further from exact results than rounding explains.
    """

    model: str
    dtype: str
    batch: int
    training: bool
    images_per_s: dict[str, float] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    refusals: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "dtype": self.dtype,
            "batch": self.batch,
            "what": "training step" if self.training else "inference",
            "images_per_s": {name: round(rate, 1) for name, rate in self.images_per_s.items()},
            "errors": {name: float(f"{error:.2e}") for name, error in self.errors.items()},
            "wrong": self.wrong,
            "refusals": self.refusals,
        }


def measure(plan: Plan) -> Iterator[ModelTimes]:
    """Check and time every model.

    Raises
    ------
    RuntimeError
        If a method's answers are further from exact ones than rounding explains.
    """
    for name in plan.models:
        model = _model(name, plan.device)
        make = _training_step if plan.training else _inference
        for dtype in plan.dtypes:
            times = ModelTimes(name, dtype, plan.batch, plan.training)
            with _full_precision():
                methods = _checked(model, plan, dtype, times)
            images = _images(model, plan.batch, plan.device)
            steps = {name: make(model, m, dtype, images) for name, m in methods.items()}
            _time(steps, plan, times)
            yield times


def gains(rows: Sequence[Mapping[str, Any]], method: str, over: str) -> list[float]:
    """By how much a method is faster than another in each model that has both, in percent."""
    return [
        100 * (row["images_per_s"][method] / row["images_per_s"][over] - 1)
        for row in rows
        if {method, over} <= set(row["images_per_s"])
    ]


def markdown(document: Mapping[str, Any]) -> str:
    """Tables in the form of the paper's, from a file of `cupyna bench models --out`."""
    found = document["measurements"]
    lines = []
    for what, dtype in dict.fromkeys((one["what"], one["dtype"]) for one in found):
        rows = [one for one in found if (one["what"], one["dtype"]) == (what, dtype)]
        names = list(dict.fromkeys(name for row in rows for name in row["images_per_s"]))
        lines += [
            f"Images per second, {what}, {dtype}. In brackets: what fused gains; * is wrong.",
            "",
            f"| model | batch | {' | '.join(names)} |",
            "|" + "---|" * (len(names) + 2),
        ]
        for row in rows:
            cells = [_cell(row, name) for name in names]
            lines.append(f"| {row['model']} | {row['batch']} | {' | '.join(cells)} |")
        others = {name: gains(rows, "fused", name) for name in names if name != "fused"}
        if any(others.values()):
            means = [f"{statistics.mean(all_):+.0f} %" if all_ else "" for all_ in others.values()]
            by_name = dict(zip(others, means, strict=True))
            cells = [by_name.get(name, "") for name in names]
            lines.append(f"| mean gain | | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def _cell(row: Mapping[str, Any], name: str) -> str:
    if name not in row["images_per_s"]:
        return "-"
    cell = f"{row['images_per_s'][name]:.0f}" + "*" * (name in row.get("wrong", ()))
    gained = gains([row], "fused", name) if name != "fused" else []
    return cell + "".join(f" ({gain:+.0f} %)" for gain in gained)


def _model(name: str, device: str) -> Any:
    """A model that is as sensitive to attention as a trained one."""
    import torch

    from ..torch import models

    torch.manual_seed(0)
    layout = models.LAYOUTS[name]
    if layout.layer_scale is not None:
        layout = replace(layout, layer_scale=1.0)
    with torch.device(device):
        # A bias is left out, as in the paper's tables of training; the peers have none.
        model = models.NAT(layout, rpb=False)
    for parameter, weights in model.named_parameters():
        if parameter.endswith(_PROJECTION):
            # Scores of order one: in a new model they are so small that all weights are alike.
            torch.nn.init.normal_(weights, std=weights.shape[1] ** -0.5)
    return model


def _use(model: Any, method: str) -> None:
    from ..torch import neighborhood_attention
    from .peers.layers import PEERS, attend_by

    if method.partition("=")[0] in PEERS:
        model.use(attend=attend_by(method), method="auto")
    else:
        model.use(attend=neighborhood_attention, method=method)


def _images(model: Any, batch: int, device: str) -> Any:
    import torch

    side = model.layout.image_size
    return torch.randn(batch, 3, side, side, device=device)


@contextmanager
def _full_precision() -> Iterator[None]:
    """Keep convolutions from rounding float32 to TF32, which would hide errors of attention."""
    import torch

    convolutions = torch.backends.cudnn
    usual, convolutions.allow_tf32 = convolutions.allow_tf32, False
    try:
        yield
    finally:
        convolutions.allow_tf32 = usual


def _checked(model: Any, plan: Plan, dtype: str, times: ModelTimes) -> dict[str, str]:
    """Methods that run, by name without their folder; each one's error or refusal is noted."""
    import torch

    images = _images(model, _CHECKED, plan.device)
    results = _gradients if plan.training else _answers
    model.eval()
    _use(model, "naive")
    exact = results(model.double(), images.double(), "float64")
    model.float()

    def error(method: str) -> float:
        _use(model, method)
        try:
            found = results(model, images, dtype)
        finally:
            model.float()
        return max(map(_distance, found, exact))

    # Rounding through all layers cannot be counted: what naive kernels make of it is the measure.
    allowed = 2 * error("naive") + 4 * torch.finfo(getattr(torch, dtype)).eps
    methods = {}
    for method in (*plan.methods, *plan.peers):
        name, is_peer = method.partition("=")[0], method in plan.peers
        refusals = (ImportError, OSError, RuntimeError, ValueError) if is_peer else ValueError
        try:
            times.errors[name] = error(method)
        except refusals as refusal:
            times.refusals[name] = str(refusal)
            continue
        methods[name] = method
        if times.errors[name] <= allowed * (_PEER_SLACK if is_peer else 1):
            continue
        if not is_peer:
            found = f"errs by {times.errors[name]:.2e}, allowed {allowed:.2e}"
            raise RuntimeError(f"{name} {found} in {times.model}, {dtype}")
        times.wrong.append(name)
    return methods


def _distance(found: Any, exact: Any) -> float:
    return float((found.double() - exact).norm() / exact.norm())


def _answers(model: Any, images: Any, dtype: str) -> list[Any]:
    """Scores of the classes."""
    import torch

    with torch.no_grad():
        return [_cast(model, dtype)(images.to(getattr(torch, dtype)))]


def _gradients(model: Any, images: Any, dtype: str) -> list[Any]:
    """Gradients of every layer's projection to queries, keys and values, as training has them."""
    import torch

    weights = [one for name, one in model.named_parameters() if name.endswith(_PROJECTION)]
    with _autocast(images.device.type, dtype):
        labels = torch.arange(len(images), device=images.device)
        loss = torch.nn.functional.cross_entropy(model(images), labels)
    found = torch.autograd.grad(loss * _LOSS_SCALE, weights)
    return [part.double() / _LOSS_SCALE for gradient in found for part in gradient.chunk(3)]


def _autocast(device: str, dtype: str) -> Any:
    import torch

    halves = ("float16", "bfloat16")
    return torch.autocast(device, getattr(torch, dtype), enabled=dtype in halves)


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
    # A rate of zero costs what any does, and all methods time the same weights.
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, fused=True)
    scaler = torch.amp.GradScaler(kind, enabled=dtype == "float16")
    cast = _autocast(kind, dtype)

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
