r"""Do two runs of a trial agree: number by number, or as draws of one distribution?

On one machine a trial repeats: every metric within the tolerance of its experiment.
Another processor rounds otherwise, and training carries a last bit as far as chance would; so does
a change of a single random number.
Then the new numbers can at best be another draw of what the records show.
With :math:`s_k` the spread of metric k over the recorded seeds of the same configuration,

.. math:: z_k=\frac{x_k-x_k'}{\sqrt 2\,s_k}

has about unit size for independent draws, and the median of all sizes tells agreement (1 or less)
from a change that matters; no single one may be far out, where several seeds say what that is.
Metrics that do not vary over seeds, such as counts and identities, must repeat: those that are
zero, and those that are the same for several other seeds.
Of others that happen to be the same for a few, nothing is known.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from mcnn.ledger.records import Record

# Up to which runs are draws of one distribution: the median of z, and the largest z.
TYPICAL, LARGEST = 2.0, 8.0
SEVERAL = 4  # other seeds that show how, and whether, a metric varies: fewer are often alike


@dataclass(frozen=True)
class Agreement:
    """How a trial that ran again compares with its record.

    Attributes
    ----------
    word
        ``"repeats"``, ``"consistent"`` (as a draw of the same distribution) or ``"DIFFERS"``.
    difference
        The largest absolute difference of a metric.
    detail
        Why, in words.
    """

    word: str
    difference: float
    detail: str

    @property
    def good(self) -> bool:
        """Whether the record still holds."""
        return self.word != "DIFFERS"

    def __str__(self) -> str:
        return f"{self.word}: {self.detail}"


def numbers(metrics: Any, place: str = "metrics") -> Iterator[tuple[str, Any]]:
    """Yield every leaf of nested metrics with its place, such as ``metrics.curve[3]``."""
    if isinstance(metrics, dict):
        for key, value in metrics.items():
            yield from numbers(value, f"{place}.{key}")
    elif isinstance(metrics, list):
        for index, value in enumerate(metrics):
            yield from numbers(value, f"{place}[{index}]")
    else:
        yield place, metrics


def compare(
    record: Record, metrics: dict[str, Any], tolerance: float, others: Sequence[Record]
) -> Agreement:
    """Compare the metrics of a trial that ran again with its record.

    Parameters
    ----------
    record
        What was recorded.
    metrics
        What came out now.
    tolerance
        The absolute difference up to which a metric repeats.
    others
        Records of the experiment; those that differ in nothing but the seed give the spread.
    """
    before, now = dict(numbers(record.metrics)), dict(numbers(metrics))
    if before.keys() != now.keys():
        place = sorted(before.keys() ^ now.keys())[0]
        return Agreement("DIFFERS", math.inf, f"{place} is no longer the same")
    largest, where = 0.0, ""
    for place, old in before.items():
        if not _number(old) or not _number(now[place]):
            if old != now[place]:
                return Agreement("DIFFERS", math.inf, f"{place} is no longer the same")
        elif abs(old - now[place]) > largest:
            largest, where = abs(old - now[place]), place
    text = f"largest difference {largest:.3g}, tolerance {tolerance:g}"
    if largest <= tolerance:
        return Agreement("repeats", largest, text)
    alike = [r for r in others if _same_but_for_seed(r, record)]
    draws = [dict(numbers(r.metrics)) for r in alike]
    scores: dict[str, float] = {}
    for place, old in before.items():
        change = abs(old - now[place]) if _number(old) else 0.0
        values = [draw[place] for draw in draws if _number(draw.get(place))]
        spread = _spread(values)
        constant = spread == 0 and (old == 0 or len(values) >= SEVERAL)
        if constant and change > tolerance:
            return Agreement("DIFFERS", largest, f"{text} ({place} does not vary over seeds)")
        if spread > 0:
            scores[place] = change / spread / math.sqrt(2)
    typical = median(scores.values()) if scores else math.inf
    text += f" (at {where}); {typical:.2g} times the spread of {len(draws)} other seeds"
    far = max(scores, key=scores.get, default="")
    if len(draws) >= SEVERAL and far and scores[far] > LARGEST:
        return Agreement("DIFFERS", largest, f"{text}, {scores[far]:.2g} times at {far}")
    return Agreement("consistent" if typical <= TYPICAL else "DIFFERS", largest, text)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _same_but_for_seed(a: Record, b: Record) -> bool:
    x, y = ({k: v for k, v in r.line["config"].items() if k != "seed"} for r in (a, b))
    return x == y and (a.experiment, a.profile) == (b.experiment, b.profile) and a.key != b.key


def _spread(values: Sequence[float]) -> float:
    """Return the standard deviation; nothing is known of a single value."""
    if len(values) < 2:
        return 0.0
    mean = sum(values) / len(values)
    return math.sqrt(sum((x - mean) ** 2 for x in values) / (len(values) - 1))
