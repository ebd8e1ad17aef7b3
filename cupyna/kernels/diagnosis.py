"""What runs on a machine, what does not, and what to install."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from .compiler import INSTALL_COMMAND
from .machine import Gpu, Machine
from .variant import SERVED, architectures_on

__all__ = ["MINIMUM_CAPABILITY", "MINIMUM_DRIVER", "Finding", "diagnose"]

MINIMUM_CAPABILITY = (8, 0)
# The first driver of CUDA 13; every 13.x cubin loads on it.
MINIMUM_DRIVER = 580

_INSTALL_CUDA = 'pip install "cupyna[cuda]"'


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the diagnosis.

    Parameters
    ----------
    state : {"ok", "note", "problem"}
    topic, text : str
    remedy : str
        What to do about it, where something can be done.
    """

    state: Literal["ok", "note", "problem"]
    topic: str
    text: str
    remedy: str = ""


def diagnose(machine: Machine) -> tuple[Finding, ...]:
    """Say what runs on `machine`. A pure function: it asks no device and reads no file."""
    gpu_findings = [_gpu(index, gpu) for index, gpu in enumerate(machine.gpus)]
    usable = [finding.state == "ok" for finding in gpu_findings]
    findings = [
        Finding(
            "ok", "CPU", f"Python {machine.python}, NumPy {machine.numpy}: NumPy arrays run here"
        ),
        *gpu_findings,
    ]
    if not machine.gpus:
        findings.append(
            Finding(
                "note", "GPU", "no NVIDIA GPU found: only arrays in host memory can be computed"
            )
        )
    findings.append(_cupy(machine))
    findings.extend(_kernels(machine))
    findings.append(_summary(machine, usable, findings))
    return tuple(findings)


def _gpu(index: int, gpu: Gpu) -> Finding:
    topic = f"GPU {index}"
    capability = ".".join(map(str, gpu.compute_capability))
    label = f"{gpu.name}, compute capability {capability}, driver {gpu.driver}"
    if gpu.compute_capability < MINIMUM_CAPABILITY:
        minimum = ".".join(map(str, MINIMUM_CAPABILITY))
        return Finding(
            "problem",
            topic,
            f"{gpu.name} has compute capability {capability}, and {minimum} or newer is needed",
            "use the CPU here: pass NumPy arrays",
        )
    if not architectures_on(gpu.compute_capability):
        return Finding(
            "problem",
            topic,
            f"{gpu.name} has compute capability {capability}, and kernels are built for {SERVED}",
            "use the CPU here: pass NumPy arrays",
        )
    major = gpu.driver.partition(".")[0]
    if major.isdigit() and int(major) < MINIMUM_DRIVER:
        return Finding(
            "problem",
            topic,
            f"{gpu.name} has driver {gpu.driver}, and {MINIMUM_DRIVER} or newer is needed",
            f"install NVIDIA driver {MINIMUM_DRIVER} or newer",
        )
    return Finding("ok", topic, label)


def _cupy(machine: Machine) -> Finding:
    if machine.cupy:
        return Finding("ok", "CuPy", machine.cupy)
    if machine.cupy_error:
        text = f"installed, but importing it fails: {machine.cupy_error}"
        return Finding("problem", "CuPy", text, _INSTALL_CUDA)
    state: Literal["problem", "note"] = "problem" if machine.gpus else "note"
    text = "not installed: it carries the kernels to the GPU, for torch tensors too"
    return Finding(state, "CuPy", text, _INSTALL_CUDA if machine.gpus else "")


def _kernels(machine: Machine) -> Iterator[Finding]:
    counts = dict(machine.shipped)
    needed = [arch for gpu in machine.gpus for arch in architectures_on(gpu.compute_capability)]
    lacking = [
        arch for arch, number in machine.wanted if arch in needed and counts.get(arch, 0) < number
    ]
    if counts:
        listed = ", ".join(f"{count} for {arch}" for arch, count in counts.items() if count)
        yield Finding("ok", "kernels", f"shipped: {listed}")
    elif machine.shipped_is_stale:
        yield Finding(
            "note",
            "kernels",
            "the shipped ones were built from other sources and are not used",
            "cupyna build",
        )
    else:
        yield Finding("note", "kernels", "none are shipped with this installation")
    if machine.compiler:
        text = f"{machine.compiler}: kernels that are not shipped are compiled on first use"
        yield Finding("ok", "compiler", f"{text}, into {machine.cache}")
        return
    refusal = machine.compiler_refusal.partition("; install")[0]
    if lacking:
        text = f"{refusal}, and kernels for {', '.join(lacking)} are not shipped"
        yield Finding("problem", "compiler", text, INSTALL_COMMAND)
    else:
        yield Finding("note", "compiler", f"{refusal}; shipped kernels do not need it")


def _summary(machine: Machine, usable: list[bool], findings: list[Finding]) -> Finding:
    blocked = any(
        finding.state == "problem" and finding.topic in ("CuPy", "compiler") for finding in findings
    )
    host = "NumPy arrays" + (" and torch tensors on the CPU" if machine.torch else "")
    if not any(usable) or blocked or not machine.cupy:
        return Finding("ok", "runs", host)
    numbers = ", ".join(str(index) for index, works in enumerate(usable) if works)
    device = "CuPy arrays" + (" and torch tensors" if machine.torch else "")
    return Finding("ok", "runs", f"{host}; {device} on GPU {numbers}")
