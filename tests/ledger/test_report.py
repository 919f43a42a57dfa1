"""Tables and lines of the book that are made from records."""

import base64
import json

import pytest
import yaml
from fake_experiments import NAME, line
from test_claims import ENTRY

from mcnn.errors import UsageError
from mcnn.ledger import claims, cli, project, records, report

PAGE = "before\n<!-- ledger:begin -->\nold\n<!-- ledger:end -->\nafter\n"


@pytest.fixture
def checkout(tmp_path, fake, monkeypatch):
    """A project of its own, with a claim that has records and one that has none."""
    entries = [
        ENTRY | {"where": {"size": "3"}, "quote": "|a| is so"},
        ENTRY | {"id": "fake-later", "experiment": "fake-later"},
    ]
    (tmp_path / "claims.yml").write_text(yaml.safe_dump(entries))
    for name in report._PAGES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(PAGE)
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks/fake.ipynb").write_text("{}")
    for name, (notebook, figure) in report._PICTURES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        output = {"data": {"image/png": base64.b64encode(b"a picture").decode()}}
        shown = {"metadata": {"mystnb": {"figure": {"name": figure}}}, "outputs": [output]}
        other = {"metadata": {}, "outputs": []}
        (tmp_path / notebook).write_text(json.dumps({"cells": [other, shown]}))
    monkeypatch.setattr(project, "root", lambda: tmp_path)
    lines = [line(seed, profile="full") for seed in range(3)]
    records.append(lines, records.path(NAME, tmp_path / "results"))
    return tmp_path


def rows(table):
    return [[c.strip() for c in x.replace("\\|", "¦").split("|")[1:-1]] for x in table.split("\n")]


def test_the_table_of_a_chapter_has_a_row_a_reading(checkout):
    table = report.claims_table("fake")
    assert table._repr_markdown_() == repr(table) == table.text
    head, rule, claim, reading, later = rows(table.text)
    assert head == ["claim", "reading", "measured", "accepted", "n", "verdict"]
    assert set(rule) == {"---"}
    assert claim == ["`fake-claim`", "their sum", "", "", "", "✔ reproduced"]
    judgement = claims.judge(claims.load()["fake-claim"])
    assert reading == ["", "three", judgement.measured, "0 … 3", "3", "✔ reproduced"]
    unwritten = "their sum (the experiment is not written yet)"
    assert later == ["`fake-later`", unwritten, "", "", "", "– not run"]
    with pytest.raises(UsageError, match="no claim belongs to the chapter 'nothing'"):
        report.claims_table("nothing")


def test_the_table_of_verdicts_links_and_keeps_its_columns(checkout):
    _, _, first, second = rows(report.verdicts(claims.judge_all(), "../{notebook}"))
    assert first[0] == "[`fake-claim`](../notebooks/fake.ipynb)"
    assert first[1] == "¦a¦ is so"
    assert first[-1] == "✔ reproduced"
    assert len(first) == len(second) == 6
    (checkout / "notebooks/fake.ipynb").unlink()
    assert rows(report.verdicts(claims.judge_all(), "../{notebook}"))[2][0] == "`fake-claim`"


def test_pages_get_the_verdicts_and_the_pictures(checkout, capsys):
    pages = [checkout / name for name in report._PAGES]
    pictures = [checkout / name for name in report._PICTURES]
    judged = claims.judge_all()
    assert report.update_pages(judged, write=False) == pages + pictures
    assert pages[0].read_text() == PAGE
    assert cli.main(["verify", "--update"]) == 0
    assert capsys.readouterr().out.count("wrote ") == len(pages + pictures)
    for page, link in zip(pages, report._PAGES.values(), strict=True):
        table = report.verdicts(judged, link)
        assert page.read_text() == PAGE.replace("old", table)
    assert [p.read_bytes() for p in pictures] == [b"a picture"] * len(pictures)
    assert report.update_pages(judged, write=False) == []
    for notebook, _ in report._PICTURES.values():
        (checkout / notebook).write_text('{"cells": []}')
        assert cli.main(["verify", "--update"]) == 2
        assert f"{notebook} shows no figure" in capsys.readouterr().err
        (checkout / notebook).unlink()
        assert cli.main(["verify", "--update"]) == 2
        assert f"No such file or directory: '{checkout / notebook}'" in capsys.readouterr().err
    pages[0].write_text("no markers")
    assert cli.main(["verify", "--update"]) == 2
    assert "README.md has no <!-- ledger:begin -->" in capsys.readouterr().err


def test_a_chapter_runs_fast_trials_here_and_records_full_ones(checkout):
    found = report.run(NAME, device="cpu")
    assert [r.config.seed for r in found] == [0, 1, 2, 3]
    assert not records.path(NAME, project.results_dir("fast")).exists()
    assert len(records.read(NAME)) == 3
    found = report.run(NAME, "full", device="cpu")
    assert len(found) == len(records.read(NAME)) == 6


def test_what_made_the_records_is_said(checkout):
    text = report.made_by(NAME).text
    made = records.read(NAME)[0].provenance
    assert text.startswith(
        f"*Records:* [`results/{NAME}.jsonl`](../results/{NAME}.jsonl): 3 trials"
    )
    assert made["device"] in text
    assert f"commit {made['commit'][:7]}" in text
    old = line(0, profile="full", code="0" * 16)
    records.append([old], records.path(NAME, checkout / "results"), overwrite=True)
    assert "3 trials, 1 of them by older code, made on" in report.made_by(NAME).text
    records.path(NAME, checkout / "results").unlink()
    assert "0 trials, made on nothing yet" in report.made_by(NAME).text
