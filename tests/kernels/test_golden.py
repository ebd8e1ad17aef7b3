"""Every kernel compiles, spills nothing and takes what was recorded."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cupyna.kernels.building import Build
from cupyna.kernels.compiler import Compiler
from cupyna.kernels.manifest import targets
from cupyna.kernels.resources import read_golden
from cupyna.kernels.sources import installed_sources

# Another release of NVRTC may allocate registers a little differently; more is a regression.
REGISTER_SLACK = 1.1


@pytest.mark.build
@pytest.mark.timeout(1800)
def test_every_kernel_takes_what_was_recorded(
    compiler: Compiler, scratch: Path, tmp_path: Path
) -> None:
    recorded_by, golden = read_golden()
    if not compiler.identity.startswith("nvrtc"):
        pytest.skip("the table is recorded with NVRTC, and CUPYNA_NVCC chooses another compiler")
    job = Build(compiler, installed_sources(), tmp_path / "cubins", scratch)
    outcomes = list(job.run(targets(), os.cpu_count() or 1))
    assert [outcome.error for outcome in outcomes if outcome.record is None] == []
    differences = []
    for outcome in outcomes:
        assert outcome.record is not None
        now = outcome.record.resources
        then = golden[outcome.variant.symbol][outcome.arch]
        same = now == then
        if compiler.identity != recorded_by:
            same = (
                now.registers <= REGISTER_SLACK * then.registers
                and now.smem_bytes <= then.smem_bytes
                and now.stack_bytes <= then.stack_bytes
            )
        if not same:
            differences.append((outcome.variant.symbol, outcome.arch, then, now))
    assert differences == [], "if they are meant: cupyna build --all --record"
