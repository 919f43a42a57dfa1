"""Sphinx extension: the ledger's tables as a reader wants them.

``mcnn verify --update`` writes plain tables of eight columns. Here they become four: the claim with
its verdict and its figure, the slide's words, what was measured drawn against what is accepted, and
why. Every claim gets an anchor (``#claim-density-mnist``); ``ledger.js`` adds the filter.
"""

import re
from collections.abc import Sequence
from math import inf

from docutils import nodes
from sphinx.application import Sphinx

from mcnn.ledger import claims
from mcnn.ledger.claims import Claim

PAGE = "book/ledger"
_NUMBER = r"[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?"
_WIDE, _HIGH = 160, 18


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_js_file("ledger.js", loading_method="defer")
    app.connect("doctree-resolved", _rebuild)
    app.connect("html-page-context", _only_here)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _only_here(app: Sphinx, page: str, template: str, context: dict, doctree: object) -> None:
    if page != PAGE:
        scripts = context["script_files"]
        context["script_files"] = [s for s in scripts if "ledger.js" not in str(s.filename)]


def _rebuild(app: Sphinx, doctree: nodes.document, page: str) -> None:
    if page != PAGE:
        return
    known = claims.load()
    for table in list(doctree.findall(nodes.table)):
        head, body = next(table.findall(nodes.thead)), next(table.findall(nodes.tbody))
        names = [entry.astext() for entry in head.findall(nodes.entry)]
        if names[:1] == ["claim"]:
            _in_four(app, table, body, names, known)


def _in_four(
    app: Sphinx,
    table: nodes.table,
    body: nodes.tbody,
    names: Sequence[str],
    known: dict[str, Claim],
) -> None:
    group = nodes.tgroup("", cols=4)
    group += [nodes.colspec(colwidth=width) for width in (22, 27, 27, 24)]
    titles = ("claim and verdict", "the slide says", "measured, and accepted", "why")
    first = nodes.row()
    for title in titles:
        first += nodes.entry("", nodes.paragraph("", title))
    group += nodes.thead("", first)
    rows = nodes.tbody()
    for row in body.findall(nodes.row):
        cells = dict(zip(names, row.findall(nodes.entry), strict=True))
        rows += _row(app, cells, known)
    group += rows
    table.clear()
    table["classes"] += ["mcnn-ledger"]
    table += group


def _row(app: Sphinx, cells: dict[str, nodes.entry], known: dict[str, Claim]) -> nodes.row:
    text = {name: cell.astext() for name, cell in cells.items()}
    claim = known[text["claim"]]
    row = nodes.row(ids=[f"claim-{claim.id}"])
    verdict = nodes.paragraph("", text["verdict"], classes=["verdict"])
    figure = nodes.paragraph("", "", *_figure(app, claim))
    row += nodes.entry("", *_paragraphs(cells["claim"]), verdict, figure)
    row += nodes.entry("", *_paragraphs(cells["the slide says"]))
    number = [nodes.paragraph("", text["quantity"])]
    if text["measured"]:
        told = f"measured {text['measured']}, n = {text['n']}"
        if text["accepted"]:
            told += f"; accepted {text['accepted']}"
            drawn = draw(text["measured"], text["accepted"])
            number.append(nodes.paragraph("", "", nodes.raw("", drawn, format="html")))
        number.append(nodes.paragraph("", told))
    row += nodes.entry("", *number)
    row += nodes.entry("", *_paragraphs(cells["why"]))
    return row


def _figure(app: Sphinx, claim: Claim) -> list[nodes.Node]:
    """Return a link to the claim's figure or table, by its number, if the chapter has it."""
    page, place = app.env.get_domain("std").anonlabels.get(claim.cell, ("", ""))
    for kind, word in (("figure", "Fig."), ("table", "Table")):
        number = app.env.toc_fignumbers.get(page, {}).get(kind, {}).get(place)
        if number:
            target = f"{app.builder.get_relative_uri(PAGE, page)}#{place}"
            text = f"{word} {'.'.join(map(str, number))}"
            return [nodes.reference("", text, internal=True, refuri=target)]
    return []


def _paragraphs(entry: nodes.entry) -> list[nodes.Node]:
    return [child.deepcopy() for child in entry.children]


def span(text: str) -> tuple[float, float]:
    """Return the ends of an interval or range as the ledger writes it.

    Examples
    --------
    >>> span("0.5 ± 0.1"), span("≥ -0.01"), span("0 … 1e-12"), span("= 0")
    ((0.4, 0.6), (-0.01, inf), (0.0, 1e-12), (0.0, 0.0))
    """
    numbers = [float(n) for n in re.findall(_NUMBER, text)]
    if "±" in text:
        return numbers[0] - numbers[1], numbers[0] + numbers[1]
    if text.startswith("≥"):
        return numbers[0], inf
    if text.startswith("≤"):
        return -inf, numbers[0]
    return numbers[0], numbers[-1]


def draw(measured: str, accepted: str) -> str:
    """Draw an interval against the accepted range, as SVG: the range is a band, open at no end."""
    (low, high), (least, most) = span(measured), span(accepted)
    ends = [v for v in (low, high, least, most) if abs(v) < inf]
    start, stop = min(ends), max(ends)
    room = 0.2 * (stop - start) or 1.0
    start, stop = start - room, stop + room

    def x(value: float) -> float:
        return 2 + (_WIDE - 4) * (min(max(value, start), stop) - start) / (stop - start)

    band = max(x(most) - x(least), 2)
    line = f"M{x(low):.1f} 9H{x(high):.1f}M{x(low):.1f} 5v8M{x(high):.1f} 5v8"
    return (
        f'<svg class="mcnn-interval" viewBox="0 0 {_WIDE} {_HIGH}" role="img" '
        f'preserveAspectRatio="xMinYMid" '
        f'aria-label="measured {measured} against accepted {accepted}">'
        f'<rect x="{x(least) - (band == 2):.1f}" y="1" width="{band:.1f}" height="16"/>'
        f'<path d="{line}"/><circle cx="{x((low + high) / 2):.1f}" cy="9" r="3.5"/></svg>'
    )
