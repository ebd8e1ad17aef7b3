"""What a GPU is, as far as choosing a kernel and its launch shape goes."""

from __future__ import annotations

from functools import cache

from cupyna.problem import DeviceSpec

__all__ = ["device_spec"]

# Keys of cudaDeviceGetAttribute.
_CLOCK_KHZ = 13
_PROCESSORS = 16
_MEMORY_CLOCK_KHZ = 36
_MEMORY_BUS_BITS = 37
_L2_BYTES = 38
_MAJOR = 75
_MINOR = 76
_SMEM_BYTES = 97

# float32 multiply-adds of one multiprocessor and clock.
_LANES = {(8, 0): 64}
_LANES_ELSEWHERE = 128


@cache
def device_spec(index: int) -> DeviceSpec:
    """Describe a CUDA device.

    Parameters
    ----------
    index : int
        CUDA device ordinal.

    Returns
    -------
    DeviceSpec
        Rates are those of the data sheet: clock times width, never measured.

    Raises
    ------
    cupy.cuda.runtime.CUDARuntimeError
        If there is no such device.
    """
    from cupy.cuda import runtime

    def attribute(key: int) -> int:
        return int(runtime.deviceGetAttribute(key, index))

    capability = (attribute(_MAJOR), attribute(_MINOR))
    processors = attribute(_PROCESSORS)
    lanes = _LANES.get(capability, _LANES_ELSEWHERE)
    name = runtime.getDeviceProperties(index)["name"]
    return DeviceSpec(
        name=name.decode() if isinstance(name, bytes) else str(name),
        kind="cuda",
        index=index,
        processors=processors,
        compute_capability=capability,
        smem_bytes=attribute(_SMEM_BYTES),
        l2_bytes=attribute(_L2_BYTES),
        # Two transfers in a clock; kilohertz are a thousandth of clocks in a microsecond.
        bytes_per_us=2 * attribute(_MEMORY_CLOCK_KHZ) * attribute(_MEMORY_BUS_BITS) / 8 / 1e3,
        flops_per_us=2 * processors * lanes * attribute(_CLOCK_KHZ) / 1e3,
    )
