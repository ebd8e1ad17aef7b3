"""Training on real data that anyone can repeat: a small NAT learns scikit-learn's digits.

1797 handwritten digits of 8x8 pixels, three quarters to learn from and one to be tested on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Training", "train"]

_BATCH = 32
_LEARNING_RATE = 4e-3


@dataclass(frozen=True, slots=True)
class Training:
    """How a training went.

    Parameters
    ----------
    method : str
    accuracy : float
        Share of the test images that are told right.
    losses : tuple of float
        Mean training loss of each epoch.
    """

    method: str
    accuracy: float
    losses: tuple[float, ...]


def train(
    method: str = "auto", device: str = "cpu", dtype: str = "float32", epochs: int = 8,
    seed: int = 0,
) -> Training:  # fmt: skip
    """Train and test the classifier.

    Parameters
    ----------
    method : {"auto", "naive", "gemm", "fused"}, optional
        How attention is computed.
    device : str, optional
        torch's name of it.
    dtype : str, optional
        ``"float16"`` and ``"bfloat16"`` train under autocast.
    epochs : int, optional
    seed : int, optional
        Of weights, the order of images and their division.
    """
    import torch

    images, labels = _digits(seed)
    count = len(labels) * 3 // 4
    learn, test = slice(count), slice(count, None)
    torch.manual_seed(seed)
    model = _classifier(method).to(device)
    images = torch.from_numpy(images).to(device)
    labels = torch.from_numpy(labels).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=_LEARNING_RATE, weight_decay=0.05)
    steps = epochs * -(-count // _BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _LEARNING_RATE, steps)
    is_narrow = dtype != "float32"
    cast: Any = torch.autocast(device, getattr(torch, dtype), enabled=is_narrow)
    scaler = torch.amp.GradScaler(device, enabled=dtype == "float16")
    losses = []
    for _ in range(epochs):
        model.train()
        total = 0.0
        for chosen in torch.randperm(count, device="cpu").split(_BATCH):
            chosen = chosen.to(device)
            with cast:
                scores = model(images[learn][chosen])
                loss = torch.nn.functional.cross_entropy(scores, labels[learn][chosen])
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            schedule.step()
            total += float(loss.detach()) * len(chosen)
        losses.append(total / count)
    model.eval()
    with torch.no_grad(), cast:
        right = model(images[test]).argmax(-1) == labels[test]
    return Training(method, float(right.float().mean()), tuple(losses))


def _digits(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images ``[digits, 1, 8, 8]`` of mean zero, and labels, in a random order."""
    from sklearn.datasets import load_digits

    data = load_digits()
    order = np.random.default_rng(seed).permutation(len(data.target))
    images = (data.images[order, None].astype(np.float32) - 4.88) / 6.02
    return images, data.target[order].astype(np.int64)


def _classifier(method: str) -> Any:
    """Two levels of attention, 8x8 and 4x4 tokens, one of the layers dilated."""
    from torch import nn

    from ..torch.models import NAT, Layout

    layout = Layout(
        embed_dim=32, depths=(2, 1), num_heads=(2, 4), mlp_ratio=2.0, drop_path_rate=0.0,
        kernel_size=3, dilations=((1, 2), (1,)), image_size=8,
    )  # fmt: skip

    class Stem(nn.Module):  # type: ignore[misc]
        """A token of each pixel."""

        def __init__(self) -> None:
            super().__init__()
            self.proj = nn.Conv2d(1, layout.embed_dim, 3, padding=1)

        def forward(self, images: Any) -> Any:
            return self.proj(images).permute(0, 2, 3, 1)

    return NAT(layout, num_classes=10, method=method, stem=Stem())
