"""Records that rest on notes: which run again, what replaces them, and what does not."""

import itertools
import re
from dataclasses import replace
from types import SimpleNamespace

import fake_experiments
import pytest
from fake_experiments import COMMITTED, NAME, line

from mcnn.ledger import (
    claims,
    cli,
    differing,
    merging,
    notes,
    provenance,
    records,
    refreshing,
    registry,
    runner,
    verification,
)

TODAY, OLD, OLDER, STRANGE = None, "0" * 16, "1" * 16, "2" * 16


@pytest.fixture
def only(fake, monkeypatch):
    """The experiment of the tests, and no others."""
    known = registry.all_experiments()
    for name in list(known):
        monkeypatch.delitem(known, name)
    monkeypatch.setitem(known, NAME, replace(fake, seeds={"fast": range(4), "full": range(9)}))
    return known[NAME]


def held(results, seed, code=OLD, seconds=1.0, metrics=None, **made):
    """Record a trial of older code."""
    one = line(seed, profile="full", **({"metrics": metrics} if metrics else {}))
    code = code or provenance.code_hash(fake_experiments.FAKE.roots)
    one["provenance"] |= {"seconds": seconds, "code": code} | made
    records.append([records.seal(one)], records.path(NAME, results))
    return one["hash"]


def note(results, experiment, code, older):
    """Note that records of an older code hold under a newer one."""
    shown = {"experiment": NAME, "code": older, "agreement": "repeats", "difference": 0.0}
    sampled = line(90)  # at `fast`, which decides nothing
    records.append([sampled], records.path(NAME, results))
    told = {"older": [older], "sample": {sampled["hash"]: shown}, "seed": 1, "noted": "today"}
    made = provenance.describe(experiment.roots, fake_experiments.DEVICE) | COMMITTED
    text = {"experiment": NAME} | told | made | ({"code": code} if code else {})
    records.append([records.seal(text)], results / records.REVALIDATIONS)


@pytest.fixture
def aged(tmp_path, only):
    """Records of today's code, one note and two notes away, and stale; return their hashes."""
    note(tmp_path, only, TODAY, OLD)
    note(tmp_path, only, OLD, OLDER)
    return {
        "today": held(tmp_path, 0, TODAY),
        "one, dear": held(tmp_path, 1, OLD, seconds=50.0),
        "one": held(tmp_path, 2, OLD, seconds=1.0),
        "two, dear": held(tmp_path, 3, OLDER, seconds=30.0),
        "two": held(tmp_path, 4, OLDER, seconds=20.0),
        "stale": held(tmp_path, 5, STRANGE),
        "on a GPU": held(tmp_path, 6, OLDER, cuda="13.0"),
    }


def refresh(results, hours=1.0, *more):
    command = ["run", "--refresh", "oldest", "--hours", str(hours), "--device", "cpu", *more]
    return cli.main([*command, "--results", str(results)])


def steps(results, only):
    reached = notes.steps(only, results)
    return {r.key: reached.get(r.code) for r in records.held(only, results)}


def test_those_on_the_most_notes_come_first_and_of_those_the_cheapest(tmp_path, only, aged):
    found, left_out = refreshing.oldest([NAME], fake_experiments.DEVICE, tmp_path)
    order = ["two", "two, dear", "one", "one, dear"]
    assert [one.record.key for one in found] == [aged[name] for name in order]
    assert [one.steps for one in found] == [2, 2, 1, 1]
    assert left_out == 1, "the one that was made on a GPU"


def test_a_budget_takes_what_fits_in_that_order(tmp_path, only, aged):
    found, _ = refreshing.oldest([NAME], fake_experiments.DEVICE, tmp_path)
    chosen = refreshing.within(found, 25.0)
    assert [one.record.key for one in chosen] == [aged["two"], aged["one"]]
    assert refreshing.within(found, 0.5) == []


