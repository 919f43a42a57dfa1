"""Tables and lines of the book that are made from records."""

import base64
import json

import pytest
from fake_experiments import NAME, line
from test_claims import ENTRY, dump

from mcnn.errors import UsageError
from mcnn.ledger import claims, cli, front, project, records, report, status, tables

PAGE = "before\n<!-- ledger:begin -->\nold\n<!-- ledger:end -->\nafter\n"


@pytest.fixture
def checkout(tmp_path, fake, monkeypatch):
    """A project of its own, with a claim that has records and one that has none."""
    entries = [
        ENTRY | {"where": {"size": "3"}, "quote": "|a| is so"},
        ENTRY | {"id": "fake-later", "experiment": "fake-later", "role": "extension"},
    ]
    (tmp_path / "claims.yml").write_text(dump(entries))
    for name in report._PAGES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(PAGE)
    front = {
        "chapters": {"fake": {"name": "Fakes", "asks": "What is so?"}},
        "findings": [{"claim": ENTRY["id"], "picture": "a.png", "asks": "So?", "means": "This."}],
    }
    for name, content in front.items():
        (tmp_path / "book" / f"{name}.yml").write_text(dump(content))
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


def test_the_table_of_a_page_has_a_row_per_reading(checkout):
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
    with pytest.raises(UsageError, match="no claim belongs to the page 'nothing'"):
        report.claims_table("nothing")


def test_a_table_has_a_label_and_a_caption_around_its_lines():
    text = report.table("tab-x", "Two numbers.", ["| a | b |", "|---|---|", "| 1 | 2 |"]).text
    assert text.splitlines() == [
        ":::{table} Two numbers.", ":name: tab-x", "", "| a | b |", "|---|---|", "| 1 | 2 |", ":::"
    ]  # fmt: skip


def judged(name, verdict, **changes):
    """A judgement without records."""
    entry = ENTRY | {"id": name, "quote": f"{name} is so"} | changes
    return claims.Judgement(claims.Claim.model_validate(entry), verdict, f"why {verdict}")


def table_rows(text):
    return rows("\n".join(x for x in text.splitlines() if x.startswith("|")))


def test_the_short_table_has_the_talks_claims_only(checkout):
    text = tables.short(claims.judge_all(), "../{notebook}")
    assert text.startswith("Of 1: 1 reproduced.\n\n| claim")
    head, _, row = table_rows(text)
    quoted = "the talk says"
    assert head == ["claim", quoted, "quantity", "measured", "accepted", "n", "verdict"]
    measured = claims.judge(claims.load()["fake-claim"]).measured
    name = "[`fake-claim`](../notebooks/fake.ipynb)"
    assert row == [name, "“¦a¦ is so”", "sum of three", measured, "0 … 3", "3", "✔ reproduced"]
    (checkout / "notebooks/fake.ipynb").unlink()
    assert table_rows(tables.short(claims.judge_all(), "{notebook}"))[2][0] == "`fake-claim`"


def test_items_of_a_list_are_one_row_as_bad_as_the_worst(checkout):
    listed = {"row": "a list"}
    found = [
        judged("fake-a", "reproduced", **listed),
        judged("fake-b", "open"),
        judged("fake-c", "falls short", **listed),
        judged("fake-d", "open", **listed),
        judged("fake-e", "contradicted", role="reading", **listed),
    ]
    text = tables.short(found, "")
    assert text.startswith("Of 2: 1 falls short, 1 open.\n")
    _, _, group, single = table_rows(text)
    assert group[0].startswith("[a list, 3 claims]")
    assert group[1] == "“fake-a is so”; “fake-c is so”; “fake-d is so”"
    assert group[2] == "`fake-c`: sum of three"
    assert (group[-1], single[-1]) == ("▽ falls short", "≈ open")
    assert "- `fake-b` is open: why open." in text
    assert "- `fake-d` is open: why open." in text, "hidden in a row, but open"
    lines = tables.terminal(found).splitlines()
    assert lines[0] == "The talk's claims: 1 falls short, 1 open"
    talk = lines[2 : lines.index("")]
    ids = ["a", "fake-a", "fake-c", "fake-d", "fake-b"]
    assert [x.split()[0] for x in talk if " why " not in x] == ids
    assert [x.split()[-1] for x in talk if " why " in x] == ["reproduced", "short", "open", "open"]
    assert "Other readings: 1 contradicted" in lines


def test_the_full_tables_have_every_claim_and_the_reason_of_its_range(checkout):
    text = tables.full(claims.judge_all(), "../{notebook}")
    assert "**The talk's claims**: 1 reproduced." in text
    assert "**Extensions**: 1 not run." in text
    assert "**Other readings**" not in text, "a table without rows"
    _, _, first, *_, last = table_rows(text)
    assert first[1] == "“¦a¦ is so” (*A slide*, later deck)"
    assert first[-1] == "range: three below one"
    assert last[-1] == "range: three below one. the experiment is not written yet"
    paper = judged("fake-a", "open", role="source", source="a paper", deck=None)
    assert "(*A slide*, a paper)" in tables.full([paper], "")


