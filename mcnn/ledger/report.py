"""What the book says of the records: tables of verdicts, and prose with recorded numbers in it.

Objects here show themselves in a notebook through the usual ``_repr_markdown_``; nothing of
Jupyter is imported.
"""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

from mcnn.errors import UsageError
from mcnn.ledger import claims, project, records, registry, runner
from mcnn.ledger.claims import Judgement
from mcnn.stats import Interval

_SIGNS = {
    "reproduced": "✔",
    "contradicted": "✘",
    "inconclusive": "≈",
    "not run": "–",
    "stale": "↻",
}


@dataclass(frozen=True)
class Markdown:
    """Prose that a cell makes, so that the numbers in it come from records."""

    text: str

    def _repr_markdown_(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return self.text


def claims_table(chapter: str) -> Markdown:
    """Return the claims of a chapter: what was measured, what was accepted, and the verdict.

    Parameters
    ----------
    chapter
        Stem, such as ``"density"``.

    Raises
    ------
    UsageError
        If no claim belongs to the chapter.
    """
    chosen = [c for c in claims.load().values() if c.chapter == chapter]
    if not chosen:
        raise UsageError(f"no claim belongs to the chapter {chapter!r}")
    rows = [row for claim in chosen for row in _details(claims.judge(claim))]
    head = ["claim", "reading", "measured", "accepted", "n", "verdict"]
    return Markdown(_table(head, rows))


def _details(judgement: Judgement) -> list[list[str]]:
    """Return a row for the claim and one for each reading that decides it."""
    claim = judgement.claim
    metric = claim.metric.strip()
    others = sum(result.test is None for result in judgement.results)
    if judgement.reason:
        metric += f" ({judgement.reason})"
    if others:
        metric += f"; {others} more readings: `mcnn verify {claim.id}`"
    rows = [[f"`{claim.id}`", metric, "", "", "", _sign(judgement.verdict)]]
    for result in judgement.results:
        if result.test:
            n, estimate = str(result.estimate.n), _estimate(result.estimate)
            rows.append(["", result.reading, estimate, str(result.test), n, _sign(result.verdict)])
    return rows


def _estimate(estimate: Interval) -> str:
    if not isfinite(estimate.high):
        return f"{estimate.mean:.4g}"
    return str(estimate)


def _sign(verdict: str) -> str:
    return f"{_SIGNS[verdict]} {verdict}" if verdict else ""


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a Markdown table; bars inside a cell would end it."""
    lines = [list(head), ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(c.replace("|", "\\|") for c in x) + " |" for x in lines)


def verdicts(judgements: Sequence[Judgement], link: str) -> str:
    """Return the table of all verdicts, one line a claim.

    Parameters
    ----------
    judgements
        From :func:`mcnn.ledger.claims.judge_all`.
    link
        Format of a link to a chapter, such as ``"../{notebook}"``; left out if empty.
    """
    rows = []
    for judgement in judgements:
        claim = judgement.claim
        name = f"`{claim.id}`"
        if link and (project.root() / claim.notebook).is_file():
            name = f"[{name}]({link.format(notebook=claim.notebook)})"
        test = judgement.deciding.test if judgement.deciding else None
        n = str(judgement.values) if judgement.results else ""
        accepted = str(test) if test else ""
        shown = [judgement.measured, accepted, n, _sign(judgement.verdict)]
        rows.append([name, claim.quote, *shown])
    return _table(["claim", "the talk says", "measured", "accepted", "n", "verdict"], rows)


def ledger(judgements: Sequence[Judgement], *, details: bool = False) -> str:
    """Return the ledger for a terminal, one line a claim, or every reading of each.

    Parameters
    ----------
    judgements
        From :func:`mcnn.ledger.claims.judge`.
    details
        Whether to list all readings.
    """
    lines = []
    for judgement in judgements:
        evidence = f"{judgement.measured}".ljust(18)
        if judgement.results:
            decides = judgement.deciding
            evidence += f" ({decides.reading} {decides.test}; n = {judgement.values}, "
            evidence += f"{judgement.records} records)"
        reason = f" {judgement.reason}" if judgement.reason else ""
        line = f"{judgement.claim.id:<20} {judgement.verdict:<13} {evidence.strip()}{reason}"
        lines.append(line.rstrip())
        for result in judgement.results if details else ():
            test = f"{result.test}: {result.verdict}" if result.test else "reported"
            lines.append(f"    {result.reading:<44} {result.estimate!s:<20} {test}")
    return "\n".join(lines)


# Pictures outside of the book, and the notebook and figure that each is taken from.
_PICTURES = {"book/_static/density-mnist.png": ("notebooks/density.ipynb", "fig-density-mnist")}

# File, the table's links, and the markers between which it stands.
_PAGES = {"README.md": "{notebook}", "book/ledger.md": "../{notebook}"}
_BEGIN, _END = "<!-- ledger:begin -->", "<!-- ledger:end -->"


def update_pages(judgements: Sequence[Judgement], *, write: bool) -> list[Path]:
    """Put the table of verdicts into the pages that carry it, and the pictures into their files.

    Parameters
    ----------
    judgements
        From :func:`mcnn.ledger.claims.judge_all`.
    write
        Whether to change the files or only to look.

    Returns
    -------
    list of Path
        Pages and pictures that were (or are) out of date.

    Raises
    ------
    UsageError
        If a page has lost its markers.
    """
    late: dict[Path, bytes] = {}
    for name, link in _PAGES.items():
        page = project.root() / name
        text = page.read_text(encoding="utf-8")
        if _BEGIN not in text or _END not in text:
            raise UsageError(f"{name} has no {_BEGIN} ... {_END} to put the verdicts between")
        before, _, rest = text.partition(_BEGIN)
        _, _, after = rest.partition(_END)
        new = f"{before}{_BEGIN}\n{verdicts(judgements, link)}\n{_END}{after}"
        if new != text:
            late[page] = new.encode()
    for name, (notebook, figure) in _PICTURES.items():
        picture, new = project.root() / name, _figure(project.root() / notebook, figure)
        if not picture.exists() or picture.read_bytes() != new:
            late[picture] = new
    for page, content in late.items() if write else ():
        records.replace_file(page, content)
    return list(late)


def _figure(notebook: Path, name: str) -> bytes:
    """Return a figure of an executed notebook as PNG."""
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        if cell["metadata"].get("mystnb", {}).get("figure", {}).get("name") == name:
            for output in cell["outputs"]:
                if "image/png" in output.get("data", {}):
                    return base64.b64decode("".join(output["data"]["image/png"]))
    raise UsageError(f"{notebook} shows no figure {name}: execute it with `make notebooks`")


def run(name: str, profile: str = "fast", device: str = "auto") -> list[records.Record]:
    """Run an experiment inside a chapter.

    At ``fast`` its trials run here and now and nothing is recorded.
    At ``full`` those that have no record yet run and are recorded, so that a stopped chapter goes
    on where it was.

    Parameters
    ----------
    name
        The experiment.
    profile
        ``"fast"`` or ``"full"``.
    device
        ``"auto"``, ``"cpu"`` or ``"cuda"``.
    """
    where = runner.resolve_device(device)
    if profile == "full":
        runner.run([runner.plan(name, profile)], where)
        return records.read(name, profile=profile)
    experiment = registry.get(name)
    trials = experiment.trials(profile, experiment.seeds[profile])
    return [records.Record(runner.run_trial(name, profile, t, where)) for t in trials]


def made_by(*names: str) -> Markdown:
    """Return a line that links a figure to the records behind it, and says what made them.

    Parameters
    ----------
    names
        Experiments whose ``full`` records the figure shows.
    """
    parts = []
    for name in names:
        found = records.read(name)
        devices = ", ".join(sorted({r.provenance["device"] for r in found})) or "nothing yet"
        commits = ", ".join(sorted({(r.provenance["commit"] or "?")[:7] for r in found}))
        stale = sum(r.stale for r in found)
        old = f", {stale} of them by older code" if stale else ""
        file = f"results/{name}.jsonl"
        link = f"[`{file}`](../{file})" if found else f"`{file}`"
        parts.append(f"{link}: {len(found)} trials{old}, made on {devices}, commit {commits}")
    return Markdown("*Records:* " + "; ".join(parts) + ".")
