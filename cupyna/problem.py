"""What is asked, and of which machine: frozen value objects that all else is computed from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from .geometry import Axis

__all__ = ["METHODS", "DeviceSpec", "Method", "Operation", "Problem"]

Method = Literal["naive", "gemm", "fused"]
METHODS: tuple[Method, ...] = ("naive", "gemm", "fused")

Operation = Literal["forward", "backward", "qk", "av", "qk_backward", "av_backward"]

_ITEM_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}


@lru_cache(maxsize=4096)
def _axes(*fields: tuple[int, ...]) -> tuple[Axis, ...]:
    """The same objects for the same fields: searches of tiles ask for them a million times."""
    return tuple(Axis(*of_axis) for of_axis in zip(*fields, strict=True))


@dataclass(frozen=True, slots=True)
class Problem:
    """The shape of one neighborhood attention; no array, no pointer, no scale.

    Arrays are ``[batch, *spatial, heads, head_dim]``. Per-axis fields hold one entry for each
    spatial axis.

    Parameters
    ----------
    batch, heads, kv_heads, head_dim, value_dim : int
        `heads` is a multiple of `kv_heads`; `head_dim` is that of queries and keys, `value_dim`
        that of values and outputs.
    spatial, kernel_size, stride, dilation : tuple of int
        The grid and its window.
    is_causal : tuple of bool
        Axes along which a query sees no key after itself.
    dtype : str
        ``"float16"``, ``"bfloat16"``, ``"float32"`` or ``"float64"``.
    has_bias : bool
        Whether a relative positional bias is added to the scores.
    allow_tf32 : bool
        Whether float32 products may be rounded to TF32.
    deterministic : bool
        Whether every run must give the same bits.
    has_vector_rows : bool
        Whether the channels of every token are contiguous and aligned to 16 bytes in all arrays.
    has_forward_strides : bool
        Whether no array is broadcast or reversed along an axis.
    has_short_steps : bool
        Whether neighbors of a dilation group lie less than 2 GiB apart in all arrays.
    """

    batch: int
    spatial: tuple[int, ...]
    heads: int
    kv_heads: int
    head_dim: int
    value_dim: int
    dtype: str
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    is_causal: tuple[bool, ...]
    has_bias: bool = False
    allow_tf32: bool = False
    deterministic: bool = False
    has_vector_rows: bool = True
    has_forward_strides: bool = True
    has_short_steps: bool = True

    @property
    def rank(self) -> int:
        """Number of spatial axes."""
        return len(self.spatial)

    @property
    def axes(self) -> tuple[Axis, ...]:
        """The geometry of each spatial axis."""
        return _axes(self.spatial, self.kernel_size, self.stride, self.dilation, self.is_causal)

    @property
    def tokens(self) -> int:
        """Tokens of one batch entry."""
        return math.prod(self.spatial)

    @property
    def window(self) -> int:
        """Slots of one window, ``prod(kernel_size)``."""
        return math.prod(self.kernel_size)

    @property
    def head_group(self) -> int:
        """Query heads that share one key/value head."""
        return self.heads // self.kv_heads

    @property
    def bias_shape(self) -> tuple[int, ...]:
        """Shape of the relative positional bias, ``[heads, 2 * kernel_size - 1, ...]``."""
        return (self.heads, *(2 * size - 1 for size in self.kernel_size))

    @property
    def item_bytes(self) -> int:
        """Bytes of one element of the inputs."""
        return _ITEM_BYTES[self.dtype]

    @property
    def least_bytes(self) -> int:
        """Bytes that forward must move: each input read once, the output written once."""
        query_channels = self.heads * (self.head_dim + self.value_dim)
        key_channels = self.kv_heads * (self.head_dim + self.value_dim)
        return self.batch * self.tokens * (query_channels + key_channels) * self.item_bytes

    @property
    def accumulator(self) -> str:
        """Type in which products are summed, and that of the log-sum-exp."""
        return "float64" if self.dtype == "float64" else "float32"


@dataclass(frozen=True, slots=True)
class DeviceSpec:
    """The figures of a machine that decide how a problem is run on it.

    Parameters
    ----------
    name : str
        As the vendor prints it.
    kind : {"cpu", "cuda"}
    index : int
        Which device of its kind.
    processors : int
        Cores in use, or multiprocessors of a GPU.
    compute_capability : tuple of int
        ``(major, minor)``; ``(0, 0)`` for a CPU.
    smem_bytes : int
        Largest shared memory of one block.
    l2_bytes : int
        Last-level cache.
    bytes_per_us : float
        Memory bandwidth, read plus written.
    flops_per_us : float
        Rate of float32 multiply-adds outside tensor cores, two operations each.
    """

    name: str
    kind: Literal["cpu", "cuda"]
    index: int = 0
    processors: int = 1
    compute_capability: tuple[int, int] = (0, 0)
    smem_bytes: int = 0
    l2_bytes: int = 0
    bytes_per_us: float = 2e4
    flops_per_us: float = 5e4
