"""Sphinx extension: every page of a chapter ends with links to what stands behind it."""

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx

from mcnn.ledger import claims


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("doctree-read", _append)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _append(app: Sphinx, doctree: nodes.document) -> None:
    page = app.env.docname
    if not page.startswith("notebooks/"):
        return
    stem = page.split("/")[1].partition("_")[0]  # of the chapter that the page belongs to
    first = next((c for c in claims.load().values() if c.chapter == stem), None)
    line = nodes.paragraph("", "Behind this chapter: ", classes=["mcnn-behind"])
    if f"book/api/{stem}" in app.env.found_docs:
        line += [
            _link(page, f"/book/api/{stem}", f"the functions of mcnn.{stem}"),
            nodes.Text(", "),
        ]
    if first:
        target = nodes.reference("", "its claims in the ledger", internal=True)
        target["refuri"] = f"../book/ledger.html#claim-{first.id}"
        line += [target, nodes.Text(", ")]
    line += [
        _link(page, "/book/status", "its experiments and their records"),
        nodes.Text(", and "),
        _link(page, "/book/reproduce", "how to run it again"),
        nodes.Text("."),
    ]
    next(doctree.findall(nodes.section)).append(line)


def _link(page: str, target: str, text: str) -> addnodes.pending_xref:
    return addnodes.pending_xref(
        "",
        nodes.inline("", text),
        refdomain="std",
        reftype="doc",
        reftarget=target,
        refexplicit=True,
        refdoc=page,
        refwarn=True,
    )
