"""Neighborhood attention for torch: gradients, compilers, modules and models.

Functions and modules have NATTEN's names, arguments and defaults.
"""

from . import vmap as _vmap
from .functional import na1d, na2d, na3d, na_av, na_qk, neighborhood_attention
from .merging import merge_attentions
from .modules import NeighborhoodAttention1D, NeighborhoodAttention2D, NeighborhoodAttention3D

__all__ = [
    "NeighborhoodAttention1D",
    "NeighborhoodAttention2D",
    "NeighborhoodAttention3D",
    "merge_attentions",
    "na1d",
    "na2d",
    "na3d",
    "na_av",
    "na_qk",
    "neighborhood_attention",
]

_vmap.register()
