"""Sphinx extension: interactive pictures and the map of ideas, as figures of the book.

``picture`` shows what ``example()`` of a module returns, as a notebook would show it; `ideas` draws
``book/chapters.yml``. Both stand still where there is no JavaScript.
"""

import html
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml
from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

CHAPTERS = Path(__file__).resolve().parents[1] / "chapters.yml"
# The map, in units of its drawing: as wide as a phone, so that its text is legible there.
_WIDE, _DOWN, _BOX = 136, 84, (118, 34)


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("picture", _Picture)
    app.add_directive("ideas", _Ideas)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


class _Figure(SphinxDirective):
    """A figure of raw HTML; the content of the directive is its caption."""

    has_content = True
    option_spec = {"name": directives.unchanged_required}  # noqa: RUF012  (as docutils has it)

    def figure(self, page: str) -> list[nodes.Node]:
        self.assert_has_content()
        figure = nodes.figure("", nodes.raw("", page, format="html"), classes=["mcnn-picture"])
        self.set_source_info(figure)
        told = nodes.Element()
        self.state.nested_parse(self.content, self.content_offset, told)
        caption = nodes.caption("", "", *told.children[0].children)
        self.set_source_info(caption)
        figure += caption
        self.add_name(figure)
        return [figure]


class _Picture(_Figure):
    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        return self.figure(import_module(self.arguments[0]).example()._repr_html_())


class _Ideas(_Figure):
    def run(self) -> list[nodes.Node]:
        self.env.note_dependency(str(CHAPTERS))
        ideas = yaml.safe_load(CHAPTERS.read_text(encoding="utf-8"))
        return self.figure(draw(ideas))


def rows(ideas: dict[str, dict[str, Any]]) -> dict[str, int]:
    """Return how many steps each idea is from the start, along the longest way.

    An idea whose place is taken stands below.
    """
    found: dict[str, int] = {}
    taken: set[tuple[int, int]] = set()
    for stem, idea in ideas.items():
        row = 1 + max((found[before] for before in idea.get("from", {})), default=-1)
        while (idea["column"], row) in taken:
            row += 1
        found[stem] = row
        taken.add((idea["column"], row))
    return found


def draw(ideas: dict[str, dict[str, Any]]) -> str:
    """Draw boxes that are links, and arrows that say what leads from one to the next."""
    row = rows(ideas)
    (wide, high), columns = _BOX, 1 + max(idea["column"] for idea in ideas.values())
    centre = {
        stem: (_WIDE * (idea["column"] + 0.5), _DOWN * row[stem] + high / 2 + 4)
        for stem, idea in ideas.items()
    }
    parts = []
    for stem, idea in ideas.items():
        for before, label in idea.get("from", {}).items():
            (x0, y0), (x1, y1) = centre[before], centre[stem]
            y0, y1 = y0 + high / 2, y1 - high / 2
            x0, x1 = x0 + 0.18 * (x1 - x0), x1 - 0.18 * (x1 - x0)
            parts.append(f'<path d="M{x0:.0f} {y0:.0f}L{x1:.0f} {y1 - 3:.0f}"/>')
            # Where two arrows meet or part, what leads sideways says so at another height.
            across, down = 0.7, 0.35
            if row[stem] - row[before] > 1:  # past a box of the row between
                across, down = 0.8, 0.8
            if x0 == x1:
                down = 0.75 if row[stem] - row[before] == 1 else 0.5
            x, y = x0 + across * (x1 - x0), y0 + down * (y1 - y0) + 4
            parts.append(f'<text class="why" x="{x:.0f}" y="{y:.0f}">{html.escape(label)}</text>')
    for stem, idea in ideas.items():
        x, y = centre[stem]
        parts.append(
            f'<a href="../notebooks/{stem}.html">'
            f'<rect x="{x - wide / 2:.0f}" y="{y - high / 2:.0f}" width="{wide}" height="{high}" '
            f'rx="5"/><text x="{x:.0f}" y="{y + 5:.0f}">{html.escape(idea["name"])}</text></a>'
        )
    size = f"0 0 {columns * _WIDE} {_DOWN * max(row.values()) + high + 8}"
    arrow = (
        '<marker id="mcnn-arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0 0 8 4 0 8z"/></marker>'
    )
    return f'<svg class="mcnn-ideas" viewBox="{size}">{arrow}{"".join(parts)}</svg>'
