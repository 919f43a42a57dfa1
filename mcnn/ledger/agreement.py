r"""Do two runs of a trial agree: number by number, or as draws of one distribution?

On one machine a trial repeats, metric by metric, as far as its kind lets one expect:

=====================  ==================================================================
seconds                are not compared: they are the machine's
peak bytes             within a hundredth: the allocator decides, too
whole numbers          exactly: they count
other numbers          to 1e-5 of their size or a tenth of their spread over seeds, whichever
                       is larger: far narrower than any claim on them; and never further than
                       the tolerance of the experiment
=====================  ==================================================================

What is zero may come out as rounding, 1e-13.
Between processors of several kinds numbers were seen to differ by 4e-7, accuracies by a few images.
Another processor rounds otherwise, and training carries a last bit as far as chance would; so does
a change of a single random number.
Then the new numbers can at best be another draw of what the records show.
With :math:`s_k` the spread of metric k over the recorded seeds of the same configuration,

.. math:: z_k=\frac{x_k-x_k'}{\sqrt 2\,s_k}

has about unit size for independent draws, and the median of all sizes tells agreement (1 or less)
from a change that matters.
No single one may be far out either, where several seeds say what that is.
Of normal draws z has Student's t distribution, whose tails are long where seeds are few: of four
other seeds and a hundred metrics one is beyond 8 in every third trial that did not change.
So the bound is what the largest of as many metrics exceeds once in a hundred trials, and 8 at
least, as not all metrics are normal.
Metrics that do not vary over seeds, such as counts and identities, must repeat: those that are
zero, and those that are the same for several other seeds.
Others that happen to be the same, or nearly so, for two or three may vary, as counts and accuracies
do: by the same bound, but at least by the tolerance of the experiment, a tenth of their size (of
whole numbers by one), and 8 times what the record is off from the mean of the others.
Where code, processor and versions are those of the record, nothing may be off by more than the
tolerance of the experiment, whatever the spread.
Where there are too few seeds for a spread, the tolerance of the experiment decides, and whole
numbers must repeat.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from mcnn.ledger.provenance import LIBRARIES
from mcnn.ledger.records import Record
from mcnn.stats import student

# Up to which runs are draws of one distribution: the median of z, and the largest z at least.
TYPICAL, LARGEST = 2.0, 8.0
BY_CHANCE = 0.01  # how often the largest z is beyond its bound where nothing has changed
RELATIVE, SHARE, ROUNDING = 1e-5, 0.1, 1e-13
SEVERAL = 4  # other seeds that show whether a metric varies: fewer are often alike
AMONG_FEW = 0.1  # of its size, that a metric of which fewer are known may be off at least


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


def allowed(place: str, old: float, tolerance: float, spread: float) -> float:
    """Return how far a metric may be off when its trial runs again, by the table above.

    Parameters
    ----------
    place
        Of the metric, such as ``metrics.curve[3]``.
    old
        What was recorded.
    tolerance
        Of the experiment.
    spread
        Standard deviation over seeds.

    Examples
    --------
    >>> allowed("metrics.accuracy", 0.98, tolerance=0.01, spread=0.002)
    0.0002
    >>> allowed("metrics.edges[0]", 1200, tolerance=0.01, spread=30.0)
    0.0
    """
    if "seconds" in place:
        return math.inf
    if "peak bytes" in place:
        return abs(old) / 100
    if isinstance(old, int):
        return 0.0
    return min(tolerance, max(ROUNDING, RELATIVE * abs(old), SHARE * spread))


def largest_by_chance(metrics: int, others: int) -> float:
    """Return the bound of the largest z.

    Parameters
    ----------
    metrics
        How many there are.
    others
        Other seeds that their spread is taken from, at least 2.

    Examples
    --------
    >>> round(largest_by_chance(100, others=4), 1), largest_by_chance(100, others=9)
    (28.0, 8.0)
    """
    beyond = BY_CHANCE / 2 / metrics  # on each side, of each metric: they may depend on each other
    return max(LARGEST, -student(beyond, others))


def compare(
    record: Record,
    metrics: dict[str, Any],
    tolerance: float,
    others: Sequence[Record],
    made: Mapping[str, Any] | None = None,
) -> Agreement:
    """Compare the metrics of a trial that ran again with its record.

    Parameters
    ----------
    record
        What was recorded.
    metrics
        What came out now.
    tolerance
        Of the experiment.
    others
        Records of the experiment; those that differ in nothing but the seed give the spread.
    made
        What made the new metrics, a provenance.
    """
    before, now = dict(numbers(record.metrics)), dict(numbers(metrics))
    if before.keys() != now.keys():
        place = sorted(before.keys() ^ now.keys())[0]
        return Agreement("DIFFERS", math.inf, f"{place} is no longer the same")
    draws = [dict(numbers(r.metrics)) for r in others if _same_but_for_seed(r, record)]
    changes: dict[str, tuple[float, float, float, list[float]]] = {}
    for place, old in before.items():
        new = now[place]
        if not _number(old) or not _number(new):
            if old != new:
                return Agreement("DIFFERS", math.inf, f"{place} is no longer the same")
            continue
        values = [draw[place] for draw in draws if _number(draw.get(place))]
        spread = _spread(values)
        if (limit := allowed(place, old, tolerance, spread)) < math.inf:
            changes[place] = (abs(old - new), limit, spread, values)
    off = {place for place, (change, limit, *_) in changes.items() if change > limit}
    where = max(off or changes, key=lambda place: changes[place][0], default="")
    largest, limit = changes[where][:2] if where else (0.0, tolerance)
    text = f"largest difference {largest:.3g}, tolerance {limit if largest else tolerance:g}"
    if not off:
        return Agreement("repeats", largest, text)
    text += f" (at {where})"
    if made and _alike(record.provenance, made):
        for place in off:
            if changes[place][0] > max(tolerance, changes[place][1]):
                return Agreement(
                    "DIFFERS", largest, f"{text}; made by the same code, processor and versions"
                )
    scores: dict[str, float] = {}  # z by place
    for place, (change, limit, spread, values) in changes.items():
        constant = spread == 0 and (before[place] == 0 or len(values) >= SEVERAL)
        if constant and change > limit:
            return Agreement("DIFFERS", largest, f"{text} ({place} does not vary over seeds)")
        if spread > 0:
            scores[place] = change / spread / math.sqrt(2)
    few = [place for place in off if scores and len(changes[place][3]) < SEVERAL]
    for place in sorted(few, key=lambda place: changes[place][0], reverse=True):
        change, _, spread, values = changes[place]
        bound = 0.0
        if spread > 0:
            bound = largest_by_chance(len(scores), len(values)) * spread * math.sqrt(2)
        if change > max(bound, _among_few(before[place], values, tolerance)):
            why = f"{place} is off by {change:.3g}, too far from {len(values)} other seeds"
            return Agreement("DIFFERS", largest, f"{text} ({why})")
    if not scores:  # too few other seeds to know a spread of anything
        inside = all(
            changes[place][0] <= tolerance and not isinstance(before[place], int) for place in off
        )
        text += f"; no spread over seeds is known, the experiment's tolerance is {tolerance:g}"
        return Agreement("consistent" if inside else "DIFFERS", largest, text)
    typical = median(scores.values())
    text += f"; {typical:.2g} times the spread of {len(draws)} other seeds"
    far = max(off & scores.keys(), key=scores.get, default="")
    if len(draws) >= SEVERAL and far and scores[far] > largest_by_chance(len(scores), len(draws)):
        return Agreement("DIFFERS", largest, f"{text}, {scores[far]:.2g} times at {far}")
    return Agreement("consistent" if typical <= TYPICAL else "DIFFERS", largest, text)


def _among_few(old: float, values: Sequence[float], tolerance: float) -> float:
    """Return how far a metric may be off at least, of which few other seeds are known."""
    if len(values) < 2:
        return 0.0 if isinstance(old, int) else tolerance
    middle = sum(values) / len(values)
    size = max(abs(old), abs(middle))
    step = 1 if isinstance(old, int) else 0
    return max(tolerance, AMONG_FEW * size, LARGEST * abs(old - middle), step)


def _alike(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether two runs had the same code, processor and versions.

    A record of before a version was kept may be of any: of that one, it says nothing.
    """
    same = ("code", "device", "torch", "cuda", "python")
    later = [name for name in (*LIBRARIES, "compiler", "environment") if name in old]
    return all(name in old and old[name] == new.get(name) for name in (*same, *later))


def _number(value: Any) -> bool:
    """Whether it is a number to calculate with, not a whole one that is larger than all floats."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _same_but_for_seed(a: Record, b: Record) -> bool:
    x, y = ({k: v for k, v in r.line["config"].items() if k != "seed"} for r in (a, b))
    return x == y and (a.experiment, a.profile) == (b.experiment, b.profile) and a.key != b.key


def _spread(values: Sequence[float]) -> float:
    """Return the standard deviation; nothing is known of a single value."""
    if len(values) < 2:
        return 0.0
    mean = sum(values) / len(values)
    # Squares of large numbers would be beyond all floats.
    return math.hypot(*(x - mean for x in values)) / math.sqrt(len(values) - 1)
