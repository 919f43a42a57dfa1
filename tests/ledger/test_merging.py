"""Merging what other machines recorded: conflicts, flaws, and what is no record."""

import json

import pytest
from fake_experiments import COMMITTED, NAME, line

from mcnn.errors import RecordError
from mcnn.ledger import cli, differing, merging, records, store


def write(folder, *lines):
    file = records.path(NAME, folder)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(x) + "\n" for x in lines))
    return folder


def against(seed, digest):
    told = {"against": digest, "difference": "much"}
    return records.seal(line(seed, profile="full") | told)


@pytest.fixture
def there(tmp_path, fake):
    return tmp_path / "there"


@pytest.fixture
def here(tmp_path, fake):
    return tmp_path / "here"


def dirty(seed):
    made = line(seed)["provenance"] | {"dirty": True}
    return line(seed, provenance=made)


def test_a_record_that_decides_nothing_gives_way_to_one_that_does(here, there):
    write(here, dirty(0), line(1))
    write(there, line(0), dirty(1))
    assert merging.merge([there], here) == {NAME: 1}
    held = records.read(NAME, here, "fast")
    assert {r.metrics["seed"]: r.flaw for r in held} == {0: None, 1: None}


def test_of_two_sources_the_record_that_decides_is_taken(here, there, tmp_path):
    write(there, dirty(0))
    write(tmp_path / "third", line(0))
    for sources in ([there, tmp_path / "third"], [tmp_path / "third", there]):
        records.path(NAME, here).unlink(missing_ok=True)
        assert merging.merge(sources, here) == {NAME: 1}
        assert [r.flaw for r in records.read(NAME, here, "fast")] == [None]


def test_what_speaks_against_our_record_outlives_what_speaks_against_theirs(here, there):
    """Both are runs of one trial, against two records of it."""
    ours, theirs = line(0, profile="full"), line(0, profile="full", metrics={"total": 7.0})
    write(here, ours)
    write(there, theirs)
    for folder, digest in ((here, ours["digest"]), (there, theirs["digest"])):
        store.append([against(0, digest)], differing.path(NAME, folder))
    merging.merge([there], here)
    assert differing.digests(NAME, here) == {ours["digest"], theirs["digest"]}
    assert merging.merge([there], here) == {NAME: 0}
    assert len(list(store.lines(differing.path(NAME, here)))) == 2


def test_the_last_run_against_a_record_takes_the_place_of_the_one_before(here):
    store.append([against(0, "a" * 64)], differing.path(NAME, here))
    differing.keep(line(0, profile="full"), "a" * 64, "more", here)
    differing.keep(line(0, profile="full"), "b" * 64, "more", here)
    assert len(list(store.lines(differing.path(NAME, here)))) == 2


@pytest.mark.parametrize("keep", [True, False])
def test_a_run_that_speaks_against_a_record_is_no_record(here, there, keep):
    file = differing.path(NAME, there)
    store.append([against(0, "a" * 64)], file)
    if keep:
        file = file.rename(records.path(NAME, there))
    with pytest.raises(RecordError, match="foreign: a run that speaks against a record"):
        merging.merge([file], here)


def test_a_folder_without_records_is_not_merged_in_silence(here, there, capsys):
    write(there / "results", line(0))
    assert cli.main(["merge", str(there), "--results", str(here)]) == 2
    assert "no records in" in capsys.readouterr().err


def test_a_file_of_no_experiment_merges_nothing_even_when_it_is_empty(here, there):
    write(there, line(0))
    store.append([against(0, "a" * 64)], differing.path(NAME, there))
    (there / "zzz.jsonl").touch()
    with pytest.raises(RecordError, match="foreign: no experiment 'zzz'"):
        merging.merge([there], here)
    assert not here.exists()


def test_trials_that_came_out_otherwise_are_named(here, there, capsys):
    write(here, line(0), line(1))
    write(there, line(0), line(1, metrics=line(1)["metrics"] | {"total": 7.0}), line(2))
    assert cli.main(["merge", str(there), "--results", str(here)]) == 0
    shown = capsys.readouterr()
    assert shown.err.startswith(f"mcnn: {NAME} {line(1)['hash']} stays as it is here, and came out")
    assert shown.err.count("\n") == 1
    assert "1 new records" in shown.out


@pytest.mark.parametrize("digits", ["0.50", "5e-1"])
def test_what_would_not_read_back_is_not_written(here, there, digits):
    """Sealed as it stands, and written otherwise than it would be here."""
    text = json.dumps(line(0, metrics={"total": 0.5}))
    text = text.replace('"total": 0.5', f'"total": {digits}')
    content = text[: text.index(', "digest"')] + "}"
    made = json.loads(text) | {"digest": store.hashlib.sha256(content.encode()).hexdigest()}
    write(there)
    file = records.path(NAME, there)
    file.write_text(f'{content[:-1]}, "digest": "{made["digest"]}"}}\n')
    assert len(records.scan(file)[0]) == 1
    with pytest.raises(RecordError, match="would not read back"):
        merging.merge([there], here)
    assert not records.path(NAME, here).exists()
    store.append([line(1)], records.path(NAME, here))
    with pytest.raises(RecordError, match="would not read back"):
        merging.merge([there], here)
    assert len(records.scan(records.path(NAME, here))[0]) == 1


def test_the_first_format_is_merged_as_it_is(here, there):
    made = {k: v for k, v in line(0).items() if k not in ("format", "digest")}
    write(there, made | {"digest": store.digest(made)})
    assert merging.merge([there], here) == {NAME: 1}
    (held,) = records.read(NAME, here, "fast")
    assert "format" not in held.line
    assert held.provenance["commit"] == COMMITTED["commit"]
