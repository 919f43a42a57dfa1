"""Whatever a file or a command line holds: only declared errors.

``make test`` tries a few hundred, ``make soak`` a million, and tells how they ended.
"""

import copy
import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from fake_experiments import FAKE, NAME, line
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from soak import KILLS, injected
from test_claims import ENTRY, dump
from test_records import a_note

from mcnn import data
from mcnn.errors import McnnError, RecordError, UsageError
from mcnn.ledger import claims, cli, notes, records, registry, report, runner
from mcnn.ledger.claims import Claim

CLAIM = Claim.model_validate(ENTRY | {"where": {"size": "3"}, "seeds": 1})
with_fixtures = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from([NAME, "full", "0" * 16, "c" * 40, 2**70, 1e308, "repeats", 3, [1, 2]]),
    lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=5), v, max_size=3),
    max_leaves=6,
)


@st.composite
def changed(draw, good):
    """A structure with some of its parts replaced, removed or renamed."""
    made = copy.deepcopy(good)
    for _ in range(draw(st.integers(1, 3))):
        place = made
        while place:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            key = draw(st.sampled_from(keys))
            if isinstance(place[key], dict | list) and draw(st.booleans()):
                place = place[key]
                continue
            action = draw(st.sampled_from(["replace", "remove", "rename"]))
            if action == "replace":
                place[key] = draw(values)
            elif action == "remove":
                del place[key]
            elif isinstance(place, dict):
                place[draw(st.text(max_size=5))] = place.pop(key)
            break
    return made


@st.composite
def spoilt(draw, text):
    """Bytes with a few of them changed, cut out, or doubled."""
    made = bytearray(text)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(made)))
        end = draw(st.integers(start, min(len(made), start + 20)))
        made[start:end] = draw(st.binary(max_size=6) | st.just(bytes(made[start:end]) * 2))
    return bytes(made)


def sealed(made):
    """A line whose digest fits, as a forger's would, even around what cannot be sealed."""
    try:
        return json.dumps(records.seal(made)).encode()
    except McnnError:
        return json.dumps(made).encode()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


RECORD = {k: v for k, v in line(0, profile="full").items() if k != "digest"}


@with_fixtures
@given(st.one_of(changed(RECORD).map(sealed), spoilt(json.dumps(line(0)).encode())))
def test_records(folder, fake, text):
    with injected("damaged or forged records"):
        read_records(folder, text)


def read_records(folder, text):
    file = records.path(NAME, folder)
    file.write_bytes(text + b"\n")
    good, problems = records.scan(file, FAKE)
    assert len(good) <= text.count(b"\n") + 1
    assert all(isinstance(x, str) for x in problems)
    try:
        found = claims.judge(CLAIM, folder)
    except (RecordError, UsageError):
        return
    assert found.verdict


@with_fixtures
@given(st.one_of(changed(a_note("1" * 16, "2" * 16)).map(sealed), changed(RECORD).map(sealed)))
def test_notes(folder, fake, text):
    with injected("damaged or forged notes"):
        read_notes(folder, fake, text)


def read_notes(folder, fake, text):
    file = folder / records.REVALIDATIONS
    try:
        file.write_bytes(text + b"\n")
        good, problems = notes.scan_notes(folder)
        assert len(good) + len(problems) == 1
        try:
            assert notes.steps(fake, folder)
        except RecordError:
            assert problems
    finally:
        file.unlink()


ENTRIES = [ENTRY, ENTRY | {"id": "fake-other", "better": "higher", "tests": []}]


def dumped(made):
    return dump(made).encode("utf-8", "surrogatepass")


@given(st.one_of(changed(ENTRIES).map(dumped), spoilt(dumped(ENTRIES)), st.binary(max_size=60)))
def test_claims(tmp_path_factory, text):
    with injected("damaged claims"):
        read_claims(tmp_path_factory.getbasetemp() / "fuzzed-claims.yml", text)


def read_claims(file, text):
    file.write_bytes(text)
    try:
        found = claims.load(file)
    except UsageError as error:
        assert str(file) in str(error)  # noqa: PT017
    else:
        assert all(one.id == name for name, one in found.items())


