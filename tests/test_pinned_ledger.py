"""Small choices in the ledger that nothing else shows, each with what it would spoil."""

import json

import pytest
from fake_experiments import NAME, FakeTrial, line

from mcnn.ledger import agreement, notes, records, store

CURVE = [0.1, 0.2, 0.3]


def text_of(made):
    return json.dumps(made).encode()


def test_the_digest_is_read_off_a_line_of_this_format_alone():
    """Else each line of a long file is decoded to be found."""
    made = line(0)
    written = text_of(made)
    assert written.startswith(b'{"format": 2, ')
    assert store._sealed(written) == made["digest"].encode()
    assert store._sealed(written.replace(b'"seed": 0', b'"seed": 1')) is None
    assert store._sealed(written.replace(b'"format": 2, ', b"")) is None
    assert store._sealed(written.replace(b'"format": 2, ', b'"format": 2,  ')) is None


def test_a_line_is_known_by_its_hash_wherever_that_stands():
    """And a note, which has none, by its digest."""
    made = line(0)
    usual = text_of(made)
    assert store._name(usual) == (made["hash"], made["digest"][:16])
    moved = records.seal({k: made[k] for k in ("config", "metrics", "provenance", "hash")})
    assert store._KEY.match(text_of(moved)) is None
    assert store._name(text_of(moved)) == (made["hash"], moved["digest"][:16])
    note = records.seal({"experiment": "a"})
    assert store._name(text_of(note)) == (note["digest"], note["digest"][:16])


@pytest.mark.parametrize("way", ["another file", "the same file"])
def test_an_index_is_made_anew_for_what_was_replaced(tmp_path, way):
    """Also where size and end are as they were; nothing else would show that lines are others."""
    file, other = tmp_path / "a", tmp_path / "b"
    texts = [text_of(line(seed, metrics={"total": 1.0})) + b"\n" for seed in range(3)]
    first, second, last = texts
    assert len(first) == len(second)
    file.write_bytes(first + last)
    index = store._Index()
    with file.open("rb") as held:
        index.read(held.fileno())
    assert line(0)["hash"] in index.places
    if way == "another file":
        other.write_bytes(second + last)
        other.replace(file)
    else:
        file.write_bytes(second)
    with file.open("rb") as held:
        index.read(held.fileno())
    assert (line(0)["hash"] in index.places, line(1)["hash"] in index.places) == (False, True)


def test_a_new_file_may_be_read_by_all(tmp_path):
    store.replace_file(tmp_path / "a", b"content")
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o644


def test_a_record_of_a_file_keeps_its_text_until_somebody_asks(fake, tmp_path):
    """Which is a tenth of the memory: a hundred thousand are held at once."""
    made = line(0)
    records.append([made], records.path(NAME, tmp_path))
    (held,) = records.scan(records.path(NAME, tmp_path), fake)[0]
    assert isinstance(held._line, bytes)
    assert held.metrics == made["metrics"]
    assert records.Record(made, FakeTrial(seed=0)).metrics == made["metrics"]


def test_what_records_rest_on_is_counted(fake, tmp_path):
    now, old = line(0, profile="full"), line(1, profile="full", code="0" * 16)
    dirty = line(2, profile="full", provenance=now["provenance"] | {"dirty": True})
    held = [records.Record(one, FakeTrial(seed=k)) for k, one in enumerate((now, old, dirty))]
    found = notes.support([(fake, held)], tmp_path)
    assert (found.total, found.steps, found.flaws.total()) == (3, {0: 1}, 1)
    assert str(found).startswith("3 records: 1 made by today's code; 1 stale; 1 decide nothing, ")


@pytest.mark.parametrize("other", [{"profile": "full"}, {"experiment": "a"}, {"experiment": "z"}])
def test_the_spread_is_taken_over_seeds_of_the_same_trial(other):
    """A wide spread elsewhere must not excuse a number here."""

    def record(seed, shift=0.0, **changes):
        curve = [x + shift for x in CURVE]
        return records.Record(line(seed, metrics={"curve": curve}, **changes), FakeTrial(seed=seed))

    held, fresh = record(0), {"curve": [x + 1e-4 for x in CURVE]}
    elsewhere = [record(seed, shift=100.0 * seed, **other) for seed in range(1, 9)]
    assert agreement.compare(held, fresh, 1e-6, elsewhere).word == "DIFFERS"
    here = [record(seed, shift=100.0 * seed) for seed in range(1, 9)]
    assert agreement.compare(held, fresh, 1e-6, here).word != "DIFFERS"
