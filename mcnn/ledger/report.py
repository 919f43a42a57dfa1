"""What the book says of the records: pages with verdicts, and prose with recorded numbers in it.

Objects here show themselves in a notebook through the usual ``_repr_markdown_``; nothing of
Jupyter is imported.
"""

import base64
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mcnn.errors import UsageError, unknown
from mcnn.ledger import (
    claims,
    front,
    project,
    protocol,
    records,
    registry,
    runner,
    status,
    tables,
    verification,
)
from mcnn.ledger.claims import Judgement


@dataclass(frozen=True)
class Markdown:
    """Prose that a cell makes, so that the numbers in it come from records."""

    text: str

    def _repr_markdown_(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return self.text


def table(name: str, caption: str, lines: Iterable[str]) -> Markdown:
    """Return a table of a page, numbered and with a caption.

    Parameters
    ----------
    name
        Label, such as ``"tab-density-slopes"``, which the text refers to.
    caption
        One line of Markdown.
    lines
        The lines of a Markdown table: head, rule and rows.
    """
    rows = "\n".join(lines)
    return Markdown(f":::{{table}} {caption}\n:name: {name}\n\n{rows}\n:::")


def claims_table(page: str) -> Markdown:
    """Return the claims that a page decides: what was measured, what was accepted, the verdict.

    Parameters
    ----------
    page
        Stem of the notebook, such as ``"density"``.

    Raises
    ------
    UsageError
        If no claim belongs to the page.
    """
    chosen = [c for c in claims.load().values() if Path(c.notebook).stem == page]
    if not chosen:
        raise UsageError(f"no claim belongs to the page {page!r}")
    rows = [row for claim in chosen for row in tables.details(claims.judge(claim))]
    head = ["claim", "reading", "measured", "accepted", "n", "verdict"]
    return Markdown(tables.markdown(head, rows))


# Pictures outside of the book, and the notebook and figure that each is taken from.
_PICTURES = {
    f"book/_static/{stem}.png": (f"notebooks/{stem.partition('-')[0]}.ipynb", f"fig-{stem}")
    for stem in ("density-mnist", "paths-accuracy", "linear-cost")
}


def _ledger(judgements: Sequence[Judgement], link: str) -> str:
    """Return the tables of all claims, and what the records behind them rest on."""
    rest = verification.support(project.results_dir("full"))
    return f"{tables.full(judgements, link)}\n\n{rest}."


# File, what makes its tables, their links, and the markers between which they stand.
_PAGES = {
    "README.md": (tables.short, "{notebook}"),
    "book/intro.md": (front.front, "../{notebook}"),
    "book/ledger.md": (_ledger, "../{notebook}"),
    "book/status.md": (status.status, "../{notebook}"),
}
_BEGIN, _END = "<!-- ledger:begin -->", "<!-- ledger:end -->"


def update_pages(judgements: Sequence[Judgement], *, write: bool) -> list[Path]:
    """Put the tables of verdicts into the pages that carry them, and the pictures into their files.

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
    for name, (table, link) in _PAGES.items():
        page = project.root() / name
        text = page.read_text(encoding="utf-8")
        if _BEGIN not in text or _END not in text:
            raise UsageError(f"{name} has no {_BEGIN} ... {_END} to put the verdicts between")
        new = _between(text, _BEGIN, _END, table(judgements, link))
        if protocol.MARKERS[0] in text:
            # Where git lacks a commit, what the page has from a whole history stays.
            section = protocol.section(protocol.marks([j.claim for j in judgements]))
            new = new if section is None else _between(new, *protocol.MARKERS, section)
        if new != text:
            late[page] = new.encode()
    for name, (notebook, figure) in _PICTURES.items():
        picture, new = project.root() / name, _figure(project.root() / notebook, figure)
        if not picture.exists() or picture.read_bytes() != new:
            late[picture] = new
    for page, content in late.items() if write else ():
        records.replace_file(page, content)
    return list(late)


def _between(text: str, begin: str, end: str, new: str) -> str:
    """Put new text between two markers."""
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    return f"{before}{begin}\n{new}\n{end}{after}"


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
    experiment = registry.get(name)
    if profile == "full":
        runner.run([runner.plan(experiment, profile)], where)
        return records.read(experiment, profile=profile)
    if profile not in project.PROFILES:
        raise unknown("profile", profile, project.PROFILES)
    trials = experiment.trials(profile, experiment.seeds[profile])
    run = runner.run_trial
    return [records.Record(run(experiment, profile, t, where), t) for t in trials]


def made_by(*names: str) -> Markdown:
    """Return a line that links a figure to the records behind it, and says what made them.

    Parameters
    ----------
    names
        Experiments whose ``full`` records the figure shows.
    """
    parts = []
    for name in names:
        held = records.read(name)
        devices = ", ".join(sorted({r.provenance["device"] for r in held})) or "nothing yet"
        commits = ", ".join(sorted({(r.provenance["commit"] or "?")[:7] for r in held}))
        stale = sum(r.stale for r in held)
        old = f", {stale} of them by older code" if stale else ""
        file = f"results/{name}.jsonl"
        link = f"[`{file}`](../{file})" if held else f"`{file}`"
        parts.append(f"{link}: {len(held)} trials{old}, made on {devices}, commit {commits}")
    return Markdown("*Records:* " + "; ".join(parts) + ".")
