"""The cost model's picks on several GPUs, none of which need be here."""

from __future__ import annotations

import json

import pytest

from cupyna.problem import DeviceSpec

from .picks import DEVICES, TABLE, picks


@pytest.mark.parametrize("device", DEVICES, ids=lambda device: device.name)
def test_picks_are_those_of_the_table(device: DeviceSpec) -> None:
    expected = json.loads(TABLE.read_text("utf-8"))[device.name]
    found = picks(device)
    differences = {
        name: (expected.get(name), passes)
        for name, passes in found.items()
        if passes != expected.get(name)
    }
    assert differences == {}, "if they are meant: python -m tests.kernels.picks"
    assert found.keys() == expected.keys()


def test_the_table_has_these_devices() -> None:
    assert set(json.loads(TABLE.read_text("utf-8"))) == {device.name for device in DEVICES}
