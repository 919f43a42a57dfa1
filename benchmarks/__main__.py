"""Measure, record and print: see ``python -m benchmarks --help``."""

import argparse
import json
import os
import platform
import re
import sys
import time
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from benchmarks import page, paths, pooling, sampling, training
from benchmarks.measure import ROUNDS, Curve, Race, Spread, keep_memory, seconds
from mcnn.errors import McnnError, UsageError
from mcnn.ledger import provenance, records, runner

TABLES = {"sampling": sampling, "training": training, "paths": paths, "pooling": pooling}
BENCHMARKS = {name: b for table in TABLES.values() for name, b in table.BENCHMARKS.items()}

_EXAMPLES = """examples:
  python -m benchmarks                       all, on one thread, recorded under the device's name
  python -m benchmarks paths-density         one of them; the others keep their records
  python -m benchmarks --device cuda         on a GPU
  python -m benchmarks --page                only draw the page of the book anew
"""


def measured(found: Race | Curve | Spread, threads: int) -> dict[str, Any]:
    """Time a benchmark and return what is recorded of it.

    Returns
    -------
    dict
        ``summary`` and, of a race, ``seconds`` (from candidate to rounds), ``goals`` and
        ``floors``; of a spread ``variances`` (the same); of a curve ``variable``, ``exponent``,
        ``break_even`` and ``points``, each a size and its ``seconds``.
    """
    if isinstance(found, Spread):
        candidates = found.candidates.items()
        return {
            "summary": found.summary,
            "variances": {
                name: [candidate(seed) for seed in range(ROUNDS)] for name, candidate in candidates
            },
        }
    if isinstance(found, Race):
        return {
            "summary": found.summary,
            "seconds": seconds(found.candidates, threads),
            "goals": dict(found.goals),
            "floors": list(found.floors),
        }
    points = [
        {"size": size, "seconds": seconds(found.candidates(size), threads)}
        for size in tqdm(found.sizes, desc=found.variable, leave=False, disable=None)
    ]
    return {
        "summary": found.summary,
        "variable": found.variable,
        "exponent": found.exponent,
        "break_even": dict(found.break_even),
        "points": points,
    }


def main(argv: list[str] | None = None) -> int:
    """Return the exit status: 2 if the call is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Side-by-side speed measurements against named baselines.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "name", nargs="*", help="benchmarks (default: all): " + " ".join(BENCHMARKS)
    )
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=1, help="of the CPU (default: 1)")
    parser.add_argument("--page", action="store_true", help="only draw the page anew")
    args = parser.parse_args(argv)
    try:
        if not args.page:
            measure_all(args.name, runner.resolve_device(args.device), args.threads)
        for changed in page.update(write=True):
            print(f"updated {changed}")
    except McnnError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def measure_all(names: list[str], device: torch.device, threads: int) -> None:
    """Measure benchmarks by name, and keep the records as they come."""
    unknown = sorted(set(names) - set(BENCHMARKS))
    if unknown:
        raise UsageError(f"no benchmark {', '.join(unknown)}; there are: {', '.join(BENCHMARKS)}")
    if threads < 1:
        raise UsageError(f"--threads must be at least 1, got {threads}")
    torch.set_num_threads(threads)
    keep_memory()
    file = record_file(device)
    found = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    _warn_if_busy()
    for name in tqdm(names or list(BENCHMARKS), desc="benchmarks", disable=None):
        torch.manual_seed(0)
        start = time.perf_counter()
        result = measured(BENCHMARKS[name](device), threads)
        torch._dynamo.reset()  # what one benchmark compiled is not to slow down the next
        made = provenance.describe(("benchmarks." + _module(name),), device)
        found[name] = result | {
            "made": made | {"threads": threads, "wall": time.perf_counter() - start}
        }
        found = {n: found[n] for n in (*BENCHMARKS, *found) if n in found}  # in their order
        file.parent.mkdir(exist_ok=True)
        text = json.dumps(page.rounded(found), indent=1, allow_nan=False)
        records.replace_file(file, (text + "\n").encode())
        tqdm.write(page.lines(name, found[name]))


def _module(name: str) -> str:
    return next(m for m, table in TABLES.items() if name in table.BENCHMARKS)


def record_file(device: torch.device) -> Path:
    """Return the file for a device: its name, in letters that every file system takes."""
    name = re.sub(r"[^a-z0-9]+", "-", provenance.device_name(device).lower()).strip("-")
    return page.RECORDS / f"{name or platform.machine()}.json"


def _warn_if_busy() -> None:
    busy = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if busy > 0.75:
        tqdm.write(f"note: other programs are running (load {busy:.1f}); ratios will be noisier")


if __name__ == "__main__":
    raise SystemExit(main())
