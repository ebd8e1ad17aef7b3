"""The diagnosis of machines that are not here."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from cupyna.kernels.diagnosis import Finding, diagnose
from cupyna.kernels.machine import Gpu, Machine, parse_gpus

HOPPER = Gpu("NVIDIA H200", (9, 0), "580.65.06")
READY = Machine(
    python="3.12.1",
    numpy="2.4.0",
    cupy="14.2.0",
    gpus=(HOPPER,),
    compiler="nvrtc 13.5.37",
    shipped=(("sm_80", 40), ("sm_90", 40)),
    wanted=(("sm_80", 40), ("sm_90", 40)),
    cache=Path("cache"),
)
REFUSAL = "the NVRTC wheel is not installed; install one with: pip install nvidia-cuda-nvrtc"


def found(machine: Machine, topic: str) -> Finding:
    (finding,) = (finding for finding in diagnose(machine) if finding.topic == topic)
    return finding


def test_a_machine_with_everything_has_no_problem() -> None:
    assert {finding.state for finding in diagnose(READY)} == {"ok"}
    assert found(READY, "GPU 0").text == "NVIDIA H200, compute capability 9.0, driver 580.65.06"
    assert found(READY, "kernels").text == "shipped: 40 for sm_80, 40 for sm_90"
    assert found(READY, "runs").text == "NumPy arrays; CuPy arrays on GPU 0"
    torch = dataclasses.replace(READY, torch="2.13")
    assert "torch tensors on GPU 0" in found(torch, "runs").text


@pytest.mark.parametrize(
    ("gpu", "numbers", "remedy"),
    [
        (Gpu("Tesla T4", (7, 5), "580.65.06"), ("7.5", "8.0"), "NumPy"),
        (Gpu("Thor", (11, 0), "580.65.06"), ("11.0", "8.x, 9.0, 10.x and 12.x"), "NumPy"),
        (Gpu("A100", (8, 0), "570.124.06"), ("570.124.06", "580"), "driver 580"),
    ],
)
def test_an_old_gpu_or_driver_gives_both_numbers(
    gpu: Gpu, numbers: tuple[str, str], remedy: str
) -> None:
    machine = dataclasses.replace(READY, gpus=(gpu,))
    finding = found(machine, "GPU 0")
    assert finding.state == "problem"
    assert all(number in finding.text for number in numbers)
    assert remedy in finding.remedy
    assert found(machine, "runs").text == "NumPy arrays"


def test_only_the_usable_gpus_are_said_to_run() -> None:
    machine = dataclasses.replace(READY, gpus=(Gpu("T4", (7, 5), "580.1"), HOPPER))
    assert found(machine, "runs").text == "NumPy arrays; CuPy arrays on GPU 1"


def test_no_gpu_is_no_problem() -> None:
    machine = dataclasses.replace(READY, gpus=(), cupy="")
    assert {finding.state for finding in diagnose(machine)} == {"ok", "note"}
    assert "no NVIDIA GPU found" in found(machine, "GPU").text
    assert found(machine, "runs").text == "NumPy arrays"


def test_a_missing_or_broken_cupy_names_the_command() -> None:
    missing = found(dataclasses.replace(READY, cupy=""), "CuPy")
    assert (missing.state, missing.remedy) == ("problem", 'pip install "cupyna[cuda]"')
    broken = dataclasses.replace(READY, cupy="", cupy_error="ImportError: libcudart.so.13")
    assert "libcudart.so.13" in found(broken, "CuPy").text
    assert found(broken, "runs").text == "NumPy arrays"


def test_a_missing_compiler_matters_only_without_shipped_kernels() -> None:
    bare = dataclasses.replace(READY, compiler="", compiler_refusal=REFUSAL)
    assert found(bare, "compiler").state == "note"
    unshipped = dataclasses.replace(bare, shipped=(("sm_80", 40),))
    finding = found(unshipped, "compiler")
    assert finding.state == "problem"
    assert "kernels for sm_90 are not shipped" in finding.text
    assert finding.remedy == 'pip install "nvidia-cuda-nvrtc>=13.4,<14"'
    assert found(unshipped, "runs").text == "NumPy arrays"


def test_stale_kernels_are_said() -> None:
    stale = dataclasses.replace(READY, shipped=(), shipped_is_stale=True)
    assert found(stale, "kernels").remedy == "cupyna build"
    assert "none are shipped" in found(dataclasses.replace(READY, shipped=()), "kernels").text


def test_the_driver_tool_is_read() -> None:
    printed = "NVIDIA H200, 9.0, 580.65.06\nOdd, named GPU, 12.0, 590.1\n[N/A]\n\n"
    assert parse_gpus(printed) == (
        HOPPER,
        Gpu("Odd, named GPU", (12, 0), "590.1"),
    )
