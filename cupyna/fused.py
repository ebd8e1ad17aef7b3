"""The fused method: one pass with an online softmax, nothing of size tokens x window stored.

As it stores no weights, it has none of the functions that take or give them.

The functions of :mod:`cupyna` with ``method="fused"``.
"""

from .fixed import declare_kernels, fix_method

__all__ = [
    "explain",
    "na1d",
    "na2d",
    "na3d",
    "neighborhood_attention",
    "neighborhood_attention_backward",
]

explain = fix_method("explain", "fused")
na1d = fix_method("na1d", "fused")
na2d = fix_method("na2d", "fused")
na3d = fix_method("na3d", "fused")
neighborhood_attention = fix_method("neighborhood_attention", "fused")
neighborhood_attention_backward = fix_method("neighborhood_attention_backward", "fused")

declare_kernels()
