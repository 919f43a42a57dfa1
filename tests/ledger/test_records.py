"""Records: whole or not there, whatever happens; nothing altered, damaged or foreign passes."""

import errno
import hashlib
import json
import multiprocessing
import os
import signal

import pytest
from fake_experiments import COMMITTED, NAME, line
from hypothesis import given
from hypothesis import strategies as st

from mcnn.errors import RecordError
from mcnn.ledger import cli, merging, notes, records, registry, revalidation, runner

OLD, OLDER = "0" * 16, "1" * 16


@pytest.fixture
def file(tmp_path, fake):
    return records.path(NAME, tmp_path)


def write(file, *lines):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(x) + "\n" for x in lines))


def seeds(file):
    return [r.metrics["seed"] for r in records.read(NAME, file.parent, "fast")]


def ran(log):
    return [int(row.split()[0]) for row in log.read_text().splitlines()]


# Kills, full disks, several writers


@pytest.mark.parametrize(
    ("fault", "kept"), [("die", 2), ("die before sync", 3), ("die in mid line", 2)]
)
def test_a_kill_at_any_moment_loses_no_record(mcnn, file, tmp_path, monkeypatch, fault, kept):
    log = tmp_path / "log"
    monkeypatch.setenv("FAKE_LOG", str(log))
    monkeypatch.setenv("FAKE_FAULT", f"{fault}:2")
    command = ("run", NAME, "--results", tmp_path, "--device", "cpu")
    assert mcnn(*command) == -signal.SIGKILL
    assert seeds(file) == list(range(kept))
    assert file.read_bytes().endswith(b"\n") == (fault != "die in mid line")

    monkeypatch.delenv("FAKE_FAULT")
    log.unlink()
    assert mcnn(*command) == 0
    assert ran(log) == list(range(kept, 4))
    assert seeds(file) == [0, 1, 2, 3]
    assert file.read_bytes().count(b"\n") == 4
    assert records.scan(file)[1] == []


def test_a_kill_while_a_record_is_replaced_keeps_the_old_one(mcnn, file, tmp_path, monkeypatch):
    write(file, *(line(seed, code=OLD) for seed in range(4)))
    before = file.read_bytes()
    monkeypatch.setenv("FAKE_FAULT", "die before rename:0")
    command = ("run", NAME, "--redo-stale", "--results", tmp_path, "--device", "cpu")
    assert mcnn(*command) == -signal.SIGKILL
    assert file.read_bytes() == before
    assert len(list(tmp_path.glob(f".{file.name}.*"))) == 1
    monkeypatch.delenv("FAKE_FAULT")
    assert mcnn(*command) == 0
    assert seeds(file) == [0, 1, 2, 3]
    assert not any(r.stale for r in records.read(NAME, tmp_path, "fast"))
    assert not list(tmp_path.glob(f".{file.name}.*"))


def test_a_full_disk_is_one_line_and_leaves_the_file_as_it_was(
    mcnn, file, tmp_path, monkeypatch, capfd
):
    monkeypatch.setenv("FAKE_FAULT", "full disk:2")
    assert mcnn("run", NAME, "--results", tmp_path, "--device", "cpu") == 2
    error = capfd.readouterr().err
    assert error.count("\n") == 1
    assert f"cannot write {file}: No space left on device" in error
    assert seeds(file) == [0, 1]
    assert [p.name for p in tmp_path.iterdir() if p.name != ".lock"] == [file.name]


@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
def test_an_error_at_any_step_of_writing_keeps_the_old_content(file, monkeypatch, call):
    records.append([line(0)], file)
    before = file.read_bytes()
    true_write = os.write

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def half(handle, content):
        if len(content) < 100:
            full()
        return true_write(handle, content[:-50])

    again = line(0, metrics={"seed": 7})
    for new, overwrite in [(line(1), False)] * (call != "replace") + [(again, True)]:
        if call == "write" and overwrite:
            continue  # a file beside it is written by other means
        with monkeypatch.context() as patch:
            patch.setattr(os, call, half if call == "write" else full)
            with pytest.raises(RecordError, match="No space left on device; what it held is unto"):
                records.append([new], file, overwrite=overwrite)
        assert file.read_bytes() == before
        assert not list(file.parent.glob(f".{file.name}.*"))
    assert records.append([line(1)], file) == 1
    assert seeds(file) == [0, 1]


