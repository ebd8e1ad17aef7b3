"""The table of compiled kernels: a row says everything about one variant.

Build, loader, dispatch, tests and the command line all read this table. One small function
lists the rows of one group of families.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from .direct.shapes import DIRECT_FORWARD_SHAPES, DIRECT_GRADIENT_SHAPES
from .fused.shapes import BESIDE_SHAPES, BIAS_SHAPES, FORWARD_SHAPES, GRADIENT_SHAPES
from .gemm.shapes import gemm_variants
from .hopper.gradient_shapes import HOPPER_GRADIENT_SHAPES
from .hopper.shapes import HOPPER_SHAPES
from .variant import ARCHITECTURES, Variant
from .window.ring_shapes import WINDOW_RING_SHAPES
from .window.shapes import WINDOW_FORWARD_SHAPES, WINDOW_GRADIENT_SHAPES

__all__ = ["VARIANTS", "Target", "Variant", "targets", "variant_of"]

Target = tuple[Variant, str]


def _naive() -> Iterator[Variant]:
    """QK, row softmax, AV and their gradients, one or several outputs per thread.

    Grids of fewer than three axes have leading axes of length one: rank changes no register.
    """
    for dtype in ("float16", "bfloat16", "float32", "float64"):
        for vector in (0, 1):
            for lanes in (4, 8, 16, 32):
                defines = (("VECTOR", vector), ("LANES", lanes))
                yield Variant("naive_scores", dtype, 0, threads=128, defines=defines)
            for family in ("naive_outputs", "naive_inverse", "naive_softmax_backward"):
                yield Variant(family, dtype, 0, threads=128, defines=(("VECTOR", vector),))
        for family in ("naive_pack", "naive_unpack"):
            yield Variant(family, dtype, 0, threads=128)
        yield Variant("naive_bias_gradient", dtype, 0, threads=512)
    # Scores wait in the accumulator's type.
    for dtype in ("float32", "float64"):
        yield Variant("naive_softmax", dtype, 0, threads=128)


def _fused() -> Iterator[Variant]:
    """Forward in one pass and backward in one or two, on tensor cores."""
    for dtype in ("float16", "bfloat16", "float32"):
        for shape in (*FORWARD_SHAPES, *GRADIENT_SHAPES, *BIAS_SHAPES, *BESIDE_SHAPES):
            if shape.item_bytes == (4 if dtype == "float32" else 2):
                yield shape.row(dtype)
                if shape.has_tf32:
                    yield shape.row(dtype, allow_tf32=True)
        yield Variant("fused_bias_sums", dtype, 0, threads=256)
        if dtype != "float32":
            for family in ("fused_statistics", "fused_query_gradients"):
                yield Variant(family, dtype, 0, threads=256)


def _hopper() -> Iterator[Variant]:
    """Forward and backward by TMA and WGMMA, on compute capability 9.0 alone."""
    for dtype in ("float16", "bfloat16"):
        for shape in HOPPER_SHAPES:
            yield shape.variant(dtype)
        for gradient_shape in HOPPER_GRADIENT_SHAPES:
            yield gradient_shape.variant(dtype)


def _window() -> Iterator[Variant]:
    """The fused forward and backward for small windows."""
    for dtype in ("float16", "bfloat16"):
        for shape in (*WINDOW_FORWARD_SHAPES, *WINDOW_GRADIENT_SHAPES):
            yield shape.row(dtype)
        for ring in WINDOW_RING_SHAPES:
            yield ring.variant(dtype)


def _direct() -> Iterator[Variant]:
    """The fused forward and backward for few keys, on CUDA cores."""
    for dtype in ("float16", "bfloat16", "float32"):
        for shape in (*DIRECT_FORWARD_SHAPES, *DIRECT_GRADIENT_SHAPES):
            if shape.item_bytes == (4 if dtype == "float32" else 2):
                yield shape.row(dtype)


def _copies() -> Iterator[Variant]:
    """Rows as they are given -> rows of whole vectors, and back."""
    for dtype in ("float16", "float32"):
        yield Variant("copy_rows", dtype, 0, threads=256)


VARIANTS: tuple[Variant, ...] = (
    *_naive(),
    *gemm_variants(),
    *_fused(),
    *_window(),
    *_direct(),
    *_hopper(),
    *_copies(),
)

_BY_ROW = {(v.family, v.dtype, v.rank, frozenset(v.defines)): v for v in VARIANTS}


def variant_of(family: str, dtype: str, rank: int, **defines: int) -> Variant:
    """Find the row of a family by what it is specialized for.

    Raises
    ------
    LookupError
        If the manifest has no such row.
    """
    try:
        return _BY_ROW[family, dtype, rank, frozenset(defines.items())]
    except KeyError:
        wanted = Variant(family, dtype, rank, threads=0, defines=tuple(defines.items()))
        raise LookupError(f"the manifest has no kernel {wanted.symbol}") from None


def targets(architectures: Iterable[str] = ARCHITECTURES) -> list[Target]:
    """List every variant with each of the given architectures that it is compiled for."""
    wanted = set(architectures)
    return [
        (variant, arch) for variant in VARIANTS for arch in variant.architectures if arch in wanted
    ]
