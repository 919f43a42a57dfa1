"""Claims against the history of ``claims.yml``: which were changed after their records."""

import subprocess

import pytest
from fake_experiments import COMMITTED, NAME, line
from test_claims import ENTRY, dump

from mcnn.ledger import claims, cli, project, protocol, records, report

TEST = ENTRY["tests"][0]
ROOT = project.root()


@pytest.fixture
def history(tmp_path, fake, monkeypatch):
    """Return a function that commits ``claims.yml`` and returns the hash of the commit."""
    monkeypatch.setattr(project, "root", lambda: tmp_path)

    def git(*words):
        identity = ("-c", "user.name=A", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
        done = subprocess.run(
            ["git", *identity, *words], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    def commit(*entries, text=None):
        (tmp_path / "claims.yml").write_text(text or dump(list(entries)))
        git("add", "claims.yml")
        git("commit", "-q", "--allow-empty", "-m", "claims")
        return git("rev-parse", "HEAD")

    git("init", "-q")
    return commit


def recorded(*commits):
    """Leave a record of each seed, made at a commit."""
    lines = [line(seed, profile="full") for seed in range(len(commits))]
    for each, commit in zip(lines, commits, strict=True):
        each["provenance"] |= {"commit": commit}
    records.append(list(map(records.seal, lines)), records.path(NAME, project.root() / "results"))


def mark(entry=ENTRY):
    return protocol.marks(list(claims.load().values()))[entry["id"]]


def test_a_claim_that_stood_before_its_records(history):
    recorded(*[history(ENTRY)] * 3)
    history(ENTRY | {"quote": "it is just so", "cell": "tab-fake"})
    assert (mark().word, str(mark()), mark().records) == ("before", "", 3)


@pytest.mark.parametrize(
    ("older", "what"),
    [
        ({"tests": [TEST | {"accept": [0, 2]}]}, "accepted range"),
        ({"tests": [TEST | {"better": "higher"}]}, "accepted range"),
        ({"tests": [TEST | {"reading": "tree"}]}, "names of readings"),
        ({"tests": "none yet"}, "accepted range"),
        ({"seeds": 2}, "seeds"),
        ({"where": {"size": "4"}}, "where"),
        ({"metric": "their product"}, "metric"),
        ({"protocol": "Add some numbers."}, "protocol"),
        ({"experiment": [NAME, "fake-more"]}, "experiment"),
        ({"id": "fake-other", "seeds": 2}, "no such claim"),
    ],
)
def test_what_was_changed_after_a_record_is_named(history, older, what):
    before, now = history(ENTRY | older), history(ENTRY)
    recorded(before, before, now)
    assert mark().word == "judged after"
    assert str(mark()) == f"2 of 3 records are older: {what} 2"


def test_what_only_looks_otherwise_is_the_same(history):
    same = {"id": "fake-former", "protocol": "Add\n  numbers.", "where": {}, "experiment": [NAME]}
    tests = [TEST | {"accept": [0.0, 3.0], "reason": "as it turned out", "effect": False}]
    recorded(*[history(ENTRY | same | {"tests": tests})] * 3)
    history(ENTRY)
    assert mark().word == "before"


@pytest.mark.parametrize("text", ["- {id: [", "just words", "- 5", "\N{BELL}"])
def test_claims_that_nobody_could_read_held_no_protocol(history, text):
    recorded(*[history(text=text)] * 3)
    history(ENTRY)
    assert str(mark()) == "3 of 3 records are older: no such claim 3"


def test_a_commit_that_is_not_at_hand_is_said_and_no_fault(history, capsys, monkeypatch):
    now = history(ENTRY)
    recorded(now, COMMITTED["commit"], now)
    assert (mark().word, mark().absent) == ("commit not at hand", 1)
    assert cli.main(["verify", "--protocol"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == "0 of 1 claims stood before their records, 1 of which git lacks the commit"
    said = "commit not at hand"
    assert " ".join(second.split()) == f"fake-claim {said} {said} of 1 of 3 records"
    monkeypatch.setenv("PATH", "")
    assert mark().absent == 3, "without git"


def test_a_claim_without_records_has_no_mark(history):
    history(ENTRY)
    assert mark().word == ""
    assert protocol.summary({"a": mark()}) == "0 of 0 claims stood before their records"


def test_the_ledger_page_has_it_and_keeps_it_where_history_is_short(history, monkeypatch):
    page = project.root() / "book" / "ledger.md"
    page.parent.mkdir()
    page.write_text("\n".join([report._BEGIN, report._END, *protocol.MARKERS]))
    ledger = {"book/ledger.md": report._PAGES["book/ledger.md"]}
    monkeypatch.setattr(report, "_PAGES", ledger)
    monkeypatch.setattr(report, "_PICTURES", {})
    before = history(ENTRY | {"seeds": 2})
    history(ENTRY)
    recorded(*[before] * 3)
    assert report.update_pages(claims.judge_all(), write=True) == [page]
    text = page.read_text()
    assert "- `fake-claim`: 3 of 3 records are older: seeds 3." in text
    assert "\n3 records: 3 made by today's code.\n" in text
    (project.root() / ".git").rename(project.root() / "elsewhere")
    assert report.update_pages(claims.judge_all(), write=False) == []


def test_the_history_of_this_project_is_read():
    """Whatever it says of the claims, each gets a mark."""
    known = list(claims.load(ROOT / project.CLAIMS).values())
    found = protocol.marks(known, ROOT / "results")
    assert found.keys() == {claim.id for claim in known}
    if not (ROOT / ".git").exists():
        assert {mark.word for mark in found.values()} <= {"", protocol.ABSENT}
    elif not any(mark.absent for mark in found.values()):
        assert {mark.word for mark in found.values()} >= {protocol.BEFORE}
        assert protocol.section(found).startswith(protocol.summary(found))
