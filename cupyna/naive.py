"""The naive method: each product computed window by window, weights stored.

The functions of :mod:`cupyna` with ``method="naive"``.
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

explain = fix_method("explain", "naive")
na1d = fix_method("na1d", "naive")
na2d = fix_method("na2d", "naive")
na3d = fix_method("na3d", "naive")
na_av = fix_method("na_av", "naive")
na_av_backward = fix_method("na_av_backward", "naive")
na_qk = fix_method("na_qk", "naive")
na_qk_backward = fix_method("na_qk_backward", "naive")
neighborhood_attention = fix_method("neighborhood_attention", "naive")
neighborhood_attention_backward = fix_method("neighborhood_attention_backward", "naive")

declare_kernels()
