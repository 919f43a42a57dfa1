"""The ledger as tables: for the README, the book, a chapter and a terminal."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

from mcnn.ledger import project
from mcnn.ledger.claims import Claim, Judgement
from mcnn.ledger.verdicts import tally, worst
from mcnn.stats import Interval

SIGNS = {
    "reproduced": "✔",
    "exceeded": "▲",
    "falls short": "▽",
    "open": "≈",
    "not run": "–",
    "stale": "↻",
    "contradicted": "✘",
    "reported": "○",
}
ROLES = {
    "talk": "The talk's claims",
    "reading": "Other readings",
    "extension": "Extensions",
    "source": "Part two: claims of other sources",
}


@dataclass(frozen=True)
class Row:
    """Claims that a short table shows in one line: one, or the items of a slide's list."""

    label: str
    members: tuple[Judgement, ...]

    @property
    def verdict(self) -> str:
        """The worst verdict of the members."""
        return worst(judgement.verdict for judgement in self.members)

    @property
    def shown(self) -> Judgement:
        """The first member with that verdict, whose numbers stand for the row."""
        return next(j for j in self.members if j.verdict == self.verdict)

    @property
    def name(self) -> str:
        """The id of a single claim; else the label with the number of claims."""
        if len(self.members) == 1:
            return f"`{self.shown.claim.id}`"
        return f"{self.label}, {len(self.members)} claims"

    @property
    def quote(self) -> str:
        """What the slides say, each sentence once."""
        return "; ".join(dict.fromkeys(f"“{j.claim.quote}”" for j in self.members))

    @property
    def quantity(self) -> str:
        """What was measured, and of which member."""
        of = f"`{self.shown.claim.id}`: " if len(self.members) > 1 else ""
        return of + quantity(self.shown)


def rows(judgements: Sequence[Judgement], role: str) -> list[Row]:
    """Gather the claims of a role into rows, in the order of the first of each."""
    groups: dict[str, list[Judgement]] = {}
    for judgement in judgements:
        if judgement.claim.role == role:
            groups.setdefault(judgement.claim.row or judgement.claim.id, []).append(judgement)
    return [Row(label, tuple(members)) for label, members in groups.items()]


def counted(judgements: Sequence[Judgement], role: str) -> str:
    """Count the verdicts on the rows of a role, in words."""
    return tally(row.verdict for row in rows(judgements, role))


def short(judgements: Sequence[Judgement], link: str) -> str:
    """Return the tally and the table of the talk's claims, one row each, and what is missing.

    Parameters
    ----------
    judgements
        From :func:`mcnn.ledger.claims.judge_all`.
    link
        Format of a link to a chapter, such as ``"../{notebook}"``.
    """
    talk = rows(judgements, "talk")
    head = ["claim", "the talk says", "quantity", "measured", "accepted", "n", "verdict"]
    lines = []
    for row in talk:
        name = _linked(row.name, row.shown.claim, link)
        lines.append([name, row.quote, row.quantity, *_numbers(row.shown), sign(row.verdict)])
    missing = [
        f"- `{judgement.claim.id}` is {judgement.verdict}: {judgement.reason}."
        for row in talk
        for judgement in row.members
        if judgement.verdict in ("open", "not run", "stale", "reported")
    ]
    text = f"Of {len(talk)}: {counted(judgements, 'talk')}.\n\n{markdown(head, lines)}"
    return text + ("\n\n" + "\n".join(missing) if missing else "")


def full(judgements: Sequence[Judgement], link: str) -> str:
    """Return a table for each role, one line a claim, with the reason of its range.

    Parameters
    ----------
    judgements
        From :func:`mcnn.ledger.claims.judge_all`.
    link
        Format of a link to a chapter, such as ``"../{notebook}"``.
    """
    head = ["claim", "the slide says", "quantity", "measured", "accepted", "n", "verdict", "why"]
    parts = []
    for role, title in ROLES.items():
        lines = []
        for judgement in (j for j in judgements if j.claim.role == role):
            claim = judgement.claim
            deck = {"both": "both decks", None: claim.source}.get(claim.deck, f"{claim.deck} deck")
            says = f"“{claim.quote}” (*{claim.slide}*, {deck})"
            name = _linked(f"`{claim.id}`", claim, link)
            numbers = _numbers(judgement)
            lines.append(
                [
                    name,
                    says,
                    quantity(judgement),
                    *numbers,
                    sign(judgement.verdict),
                    _why(judgement),
                ]
            )
        if lines:
            counts = counted(judgements, role)
            parts.append(f"**{title}**: {counts}.\n\n{markdown(head, lines)}")
    return "\n\n".join(parts)