def test_what_comes_out_again_is_replaced_and_rests_on_no_note(tmp_path, only, aged, capsys):
    assert refresh(tmp_path, 25 / 3600) == 0
    shown = capsys.readouterr()
    assert "4 records rest on notes, 2 fit into 0.00694444 h; 1 more cannot run here" in shown.out
    assert "2 records are of today's code now\n" in shown.out
    now = steps(tmp_path, only)
    assert {name: now[key] for name, key in aged.items()} == {
        **{"today": 0, "one": 0, "two": 0},
        **{"one, dear": 1, "two, dear": 2, "stale": None, "on a GPU": 2},
    }
    assert verification.problems(tmp_path) == []
    assert refresh(tmp_path) == 0, "the same command goes on with the rest"
    assert "2 records are of today's code now" in capsys.readouterr().out
    assert refresh(tmp_path) == 0
    assert "0 records rest on notes" in capsys.readouterr().out


def test_one_that_comes_out_otherwise_is_named_kept_and_decides_nothing(tmp_path, only, capsys):
    note(tmp_path, only, TODAY, OLD)
    wrong = line(1)["metrics"] | {"total": 7.0}
    key, other = held(tmp_path, 1, metrics=wrong), held(tmp_path, 2)
    before = {r.key: r.line for r in records.held(only, tmp_path)}
    assert refresh(tmp_path) == 1
    shown = capsys.readouterr()
    assert re.search(
        rf"{NAME} {key} DIFFERS: largest difference .* \(at metrics.total\)", shown.out
    )
    assert f"mcnn: {NAME} {key}: no longer comes out" in shown.err
    assert "1 records are of today's code now, 1 stay as they are" in shown.out
    now = {r.key: r for r in records.held(only, tmp_path)}
    assert now[key].line == before[key], "the old one stays"
    (kept,) = (differing.path(NAME, tmp_path)).read_text().splitlines()
    assert before[key]["digest"] in kept
    assert "largest difference" in kept
    assert (now[key].flaw, now[other].flaw) == (differing.FLAW, None)
    assert [r.key for r in records.read(only, tmp_path)] == [other]
    assert differing.FLAW in str(verification.support(tmp_path))
    plan = runner.plan(NAME, "full", range(1, 3), tmp_path, {"size": "3"})
    assert (plan.flawed, plan.todo) == (1, ())
    assert refresh(tmp_path) == 0, "it is not tried until it agrees"


def test_the_verdict_waits_until_the_trial_is_made_anew(tmp_path, only, capsys):
    wrong = line(1)["metrics"] | {"total": 7.0}
    note(tmp_path, only, TODAY, OLD)
    for seed in range(9):
        held(tmp_path, seed, metrics=wrong if seed == 1 else None)
    rest = {"slide": "1", "quote": "q", "role": "extension", "kind": "value", "protocol": "p"}
    rest |= {"metric": "m", "quantity": "u", "seeds": 3, "notebook": "n", "cell": "c"}
    test = {"reading": "three", "accept": (-9, 9), "reason": "any"}
    named = {"id": "fake-claim", "source": "x", "experiment": NAME, "where": {"size": "3"}}
    claim = claims.Claim.model_validate(rest | named | {"tests": (test,)})
    assert claims.judge(claim, tmp_path).verdict == "reproduced"
    assert refresh(tmp_path) == 1
    judged = claims.judge(claim, tmp_path)
    assert judged.verdict == "not run"
    assert differing.FLAW in judged.reason
    again = ["run", NAME, "--profile", "full", "--redo-stale", "--only", "size=3"]
    assert cli.main([*again, "--device", "cpu", "--results", str(tmp_path)]) == 0
    assert claims.judge(claim, tmp_path).verdict == "reproduced"


def test_a_line_that_speaks_against_a_record_is_sealed_too(tmp_path, only, capsys):
    note(tmp_path, only, TODAY, OLD)
    held(tmp_path, 1, metrics=line(1)["metrics"] | {"total": 7.0})
    refresh(tmp_path)
    file = differing.path(NAME, tmp_path)
    file.write_text(file.read_text().replace('"difference": "', '"difference": "no '))
    (problem,) = verification.problems(tmp_path)
    assert problem.startswith(f"{file}:1: altered")
    file.write_text("{}\n")
    assert len(verification.problems(tmp_path)) == 1


