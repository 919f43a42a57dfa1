"""Intervals: what a handful of seeds says about a mean, a difference or a slope.

Every verdict of the book compares one of these intervals with a threshold that was fixed before.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """An estimate and the interval that holds the truth with the stated confidence."""

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        half = (self.high - self.low) / 2
        if not np.isfinite(half):
            return f"{self.mean:.4g} (one value, no interval)"
        if half == 0:
            return f"{self.mean:.4g}"
        digits = max(0, 1 - int(np.floor(np.log10(half))))  # two digits of the half width
        if digits > 7:
            return f"{self.mean:.3g} ± {half:.2g}"
        return f"{self.mean:.{digits}f} ± {half:.{digits}f}"


def interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """Return the mean of independent values with Student's interval.

    Parameters
    ----------
    values
        One per seed, finite.
    confidence
        Probability that the interval covers the mean, if the values are normal.

    Returns
    -------
    Interval
        With infinite bounds for a single value, which says nothing about the spread.

    Raises
    ------
    ValueError
        If there is no value, or one is not finite.

    Examples
    --------
    >>> print(interval([1.0, 2.0, 3.0]))
    2.0 ± 2.5
    """
    x = np.asarray(values, dtype=float)
    if x.ndim != 1 or x.size == 0:
        raise ValueError(f"values must be a list of numbers, got shape {x.shape}")
    if not np.isfinite(x).all():
        raise ValueError("values must be finite")
    mean = float(x.mean())
    if x.size == 1:
        return Interval(mean, -np.inf, np.inf, 1)
    half = student((1 + confidence) / 2, x.size) * x.std(ddof=1) / np.sqrt(x.size)
    return Interval(mean, mean - half, mean + half, x.size)


def student(probability: float, n: int) -> float:
    """Return the quantile of Student's distribution that goes with n values.

    Examples
    --------
    >>> round(student(0.975, 3), 4)
    4.3027
    """
    # What scipy.stats.t.ppf calls, whose import takes as long as half of PyTorch.
    from scipy.special import stdtrit

    return float(stdtrit(n - 1, probability))


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Return the slope of the least squares line through ``(log x, log y)``.

    Its interval comes from the slopes of independent repetitions, through :func:`interval`:
    points of one curve share their noise, so the residuals of one fit understate it.

    Parameters
    ----------
    x, y
        Positive numbers, at least two different ``x``.

    Raises
    ------
    ValueError
        If the shapes differ, or a number is not positive.

    Examples
    --------
    >>> round(slope([1, 10, 100], [1, 0.1, 0.01]), 6)
    -1.0
    """
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if x.shape != y.shape or x.ndim != 1:
        raise ValueError(f"x and y must be lists of the same length, got {x.shape} and {y.shape}")
    if not ((x > 0).all() and (y > 0).all()):
        raise ValueError("a log-log slope needs positive numbers")
    if np.unique(x).size < 2:
        raise ValueError("a slope needs at least two different x")
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])
