"""How the ledger scales: appending, scanning, and the memory that takes. Prints a table.

``python tests/ledger/scale.py 1000 100000``
"""

import json
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from fake_experiments import FAKE, NAME, FakeTrial, line

from mcnn.ledger import records, registry


def lines(first, last):
    """Records like those of the book, of about 1 kB, without running a trial each."""
    made = line(0)
    for seed in range(first, last):
        trial = FakeTrial(seed=seed)
        config = {"hash": FAKE.key("fast", trial), "config": trial.config()}
        yield records.seal({k: v for k, v in (made | config).items() if k != "digest"})


def fill(file, count):
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as out:
        out.writelines(json.dumps(x) + "\n" for x in lines(0, count))


def held():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20


def measure(count, appends=50):
    """Return milliseconds of the first append and the median of later ones, and those of the
    processor alone; seconds and seconds of the processor of a scan; and the MiB that it holds.
    """
    registry.all_experiments()[NAME] = FAKE
    with tempfile.TemporaryDirectory() as folder:
        file = records.path(NAME, Path(folder))
        fill(file, count)
        times = []
        for new in lines(count, count + appends):
            wall, own = time.perf_counter(), time.process_time()
            records.append([new], file)
            times.append((1e3 * (time.perf_counter() - wall), 1e3 * (time.process_time() - own)))
        before, wall, own = held(), time.perf_counter(), time.process_time()
        good, problems = records.scan(file, FAKE)
        scan = (time.perf_counter() - wall, time.process_time() - own)
        assert len(good) == count + appends, problems[:1]
        later = tuple(statistics.median(kind) for kind in zip(*times[1:], strict=True))
        return times[0], later, scan, held() - before


if __name__ == "__main__":
    print("records   first append (CPU)      append (CPU)         scan (CPU)    memory")
    for count in map(int, sys.argv[1:] or ["1000", "100000"]):
        first, later, scan, memory = measure(count)
        text = f"{count:>7}  {first[0]:7.1f} ms ({first[1]:6.1f})"
        text += f"  {later[0]:6.2f} ms ({later[1]:5.2f})"
        print(f"{text}  {scan[0]:6.2f} s ({scan[1]:5.2f})  {memory:4.0f} MiB", flush=True)
