"""The gemm method: products of whole tiles on tensor cores or BLAS, weights stored.

The functions of :mod:`cupyna` with ``method="gemm"``.
"""

from .fixed import declare_kernels, fix_method

__all__ = [
    "explain",
    "na1d",
    "na2d",
    "na3d",
    "na_av",
    "na_av_backward",
    "na_qk",
    "na_qk_backward",
    "neighborhood_attention",
    "neighborhood_attention_backward",
]

explain = fix_method("explain", "gemm")
na1d = fix_method("na1d", "gemm")
na2d = fix_method("na2d", "gemm")
na3d = fix_method("na3d", "gemm")
na_av = fix_method("na_av", "gemm")
na_av_backward = fix_method("na_av_backward", "gemm")
na_qk = fix_method("na_qk", "gemm")
na_qk_backward = fix_method("na_qk_backward", "gemm")
neighborhood_attention = fix_method("neighborhood_attention", "gemm")
neighborhood_attention_backward = fix_method("neighborhood_attention_backward", "gemm")

declare_kernels()