def test_ctrl_c_takes_no_line_back_that_was_written(file, monkeypatch):
    records.append([line(0)], file)

    def interrupted(_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", interrupted)
        with pytest.raises(KeyboardInterrupt):
            records.append([line(1)], file)
    assert seeds(file) == [0, 1]
    assert records.append([line(1), line(2)], file) == 1
    assert seeds(file) == [0, 1, 2]


def test_modes_and_links_stay(file, tmp_path):
    real = tmp_path / "elsewhere" / "kept.jsonl"
    write(real, line(0))
    real.chmod(0o640)
    file.parent.mkdir(exist_ok=True)
    file.symlink_to(real)
    records.append([line(1)], file)
    records.append([line(0, metrics={"seed": 5})], file, overwrite=True)
    assert file.is_symlink()
    assert real.stat().st_mode & 0o777 == 0o640
    assert sorted(seeds(file)) == [1, 5]


def test_a_results_folder_that_cannot_be_is_refused_before_the_first_trial(
    mcnn, tmp_path, monkeypatch, capfd
):
    log, blocked = tmp_path / "log", tmp_path / "file"
    monkeypatch.setenv("FAKE_LOG", str(log))
    blocked.write_text("not a folder")
    for folder in (blocked, blocked / "below"):
        assert mcnn("run", NAME, "--results", folder) == 2
        error = capfd.readouterr().err
        assert error.startswith("mcnn: error: cannot ")
        assert str(blocked) in error
        assert error.count("\n") == 1
    assert not log.exists()
    assert blocked.read_text() == "not a folder"


def _append_each(file, lines):
    for one in lines:
        records.append([one], file)


def test_writers_at_the_same_time_lose_nothing(file):
    lines = [line(seed) for seed in range(48)]
    context = multiprocessing.get_context("fork")
    parts = [lines[k::3] + lines[:6] for k in range(3)]  # some trials by all of them
    writers = [context.Process(target=_append_each, args=(file, part)) for part in parts]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [w.exitcode for w in writers] == [0, 0, 0]
    assert sorted(seeds(file)) == list(range(48))


def test_appending_keeps_or_replaces_what_is_there(file):
    first, again = line(0), line(0, metrics={"seed": 77})
    assert records.append([first], file) == 1
    assert records.append([again, line(1), line(1)], file) == 1
    assert seeds(file) == [0, 1]
    assert records.append([again], file, overwrite=True) == 1
    assert sorted(seeds(file)) == [1, 77]


# What does not pass


def altered(x):
    return x | {"metrics": x["metrics"] | {"total": 0.5}}


BAD = {
    "altered value": (altered, "altered: its digest does not fit its content"),
    "altered provenance": (
        lambda x: x | {"provenance": x["provenance"] | {"device": "faster"}},
        "altered: its digest",
    ),
    "no digest": (lambda x: {k: v for k, v in x.items() if k != "digest"}, "damaged: not a record"),
    "other experiment": (lambda x: line(9, experiment="density-mnist"), "foreign: a record of"),
    "other profile": (lambda x: line(9, profile="huge"), "foreign: a record of"),
    "wrong hash": (lambda x: line(9, hash="f" * 16), "foreign: its hash is not that of its conf"),
    "other fields": (lambda x: line(9, config={"seed": 9}), "fields that differ: shape, size"),
    "no metrics": (
        lambda x: records.seal({k: v for k, v in x.items() if k not in ("metrics", "digest")}),
        "damaged: no 'metrics'",
    ),
    "not an object": (lambda x: [1, 2], "damaged: not a record"),
    "duplicate": (lambda x: line(0), "stands twice in this file"),
}


@pytest.mark.parametrize(("spoil", "message"), BAD.values(), ids=BAD)
def test_a_bad_line_is_named_with_its_file_and_number(file, capsys, spoil, message):
    write(file, line(0), spoil(line(1)), line(2))
    good, problems = records.scan(file)
    assert [r.metrics["seed"] for r in good] == [0, 2]
    assert len(problems) == 1
    assert problems[0].startswith(f"{file}:2: ")
    assert message in problems[0]
    results = ["--results", str(file.parent)]
    assert cli.main(["verify", *results]) == 1
    assert f"{file}:2: " in capsys.readouterr().err
    before = file.read_bytes()
    for command in (["run", NAME, "--device", "cpu"], ["list", NAME], ["merge", str(file)]):
        assert cli.main([*command, *results]) == 2
        shown = capsys.readouterr()
        assert shown.err.startswith(f"mcnn: error: {file}:2: ")
        assert shown.err.count("\n") == 1
        assert "take the line out and run its trial again" in shown.err
    assert file.read_bytes() == before


@pytest.mark.parametrize("cut", [1, 40, 200])
def test_half_a_line_at_the_end_is_as_if_it_was_never_written(file, cut):
    write(file, line(0), line(1))
    file.write_bytes(file.read_bytes()[:-cut])
    kept = [0, 1] if cut == 1 else [0]  # only the end of the line is gone
    assert seeds(file) == kept
    assert records.append([line(2)], file) == 1
    assert seeds(file) == [*kept, 2]
    assert records.scan(file)[1] == []
    assert file.read_bytes().count(b"\n") == len(kept) + 1


def test_half_a_line_in_the_middle_is_damaged_and_survives_writers(file):
    write(file, line(0))
    with file.open("ab") as out:
        out.write(json.dumps(line(1)).encode()[:-40] + b"\n")
    assert records.append([line(2)], file) == 1
    good, problems = records.scan(file)
    assert [r.metrics["seed"] for r in good] == [0, 2]
    assert problems[0].startswith(f"{file}:2: damaged: not a whole JSON line")


def test_what_others_do_to_the_file_between_appends_is_seen(file):
    records.append([line(0)], file)
    write(file, line(1), line(0))  # by another program: another content, perhaps the same inode
    assert records.append([line(0), line(1)], file) == 0
    with file.open("a") as out:
        out.write(json.dumps(line(2)) + "\n")
    assert records.append([line(2), line(3)], file) == 1
    assert seeds(file) == [1, 0, 2, 3]
    file.unlink()
    assert records.append([line(0)], file) == 1


def test_lines_of_the_first_format_are_read_by_their_own_rule(file):
    sealed = line(0)
    old = {k: v for k, v in sealed.items() if k not in ("format", "digest")}
    text = json.dumps(old, sort_keys=True)
    first = old | {"digest": hashlib.sha256(text.encode()).hexdigest()}
    write(file, first, line(1))
    assert seeds(file) == [0, 1]
    assert records.append([line(0)], file) == 0
    write(file, altered(first), sealed | {"format": 3})
    assert [p.partition(": ")[2][:20] for p in records.scan(file)[1]] == [
        "altered: its digest ",
        "of format 3, made by",
    ]


def test_bytes_that_are_no_text_are_damaged(file):
    write(file, line(0))
    with file.open("ab") as out:
        out.write(b"\xff\xfe\x00\n")
    assert records.scan(file)[1][0].startswith(f"{file}:2: damaged")


def test_a_file_of_no_experiment_is_foreign(tmp_path, fake, capsys):
    write(tmp_path / "unheard-of.jsonl", line(0))
    assert cli.main(["verify", "--results", str(tmp_path)]) == 1
    assert "unheard-of.jsonl:1: foreign: no experiment 'unheard-of'" in capsys.readouterr().err


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(),
        lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(), v, max_size=3),
        max_leaves=12,
    )
)
def test_a_sealed_line_reads_back_with_its_digest(value):
    sealed = records.seal({"metrics": value})
    again = json.loads(json.dumps(sealed))
    assert again == sealed
    assert records.digest(again) == sealed["digest"]
    assert records.digest(again | {"metrics": [value]}) != sealed["digest"]


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ({"loss": [1.0, float("nan")]}, r"metrics.loss\[1\] is nan"),
        ({"a": {"b": float("inf")}}, r"metrics.a.b is inf"),
        ({"a": 1 + 2j}, r"metrics.a is \(1\+2j\)"),
    ],
)
def test_what_is_no_finite_number_is_not_recorded(value, place):
    with pytest.raises(RecordError, match=f"cannot be recorded: {place}"):
        records.seal({"metrics": value})


