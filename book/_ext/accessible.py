"""Sphinx extension: what axe-core finds wrong with the theme's pages, put right.

tests/test_browser.py holds every page against axe-core; a replacement here that no longer finds
what it replaces does no harm.
"""

import re
from pathlib import Path

from sphinx.application import Sphinx


def _joined(found: re.Match[str]) -> str:
    sign = "&nbsp;" + found[1]
    return sign + "&nbsp;" if found[1] == "±" else sign + found[0].partition("%")[2]


_REPLACED = (
    # A summary that is only an arrow says what it opens.
    (r"<summary>(?=<span class=\"toctree-toggle\")", '<summary aria-label="pages below this one">'),
    # Roles for books that are deprecated, or not allowed where docutils puts them.
    (r' role="doc-(?:biblioentry|biblioref|noteref|backlink|footnote)"', ""),
    (r'(<div) role="list" (class="citation-list")', r"\1 \2"),
    # The title beside the search is part of the navigation.
    (
        r'<(div|dialog)( [^>]*?)?class="(bd-sidebar-primary[^"]*)"',
        r'<\1\2role="navigation" aria-label="Book" class="\3"',
    ),
    # What opens is called by the words on it; a header without words is no header.
    (r'<summary aria-label="Toggle hidden content">', "<summary>"),
    (r"<th([^>]*)>(?:<p>)?\s*(?:</p>)?</th>", r"<td\1></td>"),
    # Icons become pictures with their titles as text, which is not what their button is called.
    (r'(<i class="theme-switch [^>]*?)\s+title="[\w ]+"', r'\1 aria-hidden="true"'),
    # An interval and a percent sign stay on the line of their number.
    (r"(?<=\d) (±|%) ?(?=\d|[ ,.;:)<])", _joined),
    # A button with words on it is called by them.
    (r'(class="btn search-button-field[^"]*") title="Search" aria-label="Search"', r"\1"),
)
_MATH = re.compile(r'<(span|div) class="math notranslate nohighlight"([^>]*)>(.*?)</\1>', re.S)
_TEX = re.compile(r"\\[(\[](.*)\\[)\]]", re.S)
_RULES = [(re.compile(pattern), new) for pattern, new in _REPLACED]


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("build-finished", _repair)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _repair(app: Sphinx, error: Exception | None) -> None:
    if error or app.builder.format != "html":
        return
    for page in Path(app.outdir).rglob("*.html"):
        if "_static" in page.parts:
            continue
        text = old = page.read_text(encoding="utf-8")
        for pattern, new in _RULES:
            text = pattern.sub(new, text)
        text = _MATH.sub(_spoken, text)
        if text != old:
            page.write_text(text, encoding="utf-8")


def _spoken(found: re.Match[str]) -> str:
    """Give a formula its TeX as a name: what MathJax draws in its place says nothing."""
    tag, rest, content = found.groups()
    tex = _TEX.search(content)
    if not tex or "aria-label" in rest:
        return found[0]
    name = re.sub(r"\s+", " ", tex[1]).strip().replace('"', "&quot;")
    return (
        f'<{tag} class="math notranslate nohighlight"{rest} role="math" aria-label="{name}">'
        f"{content}</{tag}>"
    )
