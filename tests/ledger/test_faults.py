"""Faults from outside: closed pipes, poor encodings, files that are not what they should be."""

import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from fake_experiments import NAME, line

from mcnn.errors import McnnError, RecordError, UsageError
from mcnn.ledger import claims, cli, records, runner, store

ROOT = Path(__file__).parents[2]
FAKE = (
    "import sys; sys.path.insert(0, {tests!r}); import fake_experiments as f\n"
    "from mcnn.ledger import cli, registry\n"
    "known = registry.all_experiments(); known.clear(); known[f.NAME] = f.FAKE\n"
    "sys.exit(cli.main(sys.argv[1:]))\n"
).format(tests=str(ROOT / "tests"))


def shell(tail, *arguments, **environment):
    """Run the command line in a shell, with what follows it there."""
    command = ["sh", "-c", f'"$0" -c "$1" {" ".join(arguments)} {tail}', sys.executable, FAKE]
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    return subprocess.run(command, env=environment, capture_output=True, check=False)


def test_a_reader_that_leaves_stops_no_work(tmp_path):
    run = ("run", NAME, "--device", "cpu", "--results", str(tmp_path))
    done = shell("| true", *run)
    assert done.stderr == b""
    assert len(list(store.lines(records.path(NAME, tmp_path)))) == 4


@pytest.mark.parametrize("tail", [">&-", "2>&-", ">&- 2>&-", "<&-", ">/dev/full"])
def test_closed_streams_stop_no_work(tmp_path, tail):
    run = ("run", NAME, "--device", "cpu", "--results", str(tmp_path))
    done = shell(tail, *run)
    full = tail == ">/dev/full"
    assert done.returncode == (2 if full else 0), done.stderr
    assert (b"No space left on device" in done.stderr) == full
    assert b"Traceback" not in done.stderr
    if not full:
        assert len(list(store.lines(records.path(NAME, tmp_path)))) == 4


@pytest.mark.parametrize(
    "environment",
    [
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"PYTHONIOENCODING": "cp1252"},
    ],
)
def test_a_poor_encoding_stops_no_verdict(environment):
    def verify(*names):
        command = [sys.executable, "-m", "mcnn", "verify", *names]
        environ = os.environ | {"PYTHONPATH": str(ROOT)} | environment
        return subprocess.run(command, env=environ, cwd=ROOT, capture_output=True, check=False)

    done = verify("nutshell-backprop", "density-mnist")
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"nutshell-backprop" in done.stdout
    done = verify("no-such-claim-\u2714")
    assert done.returncode == 2
    assert b"Traceback" not in done.stderr


def sealed(**changes):
    made = {k: v for k, v in (line(0) | changes).items() if v is not None}
    return json.dumps(records.seal(made)).encode()


def deep(n=100_000):
    return b"[" * n + b"]" * n


def nested(n):
    value = 1
    for _ in range(n):
        value = [value]
    return value


DAMAGED = {
    "metrics {}": lambda: sealed(metrics={}),
    "metrics a list": lambda: sealed(metrics=[1]),
    "config a list": lambda: sealed(config=["seed", "size", "shape"]),
    "config a text": lambda: sealed(config="seed"),
    "code a list": lambda: sealed(provenance=line(0)["provenance"] | {"code": [1]}),
    "no provenance": lambda: sealed(provenance={}),
    "seconds a text": lambda: sealed(provenance=line(0)["provenance"] | {"seconds": "long"}),
    "experiment a list": lambda: sealed(experiment=[NAME]),
    "profile a dict": lambda: sealed(profile={}),
    "hash a number": lambda: sealed(hash=1),
    "digest a list": lambda: json.dumps(line(0) | {"digest": []}).encode(),
    "format a dict": lambda: json.dumps(line(0) | {"format": {}}).encode(),
    "nan": lambda: json.dumps(line(0)).replace('"size": 3', '"size": NaN').encode(),
    "deep": deep,
    "deep inside": lambda: b'{"digest": "0", "x": ' + deep(900) + b"}",
    "deep configuration": lambda: sealed(config=line(0)["config"] | {"shape": nested(400)}),
    "huge number": lambda: b'{"digest": 1' + b"0" * 10_000 + b"}",
    "latin-1": lambda: '{"digest": "é"}'.encode("latin-1"),
    "zeros": lambda: bytes(400),
    "utf-16": lambda: json.dumps(line(0)).encode("utf-16"),
}


@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_record_is_a_line_of_its_own(tmp_path, fake, damage, capsys):
    file = records.path(NAME, tmp_path)
    file.write_bytes(json.dumps(line(1)).encode() + b"\n" + damage() + b"\n")
    good, problems = records.scan(file)
    assert len(good) == 1
    assert problems[0].startswith(f"{file}:2: ")
    assert len(problems[0]) < 500
    for command in (["verify"], ["list", NAME], ["run", NAME], ["merge", str(file)]):
        assert cli.main([*command, "--results", str(tmp_path)]) in (1, 2)
        assert capsys.readouterr().err.count("\n") == 1


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "\n".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    "content",
    [
        "- id: é".encode("latin-1"),
        b"- id: 2024-99-99",
        b"- {id: x, seeds: !!int no}",
        b"- {id: x, seeds: !!timestamp no}",
        b"- {id: x, seeds: 1" + b"0" * 10_000 + b"}",
        BOMB.encode(),
        b"- [" * 10_000,
        b"[" * 10_000,
        b"- {? [a] : b}",
        b"- !!python/object/apply:os.system [true]",
        b"- &a {id: *a}",
        bytes(100),
    ],
)
def test_damaged_claims_are_one_error_at_once(tmp_path, content):
    file = tmp_path / "claims.yml"
    file.write_bytes(content)
    start = time.process_time()  # others may be at work, too
    with pytest.raises(UsageError) as error:
        claims.load(file)
    assert str(file) in str(error.value)
    assert len(str(error.value)) < 1000
    assert time.process_time() - start < 2


@pytest.mark.parametrize("depth", [500, 5000])
def test_metrics_that_are_nested_deeply_are_refused_or_read_back(tmp_path, fake, depth):
    file = records.path(NAME, tmp_path)
    with suppress(RecordError):
        records.append([line(0, metrics={"a": nested(depth)})], file)
    assert len(records.scan(file)[0]) == file.exists()


@pytest.mark.parametrize("seeds", ["0-99999999999", "0-999999,5", "1" * 30 + "-" + "9" * 40])
def test_more_seeds_than_anyone_means_are_refused_at_once(seeds, capsys):
    with pytest.raises(SystemExit):
        cli.main(["run", NAME, "--seeds", seeds])
    assert "more than 1,000,000 seeds" in capsys.readouterr().err


def test_an_unknown_profile_is_refused_before_anything_runs(fake, monkeypatch):
    from mcnn.ledger import report

    monkeypatch.setattr(runner, "run_trial", lambda *_: pytest.fail("ran"))
    with pytest.raises(McnnError, match="no profile 'fats'"):
        report.run(NAME, "fats")
