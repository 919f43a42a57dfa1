"""Files that are no files, locks that nobody gives back, and systems that have none."""

import errno
import fcntl
import json
import os
import threading
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from fake_experiments import NAME, line

from mcnn.errors import RecordError, UsageError
from mcnn.ledger import cli, records, runner, store


@pytest.fixture
def file(tmp_path, fake):
    return records.path(NAME, tmp_path)


def pipe(file):
    os.mkfifo(file)


def endless(file):
    file.symlink_to("/dev/zero")


@pytest.mark.parametrize("make", [pipe, endless, os.mkdir])
@pytest.mark.parametrize("command", [["verify"], ["list", NAME], ["run", NAME], ["merge", "FILE"]])
def test_what_is_no_file_is_one_line_and_not_waited_for(file, capsys, make, command):
    make(file)
    argv = [str(file) if x == "FILE" else x for x in command]
    assert cli.main([*argv, "--results", str(file.parent)]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("mcnn: error: ")
    assert str(file) in shown
    assert shown.count("\n") == 1


def test_a_file_that_cannot_be_written_is_found_before_the_first_trial(file, monkeypatch):
    """The folder can: but the file is of somebody else."""
    records.append([line(0)], file)
    plan = runner.plan(NAME, results=file.parent)
    true_open = os.open

    def refused(path, flags, *more, **others):
        if Path(path) == file and flags & os.O_RDWR:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return true_open(path, flags, *more, **others)

    monkeypatch.setattr(os, "open", refused)
    monkeypatch.setattr(runner, "run_trial", lambda *_: pytest.fail("ran"))
    with pytest.raises(UsageError, match=f"cannot write to {file}: Permission denied"):
        runner.run([plan], torch.device("cpu"), file.parent)


@pytest.mark.parametrize("make", [pipe, os.mkdir])
def test_what_is_no_file_is_not_written_to(file, make):
    make(file)
    with pytest.raises(RecordError, match="cannot write"):
        records.append([line(0)], file)
    with pytest.raises(RecordError, match="cannot read"):
        store.find(file, ["a"])


@pytest.mark.filterwarnings("ignore:flock not supported")
@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EIO])
def test_without_locks_a_record_is_written_or_the_error_is_one_line(file, monkeypatch, number):
    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with suppress(RecordError):
        records.append([line(0)], file)
    assert len(records.scan(file)[0]) == file.exists()


def test_a_lock_that_another_one_keeps_is_named_and_waited_for(file, monkeypatch, capsys):
    monkeypatch.setattr(store, "PATIENCE", 0.1)
    with open(file.parent / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        release = threading.Timer(1.0, fcntl.flock, (lock, fcntl.LOCK_UN))
        release.start()
        assert records.append([line(0)], file) == 1
        release.join()
    shown = capsys.readouterr().err
    assert shown.startswith(f"mcnn: waiting for another program that holds {file.parent}/.lock; ")


def test_a_file_is_replaced_whole_however_little_is_read_at_a_time(file, monkeypatch):
    """Linux gives 2 GiB at most for one call."""
    records.append([line(0), line(1), line(2)], file)
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda h, n, at: pread(h, min(n, 1000), at))
    records.append([line(1)], file, overwrite=True)
    assert [r.metrics["seed"] for r in records.scan(file)[0]] == [0, 2, 1]


@pytest.mark.parametrize("end", ["\r\n", "\n\n", " \n"])
def test_other_ends_of_lines_make_no_difference(file, end):
    made = [line(seed) for seed in range(3)]
    file.write_text("".join(json.dumps(x) + end for x in made[:2]), newline="")
    assert records.append(made, file) == 1
    assert records.append([made[0]], file, overwrite=True) == 1
    good, problems = records.scan(file)
    assert (sorted(r.metrics["seed"] for r in good), problems) == ([0, 1, 2], [])


@pytest.mark.parametrize("mark", ["\ufeff", "\0\0\0"])
def test_what_stands_before_a_line_is_damage_that_writers_leave_alone(file, mark):
    file.write_text(mark + json.dumps(line(0)) + "\n", encoding="utf-8")
    before = file.read_bytes()
    records.append([line(1)], file)
    assert file.read_bytes().startswith(before)
    good, problems = records.scan(file)
    assert (len(good), len(problems)) == (1, 1)
    assert problems[0].startswith(f"{file}:1: damaged")
