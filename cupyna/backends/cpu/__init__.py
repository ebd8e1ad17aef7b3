"""The methods on a CPU: NumPy and BLAS, on all cores, with nothing to compile."""

from .fused import CpuFused
from .gemm import TileProducts
from .naive import SlotProducts
from .unfused import CpuUnfused

__all__ = ["BACKENDS"]

BACKENDS = (
    CpuFused(),
    CpuUnfused("cpu-gemm", "gemm", TileProducts()),
    CpuUnfused("cpu-naive", "naive", SlotProducts()),
)
