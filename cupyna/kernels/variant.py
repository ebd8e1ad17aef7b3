"""One compiled kernel as a value, and the architectures it is compiled for."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "ARCHITECTURES",
    "SERVED",
    "STATIC_SMEM_BYTES",
    "Variant",
    "architecture_of",
    "architectures_on",
]

PORTABLE = ("sm_80", "sm_90", "sm_100", "sm_120")
HOPPER = ("sm_90a",)
ARCHITECTURES = (*PORTABLE, *HOPPER)

# The most shared memory that a block has on any device of an architecture: no kernel is compiled
# for devices that cannot run it.
_KIB = 1024
_MOST_SMEM_BYTES = {
    "sm_80": 163 * _KIB, "sm_90": 227 * _KIB, "sm_100": 227 * _KIB, "sm_120": 99 * _KIB,
}  # fmt: skip

# A cubin runs on its own major version only, from its own minor version on.
_PORTABLE_BY_MAJOR = {8: "sm_80", 9: "sm_90", 10: "sm_100", 12: "sm_120"}

# What tables in static shared memory take of a block's, at most.
STATIC_SMEM_BYTES = 8 * 1024

SERVED = "8.x, 9.0, 10.x and 12.x"

_CUDA_TYPES = {
    "float16": "__half",
    "bfloat16": "__nv_bfloat16",
    "float32": "float",
    "float64": "double",
}


@dataclass(frozen=True, slots=True)
class Variant:
    """One kernel of the manifest; everything about its compilation follows from it.

    Parameters
    ----------
    family : str
        Names the entry point's file, ``cuda_src/kernels/<family>.cu``. Several variants share it.
    dtype : {"float16", "bfloat16", "float32", "float64"}
        Element type of the inputs.
    rank : int
        Number of spatial axes; 0 for a kernel that does not know them.
    threads : int
        Threads of one block.
    smem_bytes : int
        Most dynamic shared memory one launch asks for.
    defines : tuple of (str, int)
        Further compile-time constants: ``("HEAD_DIM", 64)`` is ``CUPYNA_HEAD_DIM`` for the source.
        Only what changes registers belongs here.
    hopper : bool
        Uses instructions of compute capability 9.0 that no other has (WGMMA, TMA).
    is_elastic : bool
        Launches ask for as much shared memory as they are told to: a device that has less than
        `smem_bytes` runs it as well.
    """

    family: str
    dtype: str
    rank: int
    threads: int
    smem_bytes: int = 0
    defines: tuple[tuple[str, int], ...] = ()
    hopper: bool = False
    is_elastic: bool = False

    @property
    def source(self) -> str:
        """File of the entry point, relative to the root of the device sources."""
        return f"kernels/{self.family}.cu"

    @property
    def symbol(self) -> str:
        """The kernel's ``extern "C"`` name, the stem of its file and its name in tables."""
        axes = (f"{self.rank}d",) if self.rank else ()
        constants = tuple(f"{name.lower()}{value}" for name, value in self.defines)
        return "_".join(("cupyna", self.family, self.dtype, *axes, *constants))

    @property
    def define_list(self) -> tuple[str, ...]:
        """``NAME=value`` macros, the only road from a row into a template."""
        constants = tuple(f"CUPYNA_{name}={value}" for name, value in self.defines)
        return (
            f"CUPYNA_SYMBOL={self.symbol}",
            f"CUPYNA_DTYPE={_CUDA_TYPES[self.dtype]}",
            f"CUPYNA_RANK={self.rank}",
            f"CUPYNA_THREADS={self.threads}",
            f"CUPYNA_SMEM_BYTES={self.smem_bytes}",
            *constants,
        )

    @property
    def architectures(self) -> tuple[str, ...]:
        """Architectures that this variant is compiled for."""
        if self.hopper:
            return HOPPER
        if self.is_elastic:
            return PORTABLE
        return tuple(arch for arch in PORTABLE if self.smem_bytes <= _MOST_SMEM_BYTES[arch])


def architecture_of(variant: Variant, compute_capability: tuple[int, int]) -> str:
    """Name the architecture whose cubin of `variant` runs on a device.

    Parameters
    ----------
    variant : Variant
    compute_capability : (int, int)

    Returns
    -------
    str
        ``"sm_80"``, for example.

    Raises
    ------
    ValueError
        If no cubin of `variant` runs there.
    """
    major, minor = compute_capability
    if variant.hopper:
        if compute_capability == (9, 0):
            return "sm_90a"
        served = "9.0"
    else:
        if major in _PORTABLE_BY_MAJOR:
            return _PORTABLE_BY_MAJOR[major]
        served = SERVED
    raise ValueError(
        f"{variant.symbol} runs on compute capability {served}, and this device has {major}.{minor}"
    )


def architectures_on(compute_capability: tuple[int, int]) -> tuple[str, ...]:
    """List the architectures whose cubins run on a device; none if it is not served."""
    portable = _PORTABLE_BY_MAJOR.get(compute_capability[0])
    hopper = HOPPER if compute_capability == (9, 0) else ()
    return (*(() if portable is None else (portable,)), *hopper)
