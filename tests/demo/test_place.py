"""The demo runs on a GPU that works, and says why it does not use one that does not."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest

from cupyna.demo import sources
from cupyna.demo.experiment import run
from cupyna.demo.nonlocal_means import NonLocalMeans
from cupyna.demo.place import choose

METHOD = NonLocalMeans(7, 3, 0.1, 0.7)
NOISY = np.random.default_rng(0).random((20, 24, 1), np.float32)


class FakeCupy(types.ModuleType):
    """NumPy under CuPy's name, with one GPU; `failure` is raised when data goes there."""

    def __init__(self, failure: Exception | None = None):
        super().__init__("cupy")
        runtime = types.SimpleNamespace(getDeviceProperties=lambda index: {"name": b"Some GPU"})
        self.cuda = types.SimpleNamespace(
            is_available=lambda: True, runtime=runtime, Device=lambda: types.SimpleNamespace(id=0)
        )
        self.failure = failure
        self.fetched = 0

    def __getattr__(self, name):
        return getattr(np, name)

    def asarray(self, array):
        if self.failure is not None:
            raise self.failure
        return np.array(array)

    def asnumpy(self, array):
        self.fetched += 1
        return array


def test_a_gpu_that_works_is_used(monkeypatch):
    fake = FakeCupy()
    monkeypatch.setitem(sys.modules, "cupy", fake)
    place = choose("auto", METHOD, NOISY)
    assert place.name == "Some GPU"
    fetched = fake.fetched
    assert np.array_equal(place.denoise(METHOD, NOISY), METHOD.denoise(np, NOISY))
    assert fake.fetched == fetched + 1


@pytest.mark.parametrize("failure", [RuntimeError, ValueError, ImportError])
def test_a_gpu_without_kernels_is_not_used(failure, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", FakeCupy(failure("no kernels here")))
    place = choose("auto", METHOD, NOISY)
    assert place.name.startswith("CPU")
    assert place.reason == "no kernels here"
    with pytest.raises(ValueError, match="no kernels here"):
        choose("gpu", METHOD, NOISY)


def test_the_cpu_on_demand(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", FakeCupy())
    place = choose("cpu", METHOD, NOISY)
    assert place.name.startswith("CPU")
    assert not place.reason


@pytest.mark.gpu
@pytest.mark.parametrize("source", [sources.astronaut, sources.volume, sources.electrocardiogram])
def test_the_same_gain_on_a_gpu(source):
    for package in ("skimage", "nibabel", "pywt"):
        pytest.importorskip(package)
    there, here = (run(source(), device=device) for device in ("gpu", "cpu"))
    assert not there.place.startswith("CPU")
    assert there.gain_db(there.ours) == pytest.approx(here.gain_db(here.ours), abs=0.02)
