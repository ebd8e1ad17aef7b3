"""Numbers of the paper, on an A100: the only ones on the pages that were typed."""

from __future__ import annotations

__all__ = ["PAPER_BEATEN", "PAPER_FLASH", "PAPER_GAINS"]

# Hassani, Hwu and Shi, "Faster Neighborhood Attention", NeurIPS 2024, on an A100. Tables 1 and 2:
# percent of problems matched or beaten, by dtype, dimensions and method.
PAPER_BEATEN: dict[tuple[str, str, str], dict[str, float]] = {
    ("float16", "1-D", "gemm"): {"naive": 98.7},
    ("float16", "1-D", "fused"): {"naive": 100, "gemm": 100},
    ("float16", "2-D", "gemm"): {"naive": 84.0},
    ("float16", "2-D", "fused"): {"naive": 100, "gemm": 100},
    ("float16", "3-D", "fused"): {"naive": 100},
    ("float32", "1-D", "gemm"): {"naive": 99.9, "fused": 37.7},
    ("float32", "1-D", "fused"): {"naive": 100, "gemm": 64.8},
    ("float32", "2-D", "gemm"): {"naive": 89.5, "fused": 28.1},
    ("float32", "2-D", "fused"): {"naive": 96.0, "gemm": 74.0},
    ("float32", "3-D", "fused"): {"naive": 100},
}
# FlashAttention-2 on the same tokens, Table 1.
PAPER_FLASH = {
    ("1-D", "gemm"): 54.2, ("1-D", "fused"): 98.2, ("2-D", "gemm"): 29.8, ("2-D", "fused"): 92.4,
    ("3-D", "naive"): 20.2, ("3-D", "fused"): 87.0,
}  # fmt: skip

# Tables 3 and 4: average, least and largest improvement in percent, by direction, dtype and
# dimensions, and by the faster and the slower method.
PAPER_GAINS = {
    ("forward", "float16", "1-D"): {
        ("gemm", "naive"): (548, -53, 3025), ("fused", "naive"): (1759, 60, 11885),
        ("fused", "gemm"): (180, 71, 466),
    },
    ("forward", "float16", "2-D"): {
        ("gemm", "naive"): (193, -57, 862), ("fused", "naive"): (958, 0, 7169),
        ("fused", "gemm"): (257, 38, 1199),
    },
    ("forward", "float16", "3-D"): {("fused", "naive"): (1135, 118, 5497)},
    ("forward", "float32", "1-D"): {
        ("gemm", "naive"): (874, -31, 3565), ("fused", "naive"): (978, 13, 4419),
        ("fused", "gemm"): (17, -54, 136),
    },
    ("forward", "float32", "2-D"): {
        ("gemm", "naive"): (386, -43, 1933), ("fused", "naive"): (564, -30, 4043),
        ("fused", "gemm"): (43, -53, 451),
    },
    ("forward", "float32", "3-D"): {("fused", "naive"): (712, 25, 3029)},
    ("forward+backward", "float16", "1-D"): {
        ("gemm", "naive"): (502, -48, 3017), ("fused", "naive"): (844, -20, 7605),
        ("fused", "gemm"): (57, -50, 229),
    },
    ("forward+backward", "float16", "2-D"): {
        ("gemm", "naive"): (92, -70, 474), ("fused", "naive"): (385, -61, 3723),
        ("fused", "gemm"): (150, -49, 855),
    },
    ("forward+backward", "float16", "3-D"): {("fused", "naive"): (447, -45, 2824)},
}  # fmt: skip
