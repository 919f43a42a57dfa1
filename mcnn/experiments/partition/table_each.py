"""The talk's table where every example has a mask of its own: partitions against dropout.

That of :mod:`mcnn.experiments.partition.table` holds one partition for a batch against dropout of
both kinds, which for masks of examples is like against unlike.
"""

import statistics
from collections.abc import Sequence

from mcnn.experiments.partition.each_training import KINDS, CurveTrial, _run_curve
from mcnn.ledger.experiment import Experiment
from mcnn.ledger.records import Record


def _trials(profile: str, seeds: Sequence[int]) -> list[CurveTrial]:
    if profile == "full":
        options = {"images": 50_000, "parts": tuple(range(2, 10)), "epochs": 4, "every": 4}
    else:
        options = {"dataset": "digits", "parts": (2, 9), "epochs": 4, "every": 4, "lr": 0.08}
        options |= {"mixed": False}
    return [CurveTrial(seed=seed, **options) for seed in seeds]


def accuracies(records: Sequence[Record], kind: str, key: str) -> list[list[float]]:
    """Return the accuracies of the last epoch, [seeds][P]; kind is ``partition`` or ``dropout``."""
    ordered = sorted(records, key=lambda record: record.config.seed)
    return [[r.metrics[key][f"{kind} {p}"][-1] for p in r.config.parts] for r in ordered]


def _measure(records: Sequence[Record]) -> dict[str, list[float]]:
    """Return the mean over all P, partitions minus dropout, one value a seed."""
    readings = {}
    for key, name in (("test", "CIFAR-10, test"), ("on", "CIFAR-10, training, masks on")):
        ours, theirs = (accuracies(records, kind, key) for kind in KINDS)
        readings[name] = [
            statistics.mean(a) - statistics.mean(b) for a, b in zip(ours, theirs, strict=True)
        ]
    return readings


EXPERIMENTS = [
    Experiment(
        name="partition-table-each",
        summary="accuracy of LeNet with 2 to 9 partitions and dropout, a mask for each example",
        trial=CurveTrial,
        trials=_trials,
        run=_run_curve,
        seeds={"fast": range(1), "full": range(70, 76)},
        measures={"partition-table-each": _measure},
        tolerance=0.02,
    ),
]
