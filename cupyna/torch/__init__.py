"""Neighborhood attention for torch: gradients, compilers, modules and models.

Functions and modules have NATTEN's names, arguments and defaults.
"""

from . import vmap as _vmap
from .functional import na1d, na2d, na3d, na_av, na_qk, neighborhood_attention
from .merging import merge_attentions

__all__ = [
    "merge_attentions",
    "na1d",
    "na2d",
    "na3d",
    "na_av",
    "na_qk",
    "neighborhood_attention",
]

_vmap.register()
