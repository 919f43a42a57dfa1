"""Sphinx extension: a page loads nothing from another machine, and nothing that it does not need.

Mathematics is set by the book's own copy of MathJax, on the pages that have some. Its SVG form
carries its glyphs, so a page opened from disk looks right in browsers that refuse to load fonts
from there.
"""

import io
import json
import re
from importlib.metadata import files
from pathlib import Path
from shutil import copy2, rmtree
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

from PIL import Image
from sphinx.application import Sphinx

_PACKAGE = "sphinx-mathjax-offline"  # data only: its own extension would copy 24 MB
_NEEDED = ("tex-svg.js", "input/tex/extensions/")
# An icon of Font Awesome: its name, width, height, other names, code, and what is drawn.
_ICON = re.compile(
    r'(?:"([\w-]+)"|\b(\w+)):(\[\d+,\d+,\[([^\]]*)\],"[0-9a-f]+",)(?:"[^"]*"|\["[^"]*","[^"]*"\])\]'
)
_MAP = re.compile(r"\n?/[/*]# sourceMappingURL=\S+(?: \*/)?")


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("config-inited", _point_to_copy)
    app.connect("html-page-context", _leave_out_scripts)
    app.connect("build-finished", _copy)
    app.connect("build-finished", _drop_maps)
    app.connect("build-finished", _drop_outputs)
    app.connect("build-finished", _lighten)
    app.connect("build-finished", _drop_icons)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _point_to_copy(app: Sphinx, config: object) -> None:
    config.mathjax_path = "mathjax/tex-svg.js"  # below _static


def _leave_out_scripts(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object
) -> None:
    """Leave out the loader of a live kernel, which Jupyter Book adds to every page, twice.

    And MathJax, 2 MB of it, where there is no formula.
    """
    without = ["thebe"]
    if 'class="math' not in context.get("body", ""):
        without.append("mathjax")

    def needless(script: Any) -> bool:
        told = f"{script.filename} {script.attributes}".lower()
        return any(word in told for word in without)

    context["script_files"] = [s for s in context["script_files"] if not needless(s)]


def _copy(app: Sphinx, error: Exception | None) -> None:
    if error or app.builder.format != "html":
        return
    for file in files(_PACKAGE):
        name = file.as_posix().partition("/static/mathjax/")[2]
        if name.startswith(_NEEDED) and "all-packages" not in name:  # each comes alone, too
            target = Path(app.outdir, "_static", "mathjax", name)
            target.parent.mkdir(parents=True, exist_ok=True)
            copy2(file.locate(), target)


def _drop_maps(app: Sphinx, error: Exception | None) -> None:
    """Remove the theme's source maps, and the lines that name them: they are for its developers."""
    if error or app.builder.format != "html":
        return
    static = Path(app.outdir, "_static")
    for file in static.rglob("*.map"):
        file.unlink()
    for file in (*static.glob("scripts/*.js"), *static.glob("styles/*.css")):
        text = file.read_text(encoding="utf-8")
        if _MAP.search(text):
            file.write_text(_MAP.sub("", text), encoding="utf-8")


def _drop_outputs(app: Sphinx, error: Exception | None) -> None:
    """Offer the notebooks for download without their outputs, 5 MB of them that the pages show.

    All of them are in one archive, too.
    """
    if error or app.builder.format != "html":
        return
    with ZipFile(Path(app.outdir, "_static", "notebooks.zip"), "w", ZIP_DEFLATED) as archive:
        for file in sorted(Path(app.outdir, "_sources", "notebooks").glob("*.ipynb")):
            notebook = json.loads(file.read_text(encoding="utf-8"))
            for cell in notebook["cells"]:
                if cell["cell_type"] == "code":
                    cell.update(outputs=[], execution_count=None)
            text = json.dumps(notebook, indent=1, ensure_ascii=False)
            file.write_text(text, encoding="utf-8")
            archive.writestr(f"notebooks/{file.name}", text)


def _lighten(app: Sphinx, error: Exception | None) -> None:
    """Give figures a palette, which makes them small, and leave out what no reader gets to see.

    That is fonts for browsers of long ago, and the theme's words in other languages.
    """
    if error or app.builder.format != "html":
        return
    for file in Path(app.outdir, "_images").glob("*.png"):
        with Image.open(file) as image:
            small = image.convert("RGBA").quantize(256, method=Image.Quantize.FASTOCTREE)
        packed = io.BytesIO()
        small.save(packed, "PNG", optimize=True)
        if packed.tell() < file.stat().st_size:
            file.write_bytes(packed.getvalue())
    for font in Path(app.outdir, "_static").rglob("*.ttf"):
        if font.with_suffix(".woff2").exists():
            font.unlink()
    rmtree(Path(app.outdir, "_static", "locales"), ignore_errors=True)


def _drop_icons(app: Sphinx, error: Exception | None) -> None:
    """Keep what is drawn of the icons that a page or a script names: 2,000 others are 1.3 MB."""
    if error or app.builder.format != "html":
        return
    scripts = Path(app.outdir, "_static", "scripts")
    whole = scripts / "fontawesome.js"
    named: set[str] = set()
    for file in (*Path(app.outdir).rglob("*.html"), *scripts.glob("*.js")):
        if file != whole:
            named.update(re.findall(r"\bfa-([\w-]+)", file.read_text(encoding="utf-8")))

    def kept(icon: re.Match[str]) -> str:
        names = {icon[1] or icon[2], *re.findall(r'"([\w-]+)"', icon[4])}
        return icon[0] if names & named else f'"{icon[1] or icon[2]}":{icon[3]}""]'

    whole.write_text(_ICON.sub(kept, whole.read_text(encoding="utf-8")), encoding="utf-8")
