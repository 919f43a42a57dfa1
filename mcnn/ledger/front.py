"""What the first page says of the records: the tally, three findings, and a line per chapter."""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from mcnn.errors import UsageError
from mcnn.ledger import project
from mcnn.ledger.claims import Judgement
from mcnn.ledger.tables import counted, markdown, quantity, rows, sign
from mcnn.ledger.verdicts import tally

CHAPTERS, FINDINGS = "book/chapters.yml", "book/findings.yml"


def front(judgements: Sequence[Judgement], link: str) -> str:
    """Return the tally, the findings and the chapters, for the first page of the book.

    Parameters
    ----------
    judgements
        From :func:`mcnn.ledger.claims.judge_all`.
    link
        Format of a link to a chapter, such as ``"../{notebook}"``.

    Raises
    ------
    UsageError
        If a finding is no claim any more, or ``book/chapters.yml`` lacks a chapter.
    """
    talk = rows(judgements, "talk")
    parts = [
        "## What was found",
        f"**The talk makes {len(talk)} claims that a program can decide: "
        f"{counted(judgements, 'talk')}.**\n"
        "[The ledger](ledger.md) has each of them, with what was measured and what was accepted.",
    ]
    by_id = {judgement.claim.id: judgement for judgement in judgements}
    for finding in _read(FINDINGS):
        name = finding["claim"]
        if name not in by_id:
            raise UsageError(f"{FINDINGS} shows {name}, which is no claim")
        parts.append(_finding(by_id[name], finding, link))
    parts += ["## The chapters", _chapters(judgements, link)]
    return "\n\n".join(parts)


def _read(name: str) -> Any:
    return yaml.safe_load((project.root() / name).read_text(encoding="utf-8"))


def _finding(judgement: Judgement, finding: Mapping[str, str], link: str) -> str:
    claim = judgement.claim
    chapter = link.format(notebook=claim.notebook)
    test = judgement.deciding.test if judgement.deciding else None
    accepted = f", accepted {test}" if test else ""
    measured = f"{quantity(judgement)}: {judgement.measured}{accepted}, n = {judgement.values}"
    return (
        "::::{grid} 1 1 2 2\n:gutter: 3\n\n:::{grid-item}\n"
        f"![{finding['asks']}](_static/{finding['picture']})\n:::\n\n:::{{grid-item}}\n"
        f"**{finding['asks']}** {finding['means']}\n\n"
        f"The slide: “{claim.quote}”. Measured: {measured}. "
        f'<a href="ledger.html#claim-{claim.id}">{sign(judgement.verdict)}</a>\n\n'
        f"From [the chapter]({chapter}).\n:::\n::::"
    )


def _chapters(judgements: Sequence[Judgement], link: str) -> str:
    """Return a line per chapter: what it asks, and what became of its source's claims in it."""
    known = _read(CHAPTERS)
    claimed = rows(judgements, "talk") + rows(judgements, "source")
    unknown = {row.shown.claim.chapter for row in claimed} - set(known)
    if unknown:
        raise UsageError(f"{CHAPTERS} does not say what {', '.join(sorted(unknown))} asks")
    lines = []
    for stem, chapter in known.items():
        own = [row.verdict for row in claimed if row.shown.claim.chapter == stem]
        name = f"[{chapter['name']}]({link.format(notebook=f'notebooks/{stem}.ipynb')})"
        lines.append([name, chapter["asks"], tally(own) if own else ""])
    return markdown(["chapter", "asks", "what it claims"], lines)