# Merging


def test_merging_is_by_hash_and_idempotent(tmp_path, fake):
    a, b, here = (tmp_path / x for x in ("a", "b", "here"))
    write(records.path(NAME, a), line(0), line(1))
    write(records.path(NAME, b), line(1), line(2))
    write(records.path(NAME, here), line(2, metrics={"seed": 2, "mine": 1}))
    assert merging.merge([a, records.path(NAME, b)], here) == {NAME: 2}
    found = records.read(NAME, here, "fast")
    assert sorted(r.metrics["seed"] for r in found) == [0, 1, 2]
    assert found[0].metrics["mine"] == 1, "what was here stays"
    before = records.path(NAME, here).read_bytes()
    assert merging.merge([a, b], here) == {NAME: 0}
    assert records.path(NAME, here).read_bytes() == before


def test_merging_prefers_records_of_todays_code(tmp_path, fake):
    a, b, here = (tmp_path / x for x in ("a", "b", "here"))
    write(records.path(NAME, here), line(0, code=OLD), line(1))
    write(records.path(NAME, a), line(0), line(1, code=OLD), line(2))
    write(records.path(NAME, b), line(2, code=OLD))
    assert merging.merge([a, b], here) == {NAME: 2}
    found = {r.metrics["seed"]: r.stale for r in records.read(NAME, here, "fast")}
    assert found == {0: False, 1: False, 2: False}
    assert merging.merge([a, b], here) == {NAME: 0}


