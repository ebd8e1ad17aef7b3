"""What the sanitizers run, here on the CPU's backends in place of a GPU's."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from cupyna import api, devices, dispatch
from cupyna.arrays import Device
from cupyna.problem import METHODS
from cupyna.testing import sanitize


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> None:
    """CuPy's place and its device's are taken by NumPy and the CPU."""
    on_host = devices.device_spec(Device("cpu", 0))
    cuda = SimpleNamespace(set_allocator=lambda _: None)
    cupy = SimpleNamespace(asarray=np.asarray, asnumpy=np.asarray, cuda=cuda)
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setattr(devices, "device_spec", lambda _: on_host)
    of_host = dispatch.backends("cpu")
    monkeypatch.setattr(dispatch, "backends", lambda _: of_host)


@pytest.mark.parametrize("method", METHODS)
def test_every_backend_of_a_method_runs_small_problems(
    method: str, host: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = set()

    def select(*asked):
        found = usual(*asked)
        taken.add(found.name)
        return found

    usual = dispatch.select
    for module in (dispatch, *(sys.modules[name] for name in sys.modules if "cupyna." in name)):
        if getattr(module, "select", None) is usual:
            monkeypatch.setattr(module, "select", select)
    expected = {found.name for found in dispatch.backends("cuda") if found.method == method}
    assert sanitize.run_small_problems(method, ["float32"]) >= 10 * len(expected)
    assert taken == expected


def test_a_wrong_result_is_told(host: None, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = api.neighborhood_attention

    def wrong(*arrays, **options):
        out, lse = usual(*arrays, **options)
        return out + 1, lse

    monkeypatch.setattr(api, "neighborhood_attention", wrong)
    with pytest.raises(AssertionError):
        sanitize.run_small_problems("fused", ["float32"])
