"""What a GPU reaches at most: measured with a copy and with large products, or by data sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from .gpus import NamedGpu
from .timing import Repeat, interleave, own_stream

__all__ = ["Ceilings"]

_SIZE = 8192
_COPY_BYTES = 1 << 32


@dataclass(frozen=True, slots=True)
class Ceilings:
    """Rates that no kernel passes.

    Parameters
    ----------
    bytes_per_us : float
        Read plus written.
    flops_per_us : dict
        Of products, by dtype of their inputs.
    is_measured : bool
    """

    bytes_per_us: float
    flops_per_us: dict[str, float]
    is_measured: bool

    def of(self, dtype: str) -> float:
        """Rate of products in a dtype."""
        return self.flops_per_us.get(dtype, math.nan)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def by_data_sheet(cls, gpu: NamedGpu) -> Ceilings:
        """Clock times width, and vendors' rates of tensor cores."""
        tensor = gpu.tensor_flops_per_us
        flops = gpu.spec.flops_per_us
        rates = {"float16": tensor, "bfloat16": tensor, "float32": flops, "float64": flops / 2}
        return cls(gpu.spec.bytes_per_us, rates, is_measured=False)

    @classmethod
    def measured(cls, dtypes: Sequence[str]) -> Ceilings:
        """Copy and multiply on the current GPU.

        float32 counts as the faster of plain products and a third of TF32's rate, as three TF32
        products make one that is as accurate.
        """
        import torch

        rates = {}
        with own_stream():
            copied = _copy_rate()
            for dtype in dtypes:
                rates[dtype] = _product_rate(dtype, allow_tf32=False)
                if dtype == "float32":
                    rates[dtype] = max(rates[dtype], _product_rate(dtype, allow_tf32=True) / 3)
        torch.cuda.empty_cache()
        return cls(copied, rates, is_measured=True)


def _copy_rate() -> float:
    import torch

    free = torch.cuda.mem_get_info()[0]
    count = min(_COPY_BYTES, free // 4) // 4
    source = torch.ones(count, dtype=torch.float32, device="cuda")
    target = torch.empty_like(source)
    # The driver's own copy is slower than a kernel's on some GPUs.
    ways = {
        "copy": Repeat([partial(target.copy_, source)]),
        "kernel": Repeat([partial(torch.neg, source, out=target)]),
    }
    fastest = min(times.median_us for times in interleave(ways, 5).values())
    return float(2 * source.nbytes / fastest)


def _product_rate(dtype: str, allow_tf32: bool) -> float:
    import torch

    size = _SIZE if dtype != "float64" else _SIZE // 4
    matrices = [torch.randn(size, size, device="cuda").to(getattr(torch, dtype)) for _ in range(2)]
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = allow_tf32
    try:
        times = interleave({"product": Repeat([partial(torch.matmul, *matrices)])}, 5)["product"]
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
    return 2 * size**3 / times.median_us
