"""Sphinx extension: the role ``{verdict}`density-mnist```, which links to a claim in the ledger.

What it shows is the verdict that the records give, so that prose never states one of its own.
"""

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxRole

from mcnn.ledger import claims, tables


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_role("verdict", Verdict())
    return {"parallel_read_safe": True, "parallel_write_safe": True}


class Verdict(SphinxRole):
    """The verdict on a claim, with its sign, as a link to the claim's line in the ledger."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """Return the link, or what is wrong with the name of the claim."""
        known = claims.load()
        if self.text not in known:
            told = f"{self.text} is no claim of claims.yml: name one that is there"
            message = self.inliner.reporter.error(told, line=self.lineno)
            return [nodes.problematic(self.rawtext, self.rawtext)], [message]
        shown = tables.sign(claims.judge(known[self.text]).verdict)
        place = f"../book/ledger.html#claim-{self.text}"
        return [nodes.reference(self.rawtext, shown, internal=True, refuri=place)], []