@pytest.mark.parametrize(("count", "words"), [(1, "1 more reading:"), (2, "2 more readings:")])
def test_readings_that_are_not_shown_are_counted_in_english(count, words):
    claim = claims.Claim.model_validate(ENTRY)
    values = {test.reading: [1.0] * 3 for test in claim.tests}
    values |= dict.fromkeys(["other", "another"][:count], [1.0] * 3)
    head, *_ = tables.details(claims.decide(claim, values))
    assert words in head[1]


def test_a_curve_is_shown_with_its_values_and_no_verdict(checkout):
    curve = {"tests": [], "report": "no number", "shown": ["three"], "where": {"size": "3"}}
    found = claims.judge(claims.Claim.model_validate(ENTRY | curve))
    claim, reading = tables.details(found)
    assert claim == ["`fake-claim`", "their sum (no number)", "", "", "", "○ reported"]
    assert reading == ["", "three", found.measured, "", "3", ""]
    assert found.measured
    text = tables.short([found], "")
    assert text.startswith("Of 1: no verdict; 1 reported without a verdict.")
    assert found.measured in text
    assert "○ reported" in text


def test_pages_get_the_verdicts_and_the_pictures(checkout, capsys):
    pages = [checkout / name for name in report._PAGES]
    pictures = [checkout / name for name in report._PICTURES]
    found = claims.judge_all()
    assert report.update_pages(found, write=False) == pages + pictures
    assert pages[0].read_text() == PAGE
    assert cli.main(["verify", "--update"]) == 0
    assert capsys.readouterr().out.count("wrote ") == len(pages + pictures)
    for page, (table, link) in zip(pages, report._PAGES.values(), strict=True):
        assert page.read_text() == PAGE.replace("old", table(found, link))
    assert pages[0].read_text() != pages[1].read_text()
    assert [p.read_bytes() for p in pictures] == [b"a picture"] * len(pictures)
    assert report.update_pages(found, write=False) == []
    for notebook, _ in report._PICTURES.values():
        kept = (checkout / notebook).read_text()
        (checkout / notebook).write_text('{"cells": []}')
        assert cli.main(["verify", "--update"]) == 2
        assert f"{notebook} shows no figure" in capsys.readouterr().err
        (checkout / notebook).unlink()
        assert cli.main(["verify", "--update"]) == 2
        assert f"No such file or directory: '{checkout / notebook}'" in capsys.readouterr().err
        (checkout / notebook).write_text(kept)
    pages[0].write_text("no markers")
    assert cli.main(["verify", "--update"]) == 2
    assert "README.md has no <!-- ledger:begin -->" in capsys.readouterr().err


def test_the_first_page_shows_findings_and_what_became_of_the_claims(checkout):
    found = claims.judge_all()
    text = front.front(found, "../{notebook}")
    assert "makes 1 claims that a program can decide: 1 reproduced." in text
    measured = claims.judge(claims.load()["fake-claim"]).measured
    assert "**So?** This." in text
    assert "![So?](_static/a.png)" in text
    assert f"{measured}, accepted 0 … 3, n = 3." in text
    assert '<a href="ledger.html#claim-fake-claim">✔ reproduced</a>' in text
    assert "| [Fakes](../notebooks/fake.ipynb) | What is so? | 1 reproduced |" in text
    (checkout / front.CHAPTERS).write_text("{}")
    with pytest.raises(UsageError, match="does not say what fake asks"):
        front.front(found, "")
    (checkout / front.FINDINGS).write_text("- claim: fake-gone")
    with pytest.raises(UsageError, match="shows fake-gone, which is no claim"):
        front.front(found, "")


def test_the_status_page_counts_trials_and_hours(checkout):
    made = {"mcnn": {"date": "2026-01-02", "seconds": 7, "processor": "a chip"}}
    (checkout / "notebooks/fake.ipynb").write_text(json.dumps({"metadata": made, "cells": []}))
    text = status.status([], "../{notebook}")
    assert "| [fake](../notebooks/fake.ipynb) | 2026-01-02 | 7 | a chip | not noted |" in text
    held = records.read(NAME)
    hours = sum(r.provenance["seconds"] for r in held) / 3600
    device = held[0].provenance["device"]
    assert f"(../results/{NAME}.jsonl) | 3 |  | 3 | {hours:.2f} | {device} |" in text
    assert "| `density-mnist` | none yet |" in text


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


def test_a_cell_is_one_line_whatever_is_in_it():
    assert tables.markdown(["a"], [["one\n  two | three\n"]]).splitlines()[2:] == [
        "| one two \\| three |"
    ]