def test_a_damaged_source_merges_nothing_at_all(tmp_path, fake, capsys):
    a, b, here = (tmp_path / x for x in ("a", "b", "here"))
    write(records.path(NAME, a), line(0))
    write(records.path(NAME, b), line(1), altered(line(2)))
    for sources in ([a, b], [b, a], [a, tmp_path / "nowhere"]):
        status = cli.main(["merge", *map(str, sources), "--results", str(here)])
        assert status == 2
        assert capsys.readouterr().err.count("\n") == 1
        assert not records.path(NAME, here).exists()


# Records of older code


def test_records_of_older_code_are_stale_and_run_again_only_when_asked(file, fake):
    write(file, line(0, code=OLD), line(1))
    found = records.read(NAME, file.parent, "fast")
    assert [r.stale for r in found] == [True, False]
    p = runner.plan(NAME, results=file.parent)
    assert (p.done, p.stale, [t.seed for t in p.todo]) == (2, 1, [2, 3])
    p = runner.plan(NAME, results=file.parent, redo_stale=True)
    assert (p.done, p.stale, [t.seed for t in p.todo]) == (1, 1, [0, 2, 3])
    command = ["run", NAME, "--redo-stale", "--device", "cpu", "--results", str(file.parent)]
    assert cli.main(command) == 0
    found = records.read(NAME, file.parent, "fast")
    assert sorted((r.metrics["seed"], r.stale) for r in found) == [(s, False) for s in range(4)]


SAMPLED = [line(90), line(91)]  # trials that notes rest on, at `fast`, which decides nothing


def a_note(code, /, *older, **changes):
    told = {"experiment": NAME, "agreement": "repeats", "difference": 0.0}
    sample = {x["hash"]: told | {"code": c} for x, c in zip(SAMPLED, older, strict=False)}
    made = {"experiment": NAME, "code": code, "older": list(older), "sample": sample}
    made |= {"noted": "2026-01-01T00:00:00Z", "seed": 1, "device": "a machine"} | COMMITTED
    return made | changes


def note(results, code, /, *older, **changes):
    made = {k: v for k, v in a_note(code, *older, **changes).items() if v is not MISSING}
    records.append(SAMPLED, records.path(NAME, results))
    records.append([records.seal(made)], results / records.REVALIDATIONS)


MISSING = object()
PROOF = {"moved": {"commit": "d" * 40, "map": {}}, "sample": []}


def told(**changes):
    fair = {"experiment": NAME, "code": OLD, "agreement": "repeats", "difference": 0.0}
    return {"sample": {"0" * 16: fair | changes}}


def test_a_note_whose_sample_nobody_could_run_again_counts_for_nothing(tmp_path, fake, capsys):
    """The forger's second cut: a sample of trials that there are not, or of other code."""
    now = line(0)["provenance"]["code"]
    write(records.path(NAME, tmp_path), line(0, profile="full", code=OLD))
    made = a_note(now, OLD)
    for key, name in (("e" * 16, NAME), (SAMPLED[0]["hash"], "relu-leaky")):
        trial = {"experiment": name, "code": OLD, "agreement": "repeats", "difference": 0.0}
        sealed = records.seal(made | {"sample": {key: trial}})
        (tmp_path / records.REVALIDATIONS).write_text(json.dumps(sealed) + "\n")
        assert records.fresh_codes(fake, tmp_path) == {now}
        assert [r.stale for r in records.read(NAME, tmp_path)] == [True]
        assert len(notes.lost(tmp_path)) == 1
    records.append(SAMPLED, records.path(NAME, tmp_path))
    assert records.fresh_codes(fake, tmp_path) == {now}, "of an experiment of other code"
    assert cli.main(["verify", "--notes", "--results", str(tmp_path)]) == 0
    assert "1 notes count for nothing" in capsys.readouterr().out
    note(tmp_path, now, OLD)
    assert records.fresh_codes(fake, tmp_path) == {now, OLD}
    assert len(notes.lost(tmp_path)) == 1


