"""Pictures of tile plans for the documentation, as SVG."""

from __future__ import annotations

import itertools
import math

from ..tiles import Tile, TilePlan

__all__ = ["tile_picture"]

_CELL = 10
_COLORS = {
    "grid": "#f4f4f4", "edge": "#f6c453", "dense": "#7fb77e", "tile": "#2f5d8a",
    "warp": "#ffffff",
}  # fmt: skip


def tile_picture(plan: TilePlan, index: tuple[int, int], warp_tile: tuple[int, int]) -> str:
    """One tile on a plane, its box, and which parts of the box need a mask.

    Parameters
    ----------
    plan : TilePlan
        A plan of two axes without dilation.
    index : (int, int)
        Which tile along each axis.
    warp_tile : (int, int)
        Extents of the boxes of tokens that one warp owns.

    Returns
    -------
    str
        An SVG document. Tokens of the tile are blue, with lines between warps; box tiles that
        every token of the tile sees whole are green, others yellow.

    Raises
    ------
    ValueError
        If the plan is not a plane without dilation.
    """
    if len(plan.axes) != 2 or any(axis.dilation != 1 for axis in plan.axes):
        raise ValueError(f"plan must have two axes without dilation, got {plan.axes}")
    along = plan.axis_tiles
    tile = Tile((along[0][index[0]], along[1][index[1]]))
    height, width = (axis.length for axis in plan.axes)
    shapes = [_box((0, 0), (height, width), _COLORS["grid"], "#dddddd")]
    shapes += [
        _box(part.begin, part.end, _COLORS["dense" if part.is_dense else "edge"], "#888888")
        for part in plan.box_tiles(tile)
    ]
    corners = [
        range(own.begin, own.end, step) for own, step in zip(tile.axes, warp_tile, strict=True)
    ]
    for x, y in itertools.product(*corners):
        ends = tuple(
            min(begin + step, own.end)
            for begin, step, own in zip((x, y), warp_tile, tile.axes, strict=True)
        )
        shapes.append(_box((x, y), ends, _COLORS["tile"], _COLORS["warp"]))
    size = f'viewBox="0 0 {width * _CELL} {height * _CELL}"'
    wide = math.ceil(width * _CELL * 0.8)
    body = "\n".join(shapes)
    return f'<svg xmlns="http://www.w3.org/2000/svg" width="{wide}" {size}>\n{body}\n</svg>\n'


def _box(begin: tuple[int, ...], end: tuple[int, ...], fill: str, stroke: str) -> str:
    (top, left), (bottom, right) = begin, end
    x, y = left * _CELL, top * _CELL
    return (
        f'<rect x="{x}" y="{y}" width="{(right - left) * _CELL}" '
        f'height="{(bottom - top) * _CELL}" fill="{fill}" stroke="{stroke}"/>'
    )
