"""What `make soak` did to the ledger, and what became of it: a table below the tests.

A fault has survived if it ended in a declared error or in nothing at all, and is lost otherwise:
then a record is gone, or somebody sees a traceback.
`SOAK=2000 make soak` tries as many inputs of each kind, in place of 200,000.
"""

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

LONG = os.environ.get("HYPOTHESIS_PROFILE") == "soak"
INPUTS = int(os.environ.get("SOAK", "200000"))
KILLS = 54 if LONG else 1
# What each of these injects is one fault a test; the others count for themselves.
FILES = ("test_faults.py", "test_records.py", "test_cluster.py")

INJECTED: Counter[str] = Counter()
SURVIVED: Counter[str] = Counter()
_bars: dict[str, tqdm] = {}


@contextmanager
def injected(kind: str, total: int = INPUTS) -> Iterator[None]:
    """Count a fault, and that it has survived if the block ends."""
    INJECTED[kind] += 1
    if LONG and kind not in _bars:
        _bars[kind] = tqdm(total=total, desc=kind, unit="fault", mininterval=5, smoothing=0)
    yield
    SURVIVED[kind] += 1
    if LONG:
        _bars[kind].update()


def rows(passed: Iterable[str], failed: Iterable[str]) -> list[tuple[str, int, int]]:
    """Return kind, injected and survived: of what was counted, and of tests by their name.

    Parameters
    ----------
    passed, failed
        Ids of tests, such as ``tests/ledger/test_faults.py::test_closed_streams[>&-]``.
    """
    found = [(kind, number, SURVIVED[kind]) for kind, number in INJECTED.items()]
    by_name: dict[str, list[bool]] = defaultdict(list)
    for ids, good in ((passed, True), (failed, False)):
        for one in ids:
            file, _, name = one.partition("::")
            if Path(file).name in FILES:
                sentence = name.partition("[")[0].removeprefix("test_").replace("_", " ")
                by_name[sentence].append(good)
    return found + [(name, len(good), sum(good)) for name, good in by_name.items()]


def table(found: Sequence[tuple[str, int, int]]) -> str:
    """Return the rows as a table, with their sum.

    Examples
    --------
    >>> print(table([("damaged records", 1200, 1200), ("a kill loses no record", 3, 2)]))
    | fault                  | injected | survived | lost |
    |------------------------|---------:|---------:|-----:|
    | damaged records        |    1,200 |    1,200 |    0 |
    | a kill loses no record |        3 |        2 |    1 |
    | all                    |    1,203 |    1,202 |    1 |
    """
    total = ("all", sum(row[1] for row in found), sum(row[2] for row in found))
    width = max(len(name) for name, *_ in [*found, total])
    lines = [f"| {'fault':<{width}} | injected | survived | lost |"]
    lines.append(f"|{'-' * (width + 2)}|---------:|---------:|-----:|")
    for name, many, good in [*found, total]:
        lines.append(f"| {name:<{width}} | {many:>8,} | {good:>8,} | {many - good:>4,} |")
    return "\n".join(lines)
