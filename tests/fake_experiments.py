"""An experiment that costs nothing, and the faults that a trial can have.

``FAKE_FAULT=raise:3`` makes the trials of seed 3 fail; ``FAKE_LOG`` names a file in which every
trial leaves its seed and its process.
"""

import errno
import multiprocessing
import os
import signal
import time
from dataclasses import dataclass

import torch

from mcnn.ledger import provenance, records, registry
from mcnn.ledger.experiment import Experiment, Trial

NAME = "fake-sum"
DEVICE = torch.device("cpu")
COMMITTED = {"commit": "c" * 40, "dirty": False}  # whatever is being edited here


@dataclass(frozen=True, kw_only=True)
class FakeTrial(Trial):
    size: int = 3
    shape: tuple[int, ...] = (1, 2)


def run(trial, device):
    if log := os.environ.get("FAKE_LOG"):
        with open(log, "a") as file:
            file.write(f"{trial.seed} {os.getpid()}\n")
    time.sleep(float(os.environ.get("FAKE_NAP", "0")))
    end = time.process_time() + float(os.environ.get("FAKE_WORK", "0"))
    while time.process_time() < end:
        pass
    fault, _, seed = os.environ.get("FAKE_FAULT", "").partition(":")
    metrics = {"total": 0.0}
    if fault and int(seed) == trial.seed:
        metrics |= FAULTS[fault]() or {}
    generator = torch.Generator(device).manual_seed(trial.seed)
    parts = torch.rand(trial.size, generator=generator, device=device)
    return {"parts": parts.tolist(), "total": parts.sum().item()} | metrics | {"seed": trial.seed}


def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)


def fail():
    raise ValueError("a bug in a trial\nwith more lines")


def nan():
    return {"curve": [1.0, float("nan")]}


def before_sync():
    os.fsync = die


def before_rename():
    os.replace = die


def in_mid_line():
    write = os.write

    def half(handle, content):
        write(handle, content[: len(content) // 2])
        die()

    os.write = half


def full_disk():
    def fsync(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    os.fsync = fsync


def sleep():
    time.sleep(600)


FAULTS = {
    "die": die,
    "raise": fail,
    "nan": nan,
    "sleep": sleep,
    "die before sync": before_sync,
    "die before rename": before_rename,
    "die in mid line": in_mid_line,
    "full disk": full_disk,
}


def trials(profile, seeds):
    sizes = (3,) if profile == "fast" else (3, 4)
    return [FakeTrial(seed=seed, size=size) for seed in seeds for size in sizes]


def measure(found):
    return {"three": [r.metrics["total"] for r in found if r.config.size == 3]}


FAKE = Experiment(
    name=NAME,
    summary="sums of a few numbers",
    trial=FakeTrial,
    trials=trials,
    run=run,
    seeds={"fast": range(4), "full": range(3)},
    measures={"fake-claim": measure},
)


def line(seed, *, profile="fast", code=None, size=3, **changes):
    """A sealed record of today's code, or of another."""
    trial = FakeTrial(seed=seed, size=size)
    made = provenance.describe(FAKE.roots, DEVICE) | {"seconds": 0.1, "data": None} | COMMITTED
    metrics = run(trial, DEVICE)
    return records.seal(
        {
            "experiment": NAME,
            "profile": profile,
            "hash": FAKE.key(profile, trial),
            "config": trial.config(),
            "metrics": metrics,
            "provenance": made | ({"code": code} if code else {}),
        }
        | changes
    )


if multiprocessing.parent_process():  # a worker, into which only a trial's class was sent
    registry.all_experiments()[NAME] = FAKE
