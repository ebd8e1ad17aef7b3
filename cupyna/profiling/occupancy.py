"""How many blocks of a kernel one multiprocessor holds, from what the kernel takes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from ..kernels.manifest import VARIANTS
from ..kernels.resources import Resources, read_golden
from ..kernels.store import default_store
from ..kernels.variant import Variant, architecture_of
from .gpus import multiprocessor

__all__ = ["Occupancy", "launched", "occupancies", "occupancy"]

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
        Of a thread, and of a block: the shared memory it asks for, or the most it may.
    blocks : int
        Held at a time.
    share : float
        Of the multiprocessor's threads.
    bound : str
        What allows no more blocks.
    grid_blocks : int
        Of the launch; zero where none is known.
    """

    symbol: str
    registers: int
    threads: int
    smem_bytes: int
    blocks: int
    share: float
    bound: str
    grid_blocks: int = 0


def launched(
    run: Callable[[], object], compute_capability: tuple[int, int]
) -> tuple[Occupancy, ...]:
    """Every launch of a call on the current GPU, in order; none of them is queued."""
    from ..kernels.launch import launches_kept_back

    found = []

    def take(kernel: Any, grid: tuple[int, ...], block: Any, smem_bytes: int, _: Any) -> None:
        arch = architecture_of(kernel.variant, compute_capability)
        resources = _resources(kernel.variant, arch)
        if resources is not None:
            taken = (kernel.variant, compute_capability, resources.registers)
            found.append(occupancy(*taken, resources.smem_bytes + smem_bytes, math.prod(grid)))

    with launches_kept_back(take):
        run()
    return tuple(found)


def occupancies(kernel: str, compute_capability: tuple[int, int]) -> tuple[Occupancy, ...]:
    """Every compiled kernel of some names, or of a pattern, as `Choice.kernel` has them.

    A pattern stands for those that read whole vectors, as they do where rows are aligned.
    """
    limits = multiprocessor(compute_capability)
    found = []
    for name, variant in itertools.product(kernel.split(" + "), VARIANTS):
        if limits is None or not _is_named(variant, name):
            continue
        try:
            arch = architecture_of(variant, compute_capability)
        except ValueError:
            continue
        resources = _resources(variant, arch)
        if resources is not None:
            smem_bytes = variant.smem_bytes + resources.smem_bytes
            found.append(occupancy(variant, compute_capability, resources.registers, smem_bytes))
    return tuple(found)


def _is_named(variant: Variant, name: str) -> bool:
    if "*" not in name:
        return variant.symbol == name
    return fnmatchcase(variant.symbol, f"{name}*") and ("VECTOR", 0) not in variant.defines


def _resources(variant: Variant, arch: str) -> Resources | None:
    """Of the cubin that is there, or else as they are recorded."""
    record = default_store().record(variant, arch)
    if record is not None:
        return record.resources
    _, golden = read_golden()
    return golden.get(variant.symbol, {}).get(arch)


def occupancy(
    variant: Variant,
    compute_capability: tuple[int, int],
    registers: int,
    smem_bytes: int,
    grid_blocks: int = 0,
) -> Occupancy:
    """How many blocks of a kernel fit, by the registers and shared memory it takes."""
    limits = multiprocessor(compute_capability)
    assert limits is not None
    warps = -(-variant.threads // _WARP)
    of_warp = -(-registers * _WARP // _REGISTER_PART) * _REGISTER_PART
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
        blocks * variant.threads / limits.threads, bound, grid_blocks,
    )  # fmt: skip
