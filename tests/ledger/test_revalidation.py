"""Stale records that hold: which samples run, in which order, and what is noted when."""

import multiprocessing
import os
import pty
import re
import signal
import sys
import termios
from dataclasses import replace

import fake_experiments
import pytest
from fake_experiments import NAME, line

from mcnn.ledger import cli, recheck, records, registry, revalidation, runner

OLD, OLDER = "0" * 16, "1" * 16
TWIN, OTHER = "fake-twin", "fake-other"


def other_run(trial, device):
    return fake_experiments.run(trial, device)


@pytest.fixture
def three(fake, monkeypatch):
    """Three experiments, and no others: the first two are of one code."""
    known = registry.all_experiments()
    for name in list(known):
        monkeypatch.delitem(known, name)
    monkeypatch.setitem(known, NAME, fake)
    monkeypatch.setitem(known, TWIN, replace(fake, name=TWIN))
    monkeypatch.setitem(known, OTHER, replace(fake, name=OTHER, run=other_run))
    return known


def stale(results, name, seed, code=OLD, seconds=1.0, **changes):
    """Record a trial of older code."""
    experiment = registry.get(name)
    made = line(seed, profile="full", code=code, **changes)
    made |= {
        "experiment": name,
        "hash": experiment.key("full", fake_experiments.FakeTrial(seed=seed)),
    }
    made["provenance"] |= {"seconds": seconds}
    records.append([records.seal(made)], records.path(name, results))


def noted(results):
    return {note["experiment"]: note for note in records.revalidations(results)}


def revalidate(results, *names, **options):
    return revalidation.revalidate(
        names or list(registry.all_experiments()), 1, "cpu", results, **options
    )


def test_experiments_of_one_code_share_a_sample(tmp_path, three, monkeypatch):
    log = tmp_path / "log"
    monkeypatch.setenv("FAKE_LOG", str(log))
    results = tmp_path / "results"
    for name in (NAME, TWIN, OTHER):
        stale(results, name, 0)
        stale(results, name, 1, seconds=9.0)
    log.unlink()
    first, second = revalidation.groups(list(three), 1, results)
    assert [e.name for e in first.experiments] == [NAME, TWIN]
    assert (first.older, first.stale, len(first.sample)) == ((OLD,), (2, 2), 1)
    assert [e.name for e in second.experiments] == [OTHER]
    assert revalidate(results) == 0
    assert len(log.read_text().splitlines()) == 2
    assert noted(results).keys() == set(three)
    assert noted(results)[TWIN]["sample"] == noted(results)[NAME]["sample"]
    assert not any(r.stale for name in three for r in records.read(name, results))


def test_only_members_with_stale_records_are_noted(tmp_path, three):
    stale(tmp_path, NAME, 0)
    assert revalidate(tmp_path) == 0
    assert noted(tmp_path).keys() == {NAME}


def test_every_older_code_is_sampled_and_the_cheapest_run_first(tmp_path, three, monkeypatch):
    stale(tmp_path, NAME, 0, seconds=5.0)
    stale(tmp_path, NAME, 1, seconds=3.0)
    stale(tmp_path, NAME, 2, seconds=4.0, code=OLDER)
    stale(tmp_path, OTHER, 0, seconds=1.0)
    log = tmp_path / "log"
    monkeypatch.setenv("FAKE_LOG", str(log))
    assert revalidate(tmp_path, seed=1) == 0
    assert [row.split()[0] for row in log.read_text().splitlines()] == ["0", "1", "2"]
    assert noted(tmp_path)[NAME]["older"] == [OLD, OLDER]


