"""What was run, where and for how long: the book's page on the state of its records."""

import json
from collections.abc import Sequence
from pathlib import Path

from mcnn.ledger import project, records, registry
from mcnn.ledger.claims import Judgement
from mcnn.ledger.records import Record
from mcnn.ledger.tables import markdown


def status(judgements: Sequence[Judgement], link: str) -> str:
    """Return a table of the notebooks and one of the experiments.

    Parameters
    ----------
    judgements
        Not looked at; pages are made from these.
    link
        Format of a link to a chapter, such as ``"../{notebook}"``.
    """
    head = ["chapter", "last run", "seconds", "device", "torch", "python"]
    folder = project.root() / "notebooks"
    notebooks = [_notebook(path, link) for path in sorted(folder.glob("*.ipynb"))]
    parts = [
        "## Notebooks\n\nAs they are committed, at profile `fast`.",
        markdown(head, notebooks),
        "## Experiments\n\nAs they are recorded, at profile `full`.",
        markdown(
            ["experiment", "trials", "stale", "seeds", "hours", "device", "torch"],
            [_experiment(name) for name in registry.all_experiments()],
        ),
    ]
    return "\n\n".join(parts)


def _notebook(path: Path, link: str) -> list[str]:
    made = json.loads(path.read_text(encoding="utf-8")).get("metadata", {}).get("mcnn", {})
    name = f"[{path.stem}]({link.format(notebook=f'notebooks/{path.name}')})"
    keys = ("date", "seconds", "processor", "torch", "python")
    return [name, *(str(made.get(key, "not noted")) for key in keys)]


def _experiment(name: str) -> list[str]:
    held: list[Record] = records.read(name)
    if not held:
        return [f"`{name}`", "none yet", "", "", "", "", ""]
    made = [record.provenance for record in held]
    seeds = {getattr(record.config, "seed", None) for record in held} - {None}
    hours = sum(p["seconds"] for p in made) / 3600
    devices = ", ".join(sorted({p["device"] for p in made}))
    versions = ", ".join(sorted({str(p["torch"]).split("+")[0] for p in made}))
    stale = sum(record.stale for record in held)
    file = f"[`{name}`](../results/{name}.jsonl)"
    cells = (len(held), stale or "", len(seeds) or "", f"{hours:.2f}", devices, versions)
    return [file, *map(str, cells)]
