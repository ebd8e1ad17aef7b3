"""The table of kernels, and which architecture serves which device."""

from __future__ import annotations

import re

import pytest

from cupyna.kernels.manifest import VARIANTS, targets, variant_of
from cupyna.kernels.resources import read_golden
from cupyna.kernels.sources import installed_sources
from cupyna.kernels.variant import ARCHITECTURES, Variant, architecture_of, architectures_on
from cupyna.profiling.gpus import GPUS

# Each row is up to four cubins in every wheel and up to four compiles in every check.
MOST_VARIANTS = 356

PORTABLE = Variant("tiny", "float16", 2, 128)
HOPPER = Variant("tiny", "float16", 2, 128, hopper=True)


@pytest.mark.parametrize(
    ("capability", "portable", "hopper"),
    [
        ((8, 0), "sm_80", None),
        ((8, 6), "sm_80", None),
        ((8, 9), "sm_80", None),
        ((9, 0), "sm_90", "sm_90a"),
        ((10, 0), "sm_100", None),
        ((10, 3), "sm_100", None),
        ((12, 0), "sm_120", None),
        ((12, 1), "sm_120", None),
        ((7, 5), None, None),
        ((11, 0), None, None),
        ((13, 0), None, None),
    ],
)
def test_a_capability_has_one_architecture_or_a_refusal(
    capability: tuple[int, int], portable: str | None, hopper: str | None
) -> None:
    found = []
    for variant, expected in ((PORTABLE, portable), (HOPPER, hopper)):
        if expected is None:
            here = re.escape("{}.{}".format(*capability))
            served = "9.0" if variant.hopper else "8.x, 9.0, 10.x and 12.x"
            with pytest.raises(ValueError, match=rf"{re.escape(served)}.*{here}$"):
                architecture_of(variant, capability)
        else:
            assert architecture_of(variant, capability) == expected
            assert expected in variant.architectures
            found.append(expected)
    assert architectures_on(capability) == tuple(found)


def test_a_row_gives_symbol_source_and_defines() -> None:
    row = Variant("fused", "bfloat16", 3, 256, 98304, (("HEAD_DIM", 64), ("STAGES", 2)))
    assert row.symbol == "cupyna_fused_bfloat16_3d_head_dim64_stages2"
    assert row.source == "kernels/fused.cu"
    assert set(row.define_list) == {
        f"CUPYNA_SYMBOL={row.symbol}",
        "CUPYNA_DTYPE=__nv_bfloat16",
        "CUPYNA_RANK=3",
        "CUPYNA_THREADS=256",
        "CUPYNA_SMEM_BYTES=98304",
        "CUPYNA_HEAD_DIM=64",
        "CUPYNA_STAGES=2",
    }


def test_the_manifest_is_small_and_without_doubles() -> None:
    assert len(VARIANTS) <= MOST_VARIANTS
    assert len({variant.symbol for variant in VARIANTS}) == len(VARIANTS)
    assert len(targets()) == sum(len(variant.architectures) for variant in VARIANTS)
    assert all(re.fullmatch(r"[a-z0-9_]+", variant.symbol) for variant in VARIANTS)


def test_every_row_is_found_by_what_it_is_specialized_for() -> None:
    for row in VARIANTS:
        assert variant_of(row.family, row.dtype, row.rank, **dict(row.defines)) is row
    with pytest.raises(LookupError, match="cupyna_absent_float32_2d_head_dim7"):
        variant_of("absent", "float32", 2, HEAD_DIM=7)


def test_every_row_has_a_source_and_every_entry_point_a_row() -> None:
    root = installed_sources().root
    entries = {path.relative_to(root).as_posix() for path in root.glob("kernels/*.cu")}
    assert {variant.source for variant in VARIANTS} == entries


def test_the_recorded_resources_are_of_these_kernels_and_none_spills() -> None:
    _, golden = read_golden()
    recorded = {(symbol, arch) for symbol, row in golden.items() for arch in row}
    wanted = {(variant.symbol, arch) for variant, arch in targets()}
    assert recorded == wanted, "record them with: cupyna build --all --record"
    assert all(entry.spill_bytes == 0 for row in golden.values() for entry in row.values())


@pytest.mark.parametrize("name", GPUS)
def test_what_a_device_can_hold_is_compiled_for_it(name: str) -> None:
    device = GPUS[name].spec
    for variant in VARIANTS:
        fits = variant.is_elastic or variant.smem_bytes <= device.smem_bytes
        if not variant.hopper and fits:
            arch = architecture_of(variant, device.compute_capability)
            assert arch in variant.architectures, variant.symbol


def test_architectures_are_listed_once() -> None:
    assert len(set(ARCHITECTURES)) == len(ARCHITECTURES)
