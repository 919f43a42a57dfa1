"""What the first page says of the records: the tally, three findings, and a line per chapter."""

from collections.abc import Sequence

import yaml

from mcnn.errors import UsageError
from mcnn.ledger import project
from mcnn.ledger.claims import Judgement
from mcnn.ledger.tables import counted, markdown, quantity, rows, sign
from mcnn.ledger.verdicts import tally

CHAPTERS = "book/chapters.yml"

# Findings of the first page: the claim, its picture, and what it means in a sentence.
FINDINGS = {
    "density-mnist": (
        "density-mnist.png",
        "Does a neuron need all of its weights?",
        "Draw 94 samples from each neuron's 784 weights, count how often each comes up, and use "
        "the counts as weights. Nothing is trained again.",
    ),
    "paths-accuracy": (
        "paths-accuracy.png",
        "Can a network be sampled before it is trained?",
        "Take random paths from input to output, and train their edges alone.",
    ),
    "linear-cost": (
        "linear-cost.png",
        "Are networks of a constant number of weights per neuron linear?",
        "Operations grow as the width does, not as its square. Whether the seconds follow is a "
        "question to the machine.",
    ),
}


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
    for name, finding in FINDINGS.items():
        if name not in by_id:
            raise UsageError(f"the first page shows {name}, which is no claim: {__name__} names it")
        parts.append(_finding(by_id[name], *finding, link))
    parts += ["## The chapters", _chapters(judgements, link)]
    return "\n\n".join(parts)


def _finding(judgement: Judgement, picture: str, title: str, meaning: str, link: str) -> str:
    claim = judgement.claim
    chapter = link.format(notebook=claim.notebook)
    test = judgement.deciding.test if judgement.deciding else None
    accepted = f", accepted {test}" if test else ""
    measured = f"{quantity(judgement)}: {judgement.measured}{accepted}, n = {judgement.values}"
    return (
        "::::{grid} 1 1 2 2\n:gutter: 3\n\n:::{grid-item}\n"
        f"![{title}](_static/{picture})\n:::\n\n:::{{grid-item}}\n"
        f"**{title}** {meaning}\n\n"
        f"The slide: “{claim.quote}”. Measured: {measured}. "
        f'<a href="ledger.html#claim-{claim.id}">{sign(judgement.verdict)}</a>\n\n'
        f"From [the chapter]({chapter}).\n:::\n::::"
    )


def _chapters(judgements: Sequence[Judgement], link: str) -> str:
    """Return a line per chapter: what it asks, and what became of the talk's claims in it."""
    known = yaml.safe_load((project.root() / CHAPTERS).read_text(encoding="utf-8"))
    talk = rows(judgements, "talk")
    unknown = {row.shown.claim.chapter for row in talk} - set(known)
    if unknown:
        raise UsageError(f"{CHAPTERS} does not say what {', '.join(sorted(unknown))} asks")
    lines = []
    for stem, chapter in known.items():
        own = [row.verdict for row in talk if row.shown.claim.chapter == stem]
        name = f"[{chapter['name']}]({link.format(notebook=f'notebooks/{stem}.ipynb')})"
        lines.append([name, chapter["asks"], tally(own) if own else ""])
    return markdown(["chapter", "asks", "the talk's claims"], lines)
