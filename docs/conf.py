"""Sphinx settings. The build needs no network."""

import re
from pathlib import Path

from cupyna import __version__
from cupyna.geometry import Axis
from cupyna.profiling.pages import unmeasured, write_pages
from cupyna.profiling.pictures import tile_picture
from cupyna.tiles import TilePlan

project = "cupyna"
author = "The cupyna authors"
copyright = f"2026, {author}"
version = release = __version__

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx-mathjax-offline",  # the pages show formulas without a network, too
]
exclude_patterns = ["_build", "generated", *unmeasured(Path(__file__).parent)]
nitpicky = False

html_theme = "furo"
html_title = "cupyna"
html_show_sourcelink = False

myst_enable_extensions = ["amsmath", "dollarmath"]
myst_heading_anchors = 3

autosummary_generate = True
# Apart from `inputs` also where file names have no case.
autosummary_filename_map = {"cupyna.testing.Inputs": "cupyna.testing.inputs_class"}
autodoc_typehints = "none"
numpydoc_show_class_members = False
# A public function documents each of its parameters and what it returns, in numpydoc's order.
numpydoc_validation_checks = {
    *("GL03", "GL07", "GL08", "PR01", "PR02", "PR03", "RT01", "SS01", "SS02"),
}
# Strategies are made by a decorator and have no source to find; fields are told by their class.
# na2d and na3d refer to na1d, and so do the layers.
numpydoc_validation_exclude = {
    r"^cupyna\.testing\b",
    r"^cupyna\.Explanation\.\w+$",
    r"^cupyna\.(torch\.)?na[23]d$",
    r"^cupyna\.torch\.NeighborhoodAttention[23]D$",
    r"^cupyna\.torch\.(models\.)?[A-Z]\w*\.\w+$",
}


def escape_shapes(app, what, name, obj, options, lines):
    """Keep the star of ``shape [batch, *spatial, ...]`` from opening an emphasis."""
    lines[:] = [re.sub(r"(shape \[batch, )\*", r"\1\\*", line) for line in lines]


def write_measured_parts(app):
    """Make tables and plots of every file of results; the pages hold no number that was typed."""
    write_pages(Path(app.srcdir))


def draw_tiles(app):
    """Draw the tiles of the gemm method from their plans."""
    pictures = Path(app.srcdir) / "generated"
    pictures.mkdir(exist_ok=True)
    axes = (Axis(length=32, kernel_size=13),) * 2
    queries = TilePlan(axes, (8, 8), (4, 4))
    keys = TilePlan(axes, (8, 8), (4, 4), "key")
    tiles = (("", queries, (1, 1)), ("-corner", queries, (0, 0)), ("-keys", keys, (0, 0)))
    for name, plan, index in tiles:
        picture = tile_picture(plan, index, (4, 4))
        (pictures / f"gemm-tile{name}.svg").write_text(picture, "utf-8")


def setup(app):
    """Write the tables before pages are read, and mend docstrings before numpydoc reads them."""
    app.connect("builder-inited", write_measured_parts)
    app.connect("builder-inited", draw_tiles)
    app.connect("autodoc-process-docstring", escape_shapes, priority=100)
