"""Neighborhood attention as layers, with NATTEN's names, arguments, defaults and weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from .functional import neighborhood_attention

__all__ = ["NeighborhoodAttention1D", "NeighborhoodAttention2D", "NeighborhoodAttention3D"]

Tensor = Any

_BIAS_STD = 0.02


class _NeighborhoodAttention(nn.Module):  # type: ignore[misc]
    """Projections around neighborhood attention: what the ranks have in common."""

    rank: int
    attend: Callable[..., Tensor] = staticmethod(neighborhood_attention)

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        dilation: int | Sequence[int] = 1,
        is_causal: bool | Sequence[bool] = False,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        proj_drop: float = 0.0,
        *,
        rpb: bool = False,
        method: str = "auto",
        deterministic: bool = False,
    ) -> None:
        super().__init__()
        if embed_dim % num_heads:
            raise ValueError(
                f"embed_dim must be a multiple of num_heads, got {embed_dim} and {num_heads}"
            )
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.head_dim = embed_dim // num_heads
        self.scale = self.head_dim**-0.5 if qk_scale is None else qk_scale
        self.kernel_size = self._per_axis("kernel_size", kernel_size)
        self.stride = self._per_axis("stride", stride)
        self.dilation = self._per_axis("dilation", dilation)
        self.is_causal = self._per_axis("is_causal", is_causal)
        self.method = method
        self.deterministic = deterministic
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim, bias=qkv_bias)
        self.proj = nn.Linear(embed_dim, embed_dim)
        self.proj_drop = nn.Dropout(proj_drop)
        if rpb:
            entries = (2 * size - 1 for size in self.kernel_size)
            self.rpb = nn.Parameter(torch.zeros(num_heads, *entries))
            nn.init.trunc_normal_(self.rpb, std=_BIAS_STD)
        else:
            self.register_parameter("rpb", None)

    def forward(
        self,
        x: Tensor,
        additional_keys: Tensor | None = None,
        additional_values: Tensor | None = None,
    ) -> Tensor:
        """Attend.

        Parameters
        ----------
        x : Tensor, shape [batch, *spatial, embed_dim]
        additional_keys, additional_values : Tensor, shape [batch, tokens, num_heads, head_dim]
            Seen by every token, if given.

        Returns
        -------
        Tensor, shape [batch, *spatial, embed_dim]
        """
        if x.ndim != self.rank + 2 or x.shape[-1] != self.embed_dim:
            raise ValueError(
                f"x must be [batch, *spatial, {self.embed_dim}] with {self.rank} spatial "
                f"{'axis' if self.rank == 1 else 'axes'}, got shape {tuple(x.shape)}"
            )
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, self.head_dim))
        options: dict[str, Any] = {
            "stride": self.stride,
            "dilation": self.dilation,
            "is_causal": self.is_causal,
            "scale": self.scale,
            "bias": self.rpb,
            "method": self.method,
            "deterministic": self.deterministic,
        }
        if additional_keys is not None or additional_values is not None:
            options["additional_keys"] = additional_keys
            options["additional_values"] = additional_values
        attended = self.attend(*qkv.unbind(-3), self.kernel_size, **options)
        return self.proj_drop(self.proj(attended.flatten(-2)))

    def extra_repr(self) -> str:
        """Options for `print`."""
        parts = [
            f"head_dim={self.head_dim}, num_heads={self.num_heads}, "
            f"kernel_size={self.kernel_size}, stride={self.stride}, dilation={self.dilation}, "
            f"is_causal={self.is_causal}"
        ]
        if self.rpb is not None:
            parts.append("rpb=True")
        if self.method != "auto":
            parts.append(f"method={self.method!r}")
        if self.deterministic:
            parts.append("deterministic=True")
        return ", ".join(parts)

    def _per_axis(self, name: str, value: Any) -> tuple[Any, ...]:
        if not isinstance(value, Sequence):
            return (value,) * self.rank
        if len(value) != self.rank:
            raise ValueError(f"{name} must have {self.rank} entries, got {value!r}")
        return tuple(value)


class NeighborhoodAttention1D(_NeighborhoodAttention):
    """Self-attention of a sequence to the window around each token, with its projections.

    Parameters
    ----------
    embed_dim : int
        Channels of a token, a multiple of `num_heads`.
    num_heads : int
        Heads of ``embed_dim // num_heads`` channels each.
    kernel_size, stride, dilation, is_causal
        As in :func:`cupyna.neighborhood_attention`.
    qkv_bias : bool, optional
        Whether the projection to queries, keys and values has a bias.
    qk_scale : float, optional
        Factor of the scores; ``head_dim ** -0.5`` by default.
    proj_drop : float, optional
        Dropout after the output's projection.
    rpb : bool, optional
        Learn a relative positional bias.
    method : {"auto", "naive", "gemm", "fused"}, optional
        How to compute attention.
    deterministic : bool, optional
        Ask for the same bits in every run.

    Raises
    ------
    ValueError
        If options do not fit each other.

    Notes
    -----
    Arguments, defaults and names of weights are those of NATTEN's module of this name; `rpb` has
    the layout of the models that NATTEN's earlier versions trained.

    Examples
    --------
    >>> import torch
    >>> from cupyna.torch import NeighborhoodAttention1D
    >>> layer = NeighborhoodAttention1D(embed_dim=32, num_heads=2, kernel_size=7, dilation=2)
    >>> layer(torch.randn(1, 40, 32)).shape
    torch.Size([1, 40, 32])
    """

    rank = 1


class NeighborhoodAttention2D(_NeighborhoodAttention):
    """The same on a plane, ``[batch, x, y, embed_dim]``; see :class:`NeighborhoodAttention1D`."""

    rank = 2


class NeighborhoodAttention3D(_NeighborhoodAttention):
    """The same in a volume, ``[batch, x, y, z, embed_dim]``; see `NeighborhoodAttention1D`."""

    rank = 3
