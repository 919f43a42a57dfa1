"""The ledger scales: by the processor's own time, for tests run beside each other."""

import json
import time

import scale
from fake_experiments import NAME, line

from mcnn.ledger import records


def test_appending_does_not_depend_on_what_is_there(fake):
    _, few, _, _ = scale.measure(300, appends=30)
    _, many, scan, memory = scale.measure(10_000, appends=30)
    assert many[1] < 5, "milliseconds"
    assert many[1] < 3 * few[1] + 0.5
    assert scan[1] < 1, "seconds: ten times as many take two on a machine of one's own"
    assert memory < 30, "MiB"


def test_appending_reads_only_what_others_appended(tmp_path, fake, monkeypatch):
    file = records.path(NAME, tmp_path)
    scale.fill(file, 500)
    asked = []
    true_name = records.store._name
    monkeypatch.setattr(records.store, "_name", lambda text: asked.append(1) or true_name(text))
    records.append([line(1000)], file)
    assert len(asked) == 501, "once"
    asked.clear()
    records.append([line(1001)], file)
    assert len(asked) == 1
    with file.open("ab") as out:
        out.write(b"".join(json.dumps(x).encode() + b"\n" for x in scale.lines(2000, 2003)))
    asked.clear()
    assert records.append([line(1001), line(2001), line(1002)], file) == 1
    assert len(asked) == 4
    start = time.process_time()
    assert len(records.scan(file)[0]) == 506
    assert time.process_time() - start < 1
