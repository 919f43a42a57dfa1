"""What an interval says about an accepted range, and, where it leaves it open, what would decide.

The words of the ledger are defined here and nowhere else.
"""

from collections.abc import Iterable
from math import ceil, floor, isfinite, log10, sqrt
from typing import Literal

from mcnn.stats import CONFIDENCE, Interval, student

Better = Literal["higher", "lower"]

VERDICTS = (
    "reproduced",
    "exceeded",
    "falls short",
    "open",
    "not run",
    "stale",
    "contradicted",
)
REPORTED = "reported"  # of a curve that nothing judges; no verdict, and counted apart

# From worst to best: a claim, or a row of claims, is as good as the worst of its parts.
_WORST_FIRST = (
    "contradicted",
    "falls short",
    "stale",
    "not run",
    "open",
    "exceeded",
    "reproduced",
    REPORTED,
)
# A mean this close to a bound, in standard errors, lies on it: it would take 400 times the seeds.
_ON_BOUND = 0.1


def worst(verdicts: Iterable[str]) -> str:
    """Return the worst of some verdicts.

    Examples
    --------
    >>> worst(["reproduced", "open", "exceeded"])
    'open'
    """
    return min(verdicts, key=_WORST_FIRST.index)


def of_interval(
    estimate: Interval,
    bounds: tuple[float, float],
    better: Better | None = None,
    *,
    effect: bool = False,
) -> str:
    """Return the verdict on an interval.

    Parameters
    ----------
    estimate
        What was measured.
    bounds
        The accepted range; infinite where it has no end.
    better
        Side on which values beat the claim; without it, outside is *falls short* on both.
    effect
        Whether the claim is that a difference has a sign, so that the other sign contradicts it.

    Examples
    --------
    >>> of_interval(Interval(0.936, 0.92, 0.95, 5), (0.85, 0.91), "higher")
    'exceeded'
    >>> of_interval(Interval(0.936, 0.90, 0.97, 5), (0.85, 0.91), "higher")
    'open'
    """
    low, high = bounds
    if low <= estimate.low and estimate.high <= high:
        return "reproduced"
    if estimate.low > high:
        beyond, opposite = "higher", high <= 0 < estimate.low
    elif estimate.high < low:
        beyond, opposite = "lower", estimate.high < 0 <= low
    else:
        return "open"
    if effect and opposite:
        return "contradicted"
    return "exceeded" if beyond == better else "falls short"


def what_decides(estimate: Interval, bounds: tuple[float, float]) -> str:
    """Say what would decide an interval that straddles a bound.

    Parameters
    ----------
    estimate
        Student's interval over seeds.
    bounds
        The accepted range.

    Returns
    -------
    str
        The number of seeds at which the interval, with the mean and the spread as they are, would
        leave the nearest bound; or that the mean lies on the bound.

    Examples
    --------
    >>> from math import inf
    >>> from mcnn.stats import interval
    >>> what_decides(interval([0.0, 1.0, 2.0]), (0, inf))
    'about 7 seeds in place of 3 would decide, if mean and spread stay'
    >>> what_decides(interval([-1.0, 0.01, 1.0]), (0, inf))
    'the mean lies on the bound 0: no number of seeds will decide'
    """
    if not isfinite(estimate.high):
        return "one value has no spread: at least 2 seeds are needed"
    nearest = min((b for b in bounds if isfinite(b)), key=lambda b: abs(estimate.mean - b))
    distance = abs(estimate.mean - nearest)
    error = (estimate.high - estimate.low) / 2 / _student(estimate.n)
    if distance < _ON_BOUND * error:
        return f"the mean lies on the bound {nearest:g}: no number of seeds will decide"
    number = _seeds(error * sqrt(estimate.n), distance, estimate.n)
    return f"about {number:,} seeds in place of {estimate.n} would decide, if mean and spread stay"


def _student(n: int) -> float:
    return student((1 + CONFIDENCE) / 2, n)


def _seeds(spread: float, distance: float, least: int) -> int:
    """Return the number of seeds whose interval is narrower than the distance, rounded up."""
    low, high = least, least + 1
    while _student(high) * spread / sqrt(high) >= distance:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if _student(middle) * spread / sqrt(middle) >= distance:
            low = middle
        else:
            high = middle
    unit = 10 ** max(0, floor(log10(high)) - 1)  # two digits: it is an estimate
    return ceil(high / unit) * unit


def tally(verdicts: Iterable[str]) -> str:
    """Count verdicts in words; what is only reported comes last and is no verdict.

    Examples
    --------
    >>> tally(["reproduced", "open", "reproduced", "reported", "exceeded"])
    '2 reproduced, 1 exceeded, 1 open; 1 reported without a verdict'
    """
    verdicts = list(verdicts)
    plural = {"falls short": "fall short"}
    parts = []
    for verdict in VERDICTS:
        if count := verdicts.count(verdict):
            parts.append(f"{count} {plural.get(verdict, verdict) if count > 1 else verdict}")
    text = ", ".join(parts) or "no verdict"
    if count := verdicts.count(REPORTED):
        text += f"; {count} reported without a verdict"
    return text