def test_what_speaks_against_a_record_is_merged_and_so_is_its_better(tmp_path, only):
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        note(folder, only, TODAY, OLD)
        held(folder, 1, metrics=line(1)["metrics"] | {"total": 7.0})
    assert refresh(there) == 1
    merging.merge([there], here)
    assert [r.flaw for r in records.held(only, here)] == [differing.FLAW]
    again = ["run", NAME, "--profile", "full", "--redo-stale", "--only", "seed=1"]
    cli.main([*again, "--only", "size=3", "--device", "cpu", "--results", str(there)])
    assert [r.flaw for r in records.held(only, there)] == [None]
    merging.merge([there], here)
    (now,) = records.held(only, here)
    assert (now.flaw, now.stale) == (None, False)
    assert now.metrics["total"] != 7.0


def test_a_trial_that_fails_leaves_its_record_and_stops_no_other(
    tmp_path, only, monkeypatch, capsys
):
    note(tmp_path, only, TODAY, OLD)
    key, _ = held(tmp_path, 1), held(tmp_path, 2)
    monkeypatch.setenv("FAKE_FAULT", "raise:1")
    assert refresh(tmp_path) == 1
    assert f"{key}: did not run, and stays: " in capsys.readouterr().err
    assert sorted(steps(tmp_path, only).values()) == [0, 1]
    assert not differing.path(NAME, tmp_path).exists()


def test_a_run_that_would_decide_nothing_replaces_nothing(tmp_path, only, monkeypatch, capsys):
    note(tmp_path, only, TODAY, OLD)
    held(tmp_path, 1)
    state = provenance.code_state
    monkeypatch.setattr(provenance, "code_state", lambda roots: state(roots) | {"dirty": True})
    assert refresh(tmp_path) == 2
    assert "commit first" in capsys.readouterr().err
    monkeypatch.setattr(refreshing.revalidation, "committed", lambda experiments: None)
    assert refresh(tmp_path) == 1
    assert "decides nothing: its code differs from its commit" in capsys.readouterr().err
    assert list(steps(tmp_path, only).values()) == [1]


def test_no_trial_begins_after_the_time_is_up(tmp_path, only, monkeypatch):
    note(tmp_path, only, TODAY, OLD)
    for seed in range(4):
        held(tmp_path, seed, seconds=0.01)  # so they said; now each takes longer
    clock = itertools.count(0.0, 0.3)  # asked at the start, then after each trial
    monkeypatch.setattr(refreshing, "time", SimpleNamespace(monotonic=clock.__next__))
    assert refresh(tmp_path, 0.4 / 3600) == 0
    assert sorted(steps(tmp_path, only).values()) == [0, 0, 1, 1]


def test_processes_share_the_work(tmp_path, only, aged):
    assert refresh(tmp_path, 1.0, "--jobs", "2") == 0
    assert sorted(filter(None, steps(tmp_path, only).values())) == [2], "the one of a GPU"


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["run", "--refresh", "oldest"], "go together"),
        (["run", "--hours", "1", NAME], "go together"),
        (["run", "--refresh", "oldest", "--hours", "1", "--seeds", "0"], "--seeds is not for"),
        (["run", "--refresh", "oldest", "--hours", "1", "--redo-stale"], "--redo-stale is not for"),
        (["run"], "name an experiment"),
        (["run", "--refresh", "oldest", "--hours", "1", "--results", "nowhere"], "no folder"),
    ],
)
def test_what_does_not_go_together_is_one_line(only, words, reason, capsys):
    assert cli.main(words) == 2
    assert reason in capsys.readouterr().err


@pytest.mark.parametrize("hours", ["0", "-1", "nan", "x", "inf"])
def test_hours_are_a_number_above_zero(hours, capsys):
    with pytest.raises(SystemExit):
        cli.main(["run", "--refresh", "oldest", f"--hours={hours}"])
    assert "hours above 0" in capsys.readouterr().err
