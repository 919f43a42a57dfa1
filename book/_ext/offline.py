"""Sphinx extension: nothing on a page comes from another machine.

Mathematics is set by the book's own copy of MathJax. Its SVG form carries its glyphs, so a page
opened from disk looks right in browsers that refuse to load fonts from there.
"""

from importlib.metadata import files
from pathlib import Path
from shutil import copy2
from typing import Any

from sphinx.application import Sphinx

_PACKAGE = "sphinx-mathjax-offline"  # data only: its own extension would copy 24 MB
_NEEDED = ("tex-svg.js", "input/tex/extensions/")


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("config-inited", _point_to_copy)
    app.connect("html-page-context", _leave_out_thebe)
    app.connect("build-finished", _copy)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _point_to_copy(app: Sphinx, config: object) -> None:
    config.mathjax_path = "mathjax/tex-svg.js"  # below _static


def _leave_out_thebe(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object
) -> None:
    """Leave out the loader of a live kernel, which Jupyter Book adds to every page, twice."""

    def of_thebe(script: Any) -> bool:
        return "thebe" in f"{script.filename} {script.attributes.get('body')}".lower()

    context["script_files"] = [s for s in context["script_files"] if not of_thebe(s)]


def _copy(app: Sphinx, error: Exception | None) -> None:
    if error or app.builder.format != "html":
        return
    for file in files(_PACKAGE):
        name = file.as_posix().partition("/static/mathjax/")[2]
        if name.startswith(_NEEDED):
            target = Path(app.outdir, "_static", "mathjax", name)
            target.parent.mkdir(parents=True, exist_ok=True)
            copy2(file.locate(), target)