@pytest.mark.parametrize("there", [True, False])
def test_a_note_of_the_first_format_needs_a_recorded_sample_too(tmp_path, fake, there):
    now = line(0)["provenance"]["code"]
    made = {k: v for k, v in a_note(now, OLD).items() if k != "seed"}
    made |= {"sample": [SAMPLED[0]["hash"]]}
    write(tmp_path / records.REVALIDATIONS, made | {"digest": records.digest(made)})
    if there:
        records.append(SAMPLED, records.path(NAME, tmp_path))
    assert (OLD in records.fresh_codes(fake, tmp_path)) == there


def test_notes_lead_on_from_each_other_in_any_order(tmp_path, fake):
    now = line(0)["provenance"]["code"]
    note(tmp_path, now, OLD)
    assert records.fresh_codes(fake, tmp_path) == {now, OLD}
    note(tmp_path, OLD, OLDER)
    note(tmp_path, "2" * 16, "3" * 16)
    assert records.fresh_codes(fake, tmp_path) == {now, OLD, OLDER}
    assert notes.steps(fake, tmp_path) == {now: 0, OLD: 1, OLDER: 2}
    note(tmp_path, OLDER, now)  # round in a circle
    note(tmp_path, now, OLDER, **PROOF)  # a shorter way
    assert notes.steps(fake, tmp_path) == {now: 0, OLD: 1, OLDER: 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sample": {}}, "a note whose 'sample' is {}"),
        ({"sample": []}, "a note whose 'sample' is []"),
        ({"sample": ["0" * 16]}, "a note whose 'sample' is"),
        ({"sample": MISSING}, "a note without 'sample'"),
        ({"seed": MISSING}, "a note without 'seed'"),
        ({"device": ""}, "a note whose 'device' is ''"),
        ({"commit": None}, "a note whose 'commit' is None"),
        ({"dirty": True}, "a note whose 'dirty' is True"),
        ({"code": ["x"]}, "a note whose 'code' is"),
        ({"older": OLD}, "a note whose 'older' is"),
        ({"experiment": MISSING}, "a note without 'experiment'"),
        ({"older": [OLD, OLDER]}, f"its sample has no trial of the older code {OLDER}"),
        (told(code=OLDER), f"its sample has no trial of the older code {OLD}"),
        (told(agreement="DIFFERS"), "whose 'agreement' is 'DIFFERS'"),
        (told(difference=-1), "whose 'difference' is -1"),
        ({"sample": {"0" * 16: 1}}, "a trial of its sample is 1"),
        ({"moved": {}}, "a note whose 'sample' is"),
        ({"moved": {}, "sample": []}, "a proof without 'commit'"),
        ({"moved": {"commit": "HEAD", "map": {}}, "sample": []}, "whose 'commit' is 'HEAD'"),
        ({"moved": {"commit": "d" * 40, "map": {"a": 1}}, "sample": []}, "a proof whose 'map'"),
    ],
)
def test_a_note_that_nobody_could_check_counts_for_nothing(tmp_path, fake, capsys, change, message):
    """The forger's short cut: with an empty sample a stale record counted."""
    write(records.path(NAME, tmp_path), line(0, profile="full", code=OLD))
    note(tmp_path, line(0)["provenance"]["code"], OLD, **change)
    assert cli.main(["verify", "--results", str(tmp_path)]) == 1
    shown = capsys.readouterr().err
    assert f"{tmp_path / records.REVALIDATIONS}:1: damaged: " in shown
    assert message in shown
    with pytest.raises(RecordError, match="damaged"):
        records.read(NAME, tmp_path)


