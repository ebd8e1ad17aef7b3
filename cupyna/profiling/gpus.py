"""GPUs by name, by their data sheets, for predictions on a machine without one."""

from __future__ import annotations

from dataclasses import dataclass

from ..problem import DeviceSpec

__all__ = ["GPUS", "Multiprocessor", "NamedGpu", "multiprocessor"]


@dataclass(frozen=True, slots=True)
class NamedGpu:
    """A GPU's figures and the rate of its tensor cores.

    Parameters
    ----------
    spec : DeviceSpec
    tensor_flops_per_us : float
        float16 products summed in float32, dense.
    """

    spec: DeviceSpec
    tensor_flops_per_us: float


@dataclass(frozen=True, slots=True)
class Multiprocessor:
    """What one multiprocessor shares among its blocks.

    Parameters
    ----------
    threads, blocks : int
        Most at a time.
    smem_bytes : int
        Shared memory of all blocks.
    """

    threads: int
    blocks: int
    smem_bytes: int
    registers: int = 65536


_KB = 1024

_MULTIPROCESSORS = {
    (8, 0): Multiprocessor(2048, 32, 164 * _KB),
    (8, 6): Multiprocessor(1536, 16, 100 * _KB),
    (8, 7): Multiprocessor(1536, 16, 164 * _KB),
    (8, 9): Multiprocessor(1536, 24, 100 * _KB),
    (9, 0): Multiprocessor(2048, 32, 228 * _KB),
    (10, 0): Multiprocessor(2048, 32, 228 * _KB),
    (10, 3): Multiprocessor(2048, 32, 228 * _KB),
    (12, 0): Multiprocessor(1536, 24, 100 * _KB),
    (12, 1): Multiprocessor(1536, 24, 100 * _KB),
}


def multiprocessor(compute_capability: tuple[int, int]) -> Multiprocessor | None:
    """The limits of a compute capability; None where they are not known here."""
    return _MULTIPROCESSORS.get(compute_capability)


def _named(
    name: str, processors: int, capability: tuple[int, int], smem_kb: int, l2_mb: int,
    gb_per_s: float, tflops: float, tensor_tflops: float,
) -> NamedGpu:  # fmt: skip
    spec = DeviceSpec(
        name=name,
        kind="cuda",
        processors=processors,
        compute_capability=capability,
        smem_bytes=smem_kb * _KB,
        l2_bytes=l2_mb * _KB * _KB,
        bytes_per_us=gb_per_s * 1e3,
        flops_per_us=tflops * 1e6,
    )
    return NamedGpu(spec, tensor_tflops * 1e6)


GPUS = {
    gpu.spec.name: gpu
    for gpu in (
        _named("A100", 108, (8, 0), 163, 40, 2039, 19.5, 312),
        _named("RTX 3090", 82, (8, 6), 99, 6, 936, 35.6, 71),
        _named("L4", 58, (8, 9), 99, 48, 300, 30.3, 121),
        _named("RTX 4090", 128, (8, 9), 99, 72, 1008, 82.6, 165),
        _named("H100", 132, (9, 0), 227, 50, 3352, 66.9, 989),
        _named("H200", 132, (9, 0), 227, 50, 4800, 66.9, 989),
        _named("B200", 148, (10, 0), 227, 126, 8000, 74.5, 2250),
        _named("RTX 5090", 170, (12, 0), 99, 96, 1792, 104.8, 209),
    )
}