def test_all_means_every_experiment_and_jobs_run_together(tmp_path, three, monkeypatch, capsys):
    log = tmp_path / "log"
    for seed in range(3):
        stale(tmp_path, NAME, seed, code=str(seed) * 16)
    stale(tmp_path, OTHER, 0)
    monkeypatch.setenv("FAKE_LOG", str(log))
    forked = multiprocessing.get_context("fork")  # starts at once; nothing else differs here
    monkeypatch.setattr(multiprocessing, "get_context", lambda _: forked)
    command = ["verify", "--revalidate", "all", "--jobs", "2", "--device", "cpu"]
    assert cli.main([*command, "--results", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert shown.count(" repeats: ") == 4
    assert f"{NAME}: 3 stale records hold; noted in {tmp_path / records.REVALIDATIONS}" in shown
    rows = [row.split()[1] for row in log.read_text().splitlines()]
    assert len(rows) == 4
    assert str(os.getpid()) not in rows
    assert cli.main([*command, "--results", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "no record is stale\n"


@pytest.mark.parametrize("fault", ["raise", "nan"])
def test_one_that_fails_stops_no_other_and_is_named(tmp_path, three, monkeypatch, capsys, fault):
    stale(tmp_path, NAME, 1, seconds=0.1)
    stale(tmp_path, OTHER, 0, seconds=0.2)
    monkeypatch.setenv("FAKE_FAULT", f"{fault}:1")
    assert revalidate(tmp_path) == 1
    assert noted(tmp_path).keys() == {OTHER}
    shown = capsys.readouterr().out
    assert f"{NAME} {records.read(NAME, tmp_path)[0].key} did not run: " in shown
    assert f"{NAME}: not revalidated, for a trial did not run\n" in shown
    assert "Traceback" not in shown


def test_one_that_differs_stops_no_other_and_is_named(tmp_path, three, capsys):
    stale(tmp_path, NAME, 0, metrics=line(0)["metrics"] | {"total": 7.0}, seconds=0.1)
    stale(tmp_path, NAME, 1, code=OLDER)
    stale(tmp_path, TWIN, 0)
    stale(tmp_path, OTHER, 0)
    assert revalidate(tmp_path) == 1
    assert noted(tmp_path).keys() == {OTHER}
    shown = capsys.readouterr().out
    assert "DIFFERS: largest difference" in shown
    for name in (NAME, TWIN):
        assert f"{name}: the records do not hold under today's code; run it with" in shown


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_is_one_line_and_keeps_what_was_noted(tmp_path, three, monkeypatch, capsys):
    stale(tmp_path, OTHER, 0, seconds=0.1)
    stale(tmp_path, NAME, 1)
    run = runner.run_trial

    def interrupted(experiment, *rest):
        if experiment.name == NAME:
            os.kill(os.getpid(), signal.SIGINT)
        return run(experiment, *rest)

    monkeypatch.setattr(runner, "run_trial", interrupted)
    command = ["verify", "--revalidate", "all", "--device", "cpu", "--results", str(tmp_path)]
    assert cli.main(command) == 130
    assert capsys.readouterr().err == (
        "mcnn: stopped; what was recorded stays, call again to go on\n"
    )
    assert noted(tmp_path).keys() == {OTHER}


def test_the_bar_counts_recorded_seconds_and_shows_the_time_left(tmp_path, three):
    stale(tmp_path, NAME, 0, seconds=7.0)
    stale(tmp_path, OTHER, 0, seconds=5.0)
    driver, terminal = pty.fork()
    if driver == 0:
        termios.tcsetwinsize(2, (24, 100))
        with open(2, "w", closefd=False) as sys.stderr:  # not where pytest keeps what is printed
            os._exit(revalidate(tmp_path))
    shown = b""
    try:
        while part := os.read(terminal, 4096):
            shown += part
    except OSError:  # the other end is closed
        pass
    assert os.waitpid(driver, 0)[1] == 0
    assert re.search(rb"trials: .*5/12 s as recorded \[\d\d:\d\d<[\d:?]+", shown)


def test_samples_of_notes_are_run_again_and_those_that_differ_are_told(tmp_path, three, capsys):
    for seed in range(3):
        stale(tmp_path, OTHER, seed)
    assert revalidate(tmp_path, OTHER) == 0
    assert recheck.check(5, "cpu", tmp_path, seed=0) == 0
    assert "1 of 1 trials of samples were run again" in capsys.readouterr().out
    sampled = noted(tmp_path)[OTHER]["sample"]
    records.path(OTHER, tmp_path).unlink()
    for seed in range(3):
        parts = [part + 7 for part in line(seed)["metrics"]["parts"]]
        stale(tmp_path, OTHER, seed, metrics=line(seed)["metrics"] | {"parts": parts})
    assert set(sampled) <= {r.key for r in records.read(OTHER, tmp_path)}
    assert recheck.check(5, "cpu", tmp_path, seed=0) == 1
    assert "DIFFERS: largest difference" in capsys.readouterr().out