def idx_file(numbers):
    """Bytes of an idx file: two zeros, the type, the dimensions, and the numbers."""
    header = bytes([0, 0, 8, numbers.ndim])
    return header + np.array(numbers.shape, ">i4").tobytes() + numbers.tobytes()


IMAGES = idx_file(np.arange(8 * 28 * 28, dtype=np.uint8).reshape(8, 28, 28))
LABELS = idx_file(np.arange(8, dtype=np.uint8))


@given(
    spoilt(IMAGES) | spoilt(IMAGES[:20]) | st.binary(max_size=40),
    spoilt(LABELS) | st.binary(max_size=20),
)
def test_images(tmp_path_factory, images, labels):
    raw = tmp_path_factory.getbasetemp() / "fuzzed-images/MNIST/raw"
    raw.mkdir(parents=True, exist_ok=True)
    for part in ("train", "t10k"):
        (raw / f"{part}-images-idx3-ubyte").write_bytes(images)
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(labels)
    with injected("damaged idx files"), pytest.raises(McnnError):
        data.load("mnist", root=raw.parents[1])


WORDS = st.sampled_from(
    """
    list run verify merge data fake-sum fake-* fast full auto cpu cuda 0 1 0-3 3,1 size=3 size
    --profile --device --seeds --dataset --only --redo-stale --jobs --spot --revalidate --sample
    --seed --results --notes --moved --update --within --patience -- -p fats mnist density-mnist
    [ * ? [!] no/such/folder . -1 1e9 99999999999999999999 --help --version
    """.split()  # noqa: SIM905
)


@with_fixtures
@given(st.lists(WORDS | st.text(max_size=6).filter(lambda x: "\0" not in x), max_size=6))
def test_command_lines(tmp_path, fake, monkeypatch, capsys, argv):
    with injected("command lines"):
        call(tmp_path, monkeypatch, capsys, argv)


def call(tmp_path, monkeypatch, capsys, argv):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runner, "run", lambda plans, *_: sum(len(p.todo) for p in plans))
    monkeypatch.setattr(runner, "again", lambda calls, *_: iter(()))
    known = registry.all_experiments()
    for name in [name for name in known if name != NAME]:
        monkeypatch.delitem(known, name)
    monkeypatch.setattr(report, "update_pages", lambda *_, **__: [])
    monkeypatch.setattr(data, "download", lambda name: None)
    monkeypatch.setattr(data, "status", lambda name: data.Status(name, "missing", None, "gone"))
    try:
        status = cli.main(argv)
    except SystemExit as end:
        status = end.code
    assert status in (0, 1, 2)
    assert "Traceback" not in capsys.readouterr().err


DRIVER = """
import sys
import fake_experiments as fake
from mcnn.ledger import cli, registry
registry.all_experiments()[fake.NAME] = fake.FAKE
sys.exit(cli.main(["run", fake.NAME, "--seeds", "0-39", "--device", "cpu", *sys.argv[1:]]))
"""


def driver(results, *options):
    environment = os.environ | {"FAKE_NAP": "0.02", "PYTHONPATH": os.pathsep.join(sys.path)}
    environment.pop("FAKE_FAULT", None)
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, "--results", str(results), *options],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def seeds(file):
    return {r.config.seed for r in records.scan(file, FAKE)[0]}


def test_kills_at_any_time(tmp_path, fake):
    """Runs, each by one or two processes or two drivers, are killed until none is left to do."""
    rng = random.Random(0)
    ways = [(["--jobs", "2"],), ([],), ([], [])]
    for number in range(KILLS):
        file = records.path(NAME, tmp_path / str(number))
        with injected("processes killed while they run", KILLS):
            started = [driver(file.parent, *options) for options in ways[number % len(ways)]]
            goal, end = rng.randrange(1, 30), time.monotonic() + 120
            while len(seeds(file)) < goal and time.monotonic() < end:
                time.sleep(rng.random() / 50)
            for process in started:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(60)
            before = seeds(file)
            assert goal <= len(before)
            assert driver(file.parent).wait(120) == 0
            assert seeds(file) == set(range(40)) >= before
            assert file.read_bytes().count(b"\n") == 40
            assert records.scan(file)[1] == []
