"""What is made of the figures a driver gives."""

from __future__ import annotations

import pytest

from cupyna.kernels.device import device_spec

pytest.importorskip("cupy")

H200 = {13: 1_980_000, 16: 132, 36: 3_201_000, 37: 6144, 38: 62_914_560, 75: 9, 76: 0, 97: 232_448}


def test_a_device_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "cupy.cuda.runtime.deviceGetAttribute", lambda key, index: H200[key] if index == 1 else 0
    )
    monkeypatch.setattr("cupy.cuda.runtime.getDeviceProperties", lambda index: {"name": b"H200"})
    device_spec.cache_clear()
    try:
        spec = device_spec(1)
    finally:
        device_spec.cache_clear()
    assert (spec.name, spec.kind, spec.index) == ("H200", "cuda", 1)
    assert (spec.processors, spec.compute_capability) == (132, (9, 0))
    assert (spec.smem_bytes, spec.l2_bytes) == (232_448, 62_914_560)
    # The data sheet says 4.8 TB/s and 67 TFLOP/s.
    assert spec.bytes_per_us == pytest.approx(4.8e6, rel=0.05)
    assert spec.flops_per_us == pytest.approx(67e6, rel=0.05)
