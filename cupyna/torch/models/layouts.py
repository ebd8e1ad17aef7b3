"""The published layouts of the classifiers NAT and DiNAT.

From the papers' own training code [1]_ [2]_: channels, heads, layers and dilations of the four
levels. A level has half the resolution and twice the channels of the one before.

References
----------
.. [1] A. Hassani, S. Walton, J. Li, S. Li, H. Shi, "Neighborhood Attention Transformer",
   CVPR 2023.
.. [2] A. Hassani, H. Shi, "Dilated Neighborhood Attention Transformer", 2022.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

__all__ = ["LAYOUTS", "Layout"]


@dataclass(frozen=True, slots=True)
class Layout:
    """The shape of one classifier.

    Parameters
    ----------
    embed_dim : int
        Channels of the first level.
    depths, num_heads : tuple of int
        Layers and heads of each level.
    mlp_ratio : float
        Hidden channels of the two-layer perceptrons, relative to the level's.
    drop_path_rate : float
        Chance of the last layer to be skipped in training; it grows evenly from zero.
    kernel_size : int
        Along both axes.
    dilations : tuple of tuple of int
        Of each layer of each level, or empty where all are one.
    layer_scale : float or None
        Initial factor of what a layer adds; None for none.
    image_size : int
        Side of the images that it was trained on.
    """

    embed_dim: int
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    mlp_ratio: float
    drop_path_rate: float
    kernel_size: int = 7
    dilations: tuple[tuple[int, ...], ...] = ()
    layer_scale: float | None = None
    image_size: int = 224

    def dilation(self, level: int, layer: int) -> int:
        """Dilation of a layer."""
        return self.dilations[level][layer] if self.dilations else 1


def _dilated(depths: tuple[int, ...], widest: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """Dilations that go back and forth between one and the level's widest."""
    return tuple(
        tuple(wide if layer % 2 else 1 for layer in range(depth))
        for depth, wide in zip(depths, widest, strict=True)
    )


_MINI, _FULL = (3, 4, 6, 5), (3, 4, 18, 5)
_AT_224, _AT_384 = (8, 4, 2, 1), (13, 6, 3, 1)

_NAT = {
    "nat_mini": Layout(64, _MINI, (2, 4, 8, 16), 3.0, 0.2),
    "nat_tiny": Layout(64, _FULL, (2, 4, 8, 16), 3.0, 0.2),
    "nat_small": Layout(96, _FULL, (3, 6, 12, 24), 2.0, 0.3, layer_scale=1e-5),
    "nat_base": Layout(128, _FULL, (4, 8, 16, 32), 2.0, 0.5, layer_scale=1e-5),
}
_LARGE = Layout(192, _FULL, (4, 8, 16, 32), 2.0, 0.35, dilations=_dilated(_FULL, _AT_224))

LAYOUTS: Mapping[str, Layout] = {
    **_NAT,
    **{
        name.replace("nat", "dinat"): replace(
            layout, dilations=_dilated(layout.depths, _AT_224), layer_scale=None
        )
        for name, layout in _NAT.items()
    },
    "dinat_large": _LARGE,
    "dinat_large_384": replace(_LARGE, dilations=_dilated(_FULL, _AT_384), image_size=384),
    "dinat_large_384_11x11": replace(_LARGE, kernel_size=11, image_size=384),
}
