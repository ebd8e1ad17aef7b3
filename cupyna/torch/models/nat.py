"""NAT: a classifier of four levels of neighborhood attention; with dilations it is DiNAT."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..modules import NeighborhoodAttention2D
from .layouts import Layout

__all__ = ["NAT"]

Tensor = Any

_WEIGHT_STD = 0.02


class NAT(nn.Module):  # type: ignore[misc]
    """An image classifier made of neighborhood attention.

    Parameters
    ----------
    layout : Layout
    num_classes : int, optional
        Outputs; 0 for the features alone.
    in_chans : int, optional
        Channels of an image.
    rpb : bool, optional
        Whether attention learns a relative positional bias.
    method : {"auto", "naive", "gemm", "fused"}, optional
        How attention is computed.
    stem : Module, optional
        From images ``[batch, in_chans, x, y]`` to tokens ``[batch, x, y, embed_dim]``. By default
        two strided convolutions make a token of 4x4 pixels.

    Notes
    -----
    Weights have the names of the published checkpoints, which load with ``load_state_dict``.

    Examples
    --------
    >>> import torch
    >>> from cupyna.torch.models import nat_mini
    >>> model = nat_mini(num_classes=10).eval()
    >>> with torch.no_grad():
    ...     model(torch.randn(1, 3, 224, 224)).shape
    torch.Size([1, 10])
    """

    def __init__(
        self,
        layout: Layout,
        *,
        num_classes: int = 1000,
        in_chans: int = 3,
        rpb: bool = True,
        method: str = "auto",
        stem: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.layout = layout
        self.patch_embed = _Tokenizer(in_chans, layout.embed_dim) if stem is None else stem
        chances = torch.linspace(
            0, layout.drop_path_rate, sum(layout.depths), device="cpu"
        ).tolist()
        levels = len(layout.depths)
        self.levels = nn.ModuleList()
        for level, depth in enumerate(layout.depths):
            dim = layout.embed_dim << level
            layers = [
                _Layer(layout, level, layer, dim, chances.pop(0), rpb, method)
                for layer in range(depth)
            ]
            self.levels.append(_Level(dim, layers, has_next=level + 1 < levels))
        features = layout.embed_dim << (levels - 1)
        self.norm = nn.LayerNorm(features)
        self.head = nn.Linear(features, num_classes) if num_classes else nn.Identity()
        self.apply(_initialize)

    def forward(self, images: Tensor) -> Tensor:
        """Scores of the classes, ``[batch, num_classes]``, of ``[batch, in_chans, x, y]``."""
        tokens = self.patch_embed(images)
        for level in self.levels:
            tokens = level(tokens)
        return self.head(self.norm(tokens).mean((1, 2)))

    def use(self, **options: Any) -> NAT:
        """Set options of every attention layer, for instance ``use(method="naive")``.

        Parameters
        ----------
        **options
            Attributes of the layers: `method`, `deterministic`, or `attend`, the function that
            computes attention.

        Returns
        -------
        NAT
            The model itself.

        Raises
        ------
        TypeError
            If layers have no such attribute.
        """
        for module in self.modules():
            if isinstance(module, NeighborhoodAttention2D):
                for name, value in options.items():
                    if not hasattr(module, name):
                        raise TypeError(f"attention has no option {name!r}")
                    setattr(module, name, value)
        return self


class _Tokenizer(nn.Module):  # type: ignore[misc]
    """Tokens of 4x4 pixels, by two overlapping convolutions."""

    def __init__(self, in_chans: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Sequential(
            nn.Conv2d(in_chans, dim // 2, 3, stride=2, padding=1),
            nn.Conv2d(dim // 2, dim, 3, stride=2, padding=1),
        )
        self.norm = nn.LayerNorm(dim)

    def forward(self, images: Tensor) -> Tensor:
        return self.norm(self.proj(images).permute(0, 2, 3, 1))


class _Downsampler(nn.Module):  # type: ignore[misc]
    """Half the resolution, twice the channels."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.reduction = nn.Conv2d(dim, 2 * dim, 3, stride=2, padding=1, bias=False)
        self.norm = nn.LayerNorm(2 * dim)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.norm(self.reduction(tokens.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))


class _Level(nn.Module):  # type: ignore[misc]
    """Layers of one resolution, and the way to the next."""

    def __init__(self, dim: int, layers: list[nn.Module], has_next: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(layers)
        self.downsample = _Downsampler(dim) if has_next else nn.Identity()

    def forward(self, tokens: Tensor) -> Tensor:
        for block in self.blocks:
            tokens = block(tokens)
        return self.downsample(tokens)


class _Layer(nn.Module):  # type: ignore[misc]
    """Attention and a perceptron, each behind a norm and added to its input."""

    def __init__(
        self,
        layout: Layout,
        level: int,
        layer: int,
        dim: int,
        drop_path: float,
        rpb: bool,
        method: str,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = NeighborhoodAttention2D(
            dim, layout.num_heads[level], layout.kernel_size,
            dilation=layout.dilation(level, layer), rpb=rpb, method=method,
        )  # fmt: skip
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = _Perceptron(dim, int(dim * layout.mlp_ratio))
        self.drop_path = drop_path
        if layout.layer_scale is None:
            self.gamma1 = self.gamma2 = None
        else:
            self.gamma1 = nn.Parameter(torch.full((dim,), layout.layer_scale))
            self.gamma2 = nn.Parameter(torch.full((dim,), layout.layer_scale))

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self._skipped(self.attn(self.norm1(tokens)), self.gamma1)
        return tokens + self._skipped(self.mlp(self.norm2(tokens)), self.gamma2)

    def _skipped(self, added: Tensor, gamma: Tensor | None) -> Tensor:
        """What a layer adds, scaled, and left out for some images in training."""
        if gamma is not None:
            added = added * gamma
        if not self.training or self.drop_path == 0:
            return added
        kept = 1 - self.drop_path
        chosen = added.new_empty((len(added), *(1,) * (added.ndim - 1))).bernoulli_(kept)
        return added * (chosen / kept)


class _Perceptron(nn.Module):  # type: ignore[misc]
    """Two linear layers."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(tokens)))


def _initialize(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=_WEIGHT_STD)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
