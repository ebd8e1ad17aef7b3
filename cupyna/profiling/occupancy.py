"""How many blocks of a kernel one multiprocessor holds, from what the kernel takes."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

from ..kernels.manifest import VARIANTS
from ..kernels.resources import read_golden
from ..kernels.store import default_store
from ..kernels.variant import Variant, architecture_of
from .gpus import multiprocessor

__all__ = ["Occupancy", "occupancies", "occupancy"]

# Registers are handed out to a warp in parts of this many, and shared memory to a block likewise.
_REGISTER_PART = 256
_SMEM_PART = 1024
_WARP = 32


@dataclass(frozen=True, slots=True)
class Occupancy:
    """One kernel on one multiprocessor.

    Parameters
    ----------
    symbol : str
    registers, threads, smem_bytes : int
        Of a thread, and of a block with all the shared memory it may ask for.
    blocks : int
        Held at a time.
    share : float
        Of the multiprocessor's threads.
    bound : str
        What allows no more blocks.
    """

    symbol: str
    registers: int
    threads: int
    smem_bytes: int
    blocks: int
    share: float
    bound: str


def occupancies(kernel: str, compute_capability: tuple[int, int]) -> tuple[Occupancy, ...]:
    """Every compiled kernel of a name or pattern, as `Choice.kernel` has it.

    A pattern stands for those that read whole vectors, as they do where rows are aligned.
    """
    store = default_store()
    _, golden = read_golden()
    limits = multiprocessor(compute_capability)
    found = []
    pattern = f"{kernel}*" if "*" in kernel else kernel
    for variant in VARIANTS:
        if limits is None or not fnmatchcase(variant.symbol, pattern):
            continue
        if "*" in kernel and ("VECTOR", 0) in variant.defines:
            continue
        try:
            arch = architecture_of(variant, compute_capability)
        except ValueError:
            continue
        record = store.record(variant, arch)
        recorded = golden.get(variant.symbol, {}).get(arch)
        resources = recorded if record is None else record.resources
        if resources is not None:
            found.append(
                occupancy(variant, compute_capability, resources.registers, resources.smem_bytes)
            )
    return tuple(found)


def occupancy(
    variant: Variant, compute_capability: tuple[int, int], registers: int, static_bytes: int
) -> Occupancy:
    """How many blocks of a kernel fit, by the registers and static shared memory it takes."""
    limits = multiprocessor(compute_capability)
    assert limits is not None
    warps = -(-variant.threads // _WARP)
    of_warp = -(-registers * _WARP // _REGISTER_PART) * _REGISTER_PART
    smem_bytes = variant.smem_bytes + static_bytes
    # Every block also costs what the driver keeps for itself.
    of_block = -(-(smem_bytes + _SMEM_PART) // 128) * 128
    bounds = {
        "threads": limits.threads // variant.threads,
        "registers": limits.registers // (of_warp * warps),
        "shared memory": limits.smem_bytes // of_block,
        "blocks": limits.blocks,
    }
    bound = min(bounds, key=lambda name: bounds[name])
    blocks = bounds[bound]
    return Occupancy(
        variant.symbol, registers, variant.threads, smem_bytes, blocks,
        blocks * variant.threads / limits.threads, bound,
    )  # fmt: skip