def _why(judgement: Judgement) -> str:
    """Return why the range is as it is, and what the verdict rests on."""
    test = judgement.deciding.test if judgement.deciding else None
    first = test or next(iter(judgement.claim.tests), None)
    parts = [f"range: {first.reason}" if first else "", judgement.reason]
    return ". ".join(part for part in parts if part)


def details(judgement: Judgement) -> list[list[str]]:
    """Return table rows for a chapter: the claim, then each reading that decides or is shown."""
    claim = judgement.claim
    shown = [r for r in judgement.results if r.test or r.reading in claim.shown]
    others = len(judgement.results) - len(shown)
    metric = claim.metric.strip()
    if judgement.reason:
        metric += f" ({judgement.reason})"
    if others:
        metric += f"; {others} more reading{'s' * (others > 1)}: `mcnn verify {claim.id}`"
    lines = [[f"`{claim.id}`", metric, "", "", "", sign(judgement.verdict)]]
    for result in shown:
        accepted = str(result.test) if result.test else ""
        n, estimate = str(result.estimate.n), _estimate(result.estimate)
        lines.append(["", result.reading, estimate, accepted, n, sign(result.verdict)])
    return lines


def terminal(judgements: Sequence[Judgement], *, every_reading: bool = False) -> str:
    """Return the ledger for a terminal: the talk's claims first, those of part two last.

    Parameters
    ----------
    judgements
        From :func:`mcnn.ledger.claims.judge`.
    every_reading
        Whether to list all readings of each claim, with the reasons of the ranges.
    """
    parts = []
    for role, title in ROLES.items():
        if not (shown := rows(judgements, role)):
            continue
        lines = [f"{title}: {counted(judgements, role)}"]
        lines.append(_line("claim", "verdict", "measured", "accepted", "n", "records", "quantity"))
        for row in shown:
            indent = ""
            if len(row.members) > 1:
                lines.append(_line(row.label, row.verdict))
                indent = "  "
            for judgement in row.members:
                lines += _entry(judgement, indent)
                lines += _readings(judgement) if every_reading else []
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _entry(judgement: Judgement, indent: str) -> list[str]:
    claim = judgement.claim
    cells = [*_numbers(judgement), str(judgement.records or ""), quantity(judgement)]
    lines = [_line(indent + claim.id, judgement.verdict, *cells)]
    if judgement.reason:
        lines.append(f"{indent}    {judgement.reason}")
    return lines


def _readings(judgement: Judgement) -> list[str]:
    lines = []
    for result in judgement.results:
        test = result.test
        says = f"{test}: {result.verdict} ({test.reason})" if test else "reported"
        lines.append(f"    {result.reading:<44} {result.estimate!s:<20} {says}")
    return lines


def _line(*cells: str) -> str:
    widths = (27, 13, 19, 15, 3, 7, 0)
    return "  ".join(f"{c:<{w}}" for c, w in zip(cells, widths, strict=False)).rstrip()


def quantity(judgement: Judgement) -> str:
    """Return what the shown number is of: the reading, too, where there are several."""
    claim, result = judgement.claim, judgement.deciding
    several = len(claim.tests) + len(claim.shown) > 1
    return f"{claim.quantity} ({result.reading})" if result and several else claim.quantity


def _numbers(judgement: Judgement) -> list[str]:
    """Return what was measured, what is accepted, and the number of values."""
    if not judgement.results:
        return ["", "", ""]
    test = judgement.deciding.test
    estimate = _estimate(judgement.deciding.estimate)
    return [estimate, str(test) if test else "", str(judgement.values)]


def _estimate(estimate: Interval) -> str:
    return str(estimate) if isfinite(estimate.high) else f"{estimate.mean:.4g}"


def _linked(name: str, claim: Claim, link: str) -> str:
    """Return a name with a link to the chapter, if that is written."""
    if not (project.root() / claim.notebook).is_file():
        return name
    return f"[{name}]({link.format(notebook=claim.notebook)})"


def sign(verdict: str) -> str:
    """Return a verdict with its sign, for a table."""
    return f"{SIGNS[verdict]} {verdict}" if verdict else ""


def markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Write a Markdown table; bars and line breaks inside a cell would end it."""
    table = [list(head), ["---"] * len(head), *lines]
    cells = ([" ".join(c.split()).replace("|", "\\|") for c in row] for row in table)
    return "\n".join("| " + " | ".join(row) + " |" for row in cells)
