"""Sphinx extension: mathematics from the book's own files, so that no page needs another machine.

The SVG form of MathJax carries its glyphs, so a page opened from disk looks right in browsers that
refuse to load fonts from there.
"""

from importlib.metadata import files
from pathlib import Path
from shutil import copy2

from sphinx.application import Sphinx

_PACKAGE = "sphinx-mathjax-offline"  # data only: its own extension would copy 24 MB
_NEEDED = ("tex-svg.js", "input/tex/extensions/")


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("config-inited", _point_to_copy)
    app.connect("build-finished", _copy)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _point_to_copy(app: Sphinx, config: object) -> None:
    config.mathjax_path = "mathjax/tex-svg.js"  # below _static


def _copy(app: Sphinx, error: Exception | None) -> None:
    if error or app.builder.format != "html":
        return
    for file in files(_PACKAGE):
        name = file.as_posix().partition("/static/mathjax/")[2]
        if name.startswith(_NEEDED):
            target = Path(app.outdir, "_static", "mathjax", name)
            target.parent.mkdir(parents=True, exist_ok=True)
            copy2(file.locate(), target)
