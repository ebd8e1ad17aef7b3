"""A tiny kernel and a compiler that compiles nothing."""

from __future__ import annotations

import dataclasses
from pathlib import Path

REPORT = """\
ptxas info    : Compiling entry function 'tiny' for 'sm_80'
ptxas info    : Function properties for tiny
ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 12 registers, used 1 barriers, 512 bytes smem, 360 bytes cmem[0]
"""

TINY = """\
#include "common/two.cuh"
#include "../common/two.cuh"
#include <cuda_bf16.h>
#include <cuda_fp16.h>

extern "C" __global__ void __launch_bounds__(CUPYNA_THREADS) CUPYNA_SYMBOL(CUPYNA_DTYPE* x) {
  __shared__ CUPYNA_DTYPE row[CUPYNA_THREADS];
  row[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  x[threadIdx.x] = row[CUPYNA_THREADS - 1 - threadIdx.x] * CUPYNA_DTYPE(two * CUPYNA_SCALE);
}
"""


@dataclasses.dataclass(frozen=True)
class CountingCompiler:
    """Writes a line for every compile and gives a cubin that depends on nothing else."""

    ledger: Path
    identity: str = "fake 1.0"
    log: str = REPORT

    def compile(
        self, source: Path, arch: str, options: tuple[str, ...], scratch: Path
    ) -> tuple[bytes, str]:
        with self.ledger.open("a") as ledger:
            ledger.write(f"{source.name} {arch}\n")
        return b"\x7fELF" + source.read_bytes() + " ".join(options[:-1]).encode(), self.log

    @property
    def count(self) -> int:
        return len(self.ledger.read_text().splitlines()) if self.ledger.exists() else 0