@pytest.mark.parametrize("sample", [[], "0" * 16, None])
def test_notes_of_the_first_format_need_a_sample_too(tmp_path, fake, sample):
    made = {k: v for k, v in a_note(line(0)["provenance"]["code"], OLD).items() if k != "seed"}
    for good, one in ((True, ["0" * 16]), (False, sample)):
        old = made | {"sample": one}
        text = json.dumps(old, sort_keys=True)
        old |= {"digest": hashlib.sha256(text.encode()).hexdigest()}
        write(tmp_path / records.REVALIDATIONS, old)
        assert bool(records.scan_notes(tmp_path)[0]) == good


def test_revalidating_notes_what_a_sample_of_every_older_code_shows(tmp_path, fake, capsys):
    file = records.path(NAME, tmp_path)
    lines = [line(0, profile="full", code=OLD), line(1, profile="full", code=OLDER)]
    write(file, *lines, line(2, profile="full"))
    command = ["verify", "--revalidate", NAME, "--sample", "1", "--results", str(tmp_path)]
    assert cli.main([*command, "--device", "cpu"]) == 0
    assert capsys.readouterr().out.count("repeats") == 2, "one of each code"
    (noted,) = records.revalidations(tmp_path)
    assert noted["older"] == [OLD, OLDER]
    assert {key: told["code"] for key, told in noted["sample"].items()} == {
        x["hash"]: x["provenance"]["code"] for x in lines
    }
    assert {told["agreement"] for told in noted["sample"].values()} == {"repeats"}
    assert type(noted["seed"]) is int
    assert noted["commit"]
    assert noted["device"]
    assert not any(r.stale for r in records.read(NAME, tmp_path))
    assert cli.main(command) == 0
    assert "no record is stale" in capsys.readouterr().out

    elsewhere = tmp_path / "elsewhere"
    assert merging.merge([tmp_path], elsewhere) == {NAME: 3}
    assert merging.merge([tmp_path], elsewhere) == {NAME: 0}
    assert records.revalidations(elsewhere) == [noted]


def test_revalidation_fails_where_numbers_have_changed(tmp_path, fake, capsys):
    changed = line(0)["metrics"] | {"total": 7.0}
    write(records.path(NAME, tmp_path), line(0, profile="full", code=OLD, metrics=changed))
    assert revalidation.revalidate([NAME], 1, "cpu", tmp_path) == 1
    assert "DIFFERS" in capsys.readouterr().out
    assert records.revalidations(tmp_path) == []
    assert records.read(NAME, tmp_path)[0].stale


def test_an_altered_note_is_caught(tmp_path, fake, capsys):
    file = tmp_path / records.REVALIDATIONS
    note(tmp_path, line(0)["provenance"]["code"], OLD)
    file.write_text(file.read_text().replace(OLD, OLDER))
    with pytest.raises(RecordError, match=r"revalidations.jsonl:1: altered"):
        records.read(NAME, tmp_path)
    assert cli.main(["verify", "--results", str(tmp_path)]) == 1
    assert f"{file}:1: altered" in capsys.readouterr().err


def test_a_spot_check_runs_recorded_trials_again(tmp_path, fake, capsys):
    file = records.path(NAME, tmp_path)
    write(file, line(0, profile="full"), line(1, profile="full"))
    command = ["verify", "--spot", "5", "--device", "cpu", "--results", str(tmp_path)]
    assert cli.main(command) == 0
    assert capsys.readouterr().out.count("repeats: largest difference 0, tolerance 1e-06") == 2
    other = line(0)["metrics"]
    other = other | {"parts": [other["parts"][0] + 2e-6, *other["parts"][1:]]}
    write(file, line(0, profile="full", metrics=other))
    assert cli.main(command) == 1
    assert "DIFFERS: largest difference 2e-06" in capsys.readouterr().out
    write(file, line(0, profile="full", metrics={"seed": 0}))
    assert cli.main(command) == 1
    assert "metrics.parts[0] is no longer the same" in capsys.readouterr().out
    file.unlink()
    assert cli.main(command) == 2
    assert "no fresh records" in capsys.readouterr().err


def test_configurations_come_back_as_they_were(file, fake):
    records.append([line(3)], file)
    (found,) = records.read(NAME, file.parent, "fast")
    (trial,) = (t for t in fake.trials("fast", range(4)) if t.seed == 3)
    assert found.config == trial
    assert fake.key("fast", found.config) == found.key != fake.key("full", trial)
    assert registry.get(NAME) is fake
