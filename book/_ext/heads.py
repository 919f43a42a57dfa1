"""Sphinx extension: what a page says of itself to search engines and to those it is shared with."""

import html
import os
import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

_FIRST = re.compile(r"<p>(.+?)</p>", re.S)
_LENGTH = 200  # of a description, which search engines cut anyway
_CARD = "_static/card.png"


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("config-inited", _address)
    app.connect("html-page-context", _describe)
    app.connect("build-finished", _draw_card)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _address(app: Sphinx, config: Any) -> None:
    """Take the address of the site, which a card's picture needs, from whoever publishes it."""
    config.html_baseurl = os.environ.get("MCNN_BOOK_URL", config.html_baseurl or "")


def describe(body: str) -> str:
    """Return the beginning of a page's text as plain words."""
    for found in _FIRST.finditer(body):
        text = html.unescape(re.sub(r"<[^>]+>", "", found[1]))
        text = re.sub(r"\\[()]|\s+", " ", text).strip()
        if len(text) > 40:
            return text if len(text) <= _LENGTH else text[:_LENGTH].rsplit(" ", 1)[0] + " …"
    return ""


def _describe(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object
) -> None:
    told = describe(context.get("body", "")) or app.config.html_title or app.config.project
    title = re.sub(r"<[^>]+>", "", context.get("title", ""))
    base = app.config.html_baseurl.rstrip("/")
    up = "../" * page.count("/")
    entries = {
        "og:type": "article",
        "og:title": title,
        "og:description": told,
        "og:image": f"{base}/{_CARD}" if base else up + _CARD,
        "og:image:alt": "Samples fall on the weights of a neuron",
        "twitter:card": "summary_large_image",
    }
    tags = [f'<meta name="description" content="{html.escape(told)}">']
    tags += [f'<meta property="{k}" content="{html.escape(v)}">' for k, v in entries.items()]
    context["metatags"] = context.get("metatags", "") + "\n".join(tags)


def _draw_card(app: Sphinx, error: Exception | None) -> None:
    """Draw the card: the title over the weights of a neuron, with samples on them."""
    if error or app.builder.format != "html":
        return
    import torch
    from matplotlib.figure import Figure

    from mcnn.density.picture import example

    weight = example().weight
    ends = (weight.abs() / weight.abs().sum()).cumsum(0).tolist()
    figure = Figure(figsize=(12, 6.3), dpi=100, facecolor="white")
    ax = figure.add_axes((0.07, 0.1, 0.86, 0.4))
    for w, start, end in zip(weight.tolist(), [0.0, *ends], ends, strict=False):
        ax.barh(0, end - start - 0.004, left=start, color="#2b83ba" if w > 0 else "#d1730c")
    samples = (torch.arange(12) + 0.5) / 12
    ax.vlines(samples, 0.5, 1.1, color="#222222")
    ax.plot(samples, [1.1] * 12, "o", color="#222222")
    ax.set_xlim(0, 1)
    ax.axis("off")
    figure.text(0.07, 0.72, "Monte Carlo Methods\nand Neural Networks", fontsize=44, weight="bold")
    figure.text(0.07, 0.6, "a talk, worked through and measured", fontsize=24, color="#555555")
    figure.savefig(Path(app.outdir, _CARD))
