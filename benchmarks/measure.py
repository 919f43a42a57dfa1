"""Timing several ways to do one thing, in turn, and what the times say.

A *race* has candidates: ours and its named baselines.
A *curve* is a race at several sizes, for exponents and for the size at which the candidates meet.
"""

import ctypes
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np
from scipy import stats
from torch.utils.benchmark import Timer

Work = Callable[[], object]
ROUNDS = 9  # the least number whose interval of 95 % for the median leaves out an extreme each way


@dataclass(frozen=True)
class Race:
    """Ours and its baselines, on one problem.

    Attributes
    ----------
    summary
        The problem, with its sizes.
    candidates
        From label to what is timed; the first is ours.
    goals
        From the label of a baseline to the ratio, its time over ours, that is aimed at.
    floors
        Candidates that are no baselines but what the machine needs at least, for moving as many
        bytes, say.
    """

    summary: str
    candidates: Mapping[str, Work]
    goals: Mapping[str, float] = field(default_factory=dict)
    floors: tuple[str, ...] = ()


@dataclass(frozen=True)
class Curve:
    """A race at several sizes.

    Attributes
    ----------
    summary
        The problem.
    variable
        What the sizes are.
    sizes
        Increasing.
    candidates
        From a size to the candidates of its race; a candidate may be missing at some sizes.
    exponent
        The accepted range of the exponent of ours, if it is aimed at.
    break_even
        From the label of a baseline to the size at least up to which ours shall be the faster.
    """

    summary: str
    variable: str
    sizes: Sequence[float]
    candidates: Callable[[Any], Mapping[str, Work]]
    exponent: tuple[float, float] | None = None
    break_even: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Spread:
    """How much the results of several random methods vary.

    Attributes
    ----------
    summary
        The problem.
    candidates
        From label to a function of a seed that returns a variance; the first is ours.
    """

    summary: str
    candidates: Mapping[str, Callable[[int], float]]


def seconds(
    candidates: Mapping[str, Work], threads: int, rounds: int = ROUNDS, at_least: float = 0.02
) -> dict[str, list[float]]:
    """Time every candidate once a round.

    Parameters
    ----------
    candidates
        What to time; each is called twice before, so that caches are warm and code is compiled.
    threads
        Of the CPU.
    rounds
        Number of times for each candidate.
    at_least
        Seconds that a time spans: short work is repeated within.

    Returns
    -------
    dict
        [rounds] seconds for each candidate.
    """
    timers = {
        name: Timer("f()", globals={"f": f}, num_threads=threads) for name, f in candidates.items()
    }
    repeats = {}
    for name, timer in timers.items():
        timer.timeit(1)
        repeats[name] = max(1, round(at_least / max(timer.timeit(1).mean, 1e-9)))
    found: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, timer in timers.items():
            found[name].append(timer.timeit(repeats[name]).mean)
    return found


def keep_memory() -> None:
    """Let the C library keep what is freed, up to 32 MiB a piece, where it is glibc.

    Else it returns the end of its heap to the system and is given fresh pages at the next call, or
    not, as it happened to be used before; a candidate may then take several times as long as in the
    next process.
    """
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of malloc.h
    with suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(trim_threshold, 1 << 30)
        mallopt(mmap_threshold, 32 << 20)


def middle(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the median and the interval of 95 % around it, which assumes no distribution.

    Examples
    --------
    >>> middle([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0])
    (4.0, 1.0, 7.0)
    """
    interval = stats.quantile_test(values, p=0.5).confidence_interval(0.95)
    return median(values), float(interval.low), float(interval.high)


def ratio(ours: Sequence[float], baseline: Sequence[float]) -> tuple[float, float, float]:
    """Return how many times longer the baseline takes, round by round, with its interval."""
    return middle([p / o for o, p in zip(ours, baseline, strict=True)])


def exponent(
    sizes: Sequence[float], times: Sequence[Sequence[float]]
) -> tuple[float, float, float]:
    """Return the slope of log time over log size, one fit a round, with its interval.

    Parameters
    ----------
    sizes
        [n], positive.
    times
        [n][rounds] seconds.
    """
    x, y = np.log(np.asarray(sizes, float)), np.log(np.asarray(times, float))  # [n], [n, rounds]
    return middle([float(np.polyfit(x, column, 1)[0]) for column in y.T])


def break_even(
    sizes: Sequence[float], ours: Sequence[Sequence[float]], baseline: Sequence[Sequence[float]]
) -> float | None:
    """Return the size from which on ours is the slower, between sizes by log-log interpolation.

    Parameters
    ----------
    sizes
        [n], increasing.
    ours, baseline
        [n][rounds] seconds.

    Returns
    -------
    float or None
        None if ours is faster at every size; the first size if it is so at none.
    """
    gain = [float(np.log(ratio(o, p)[0])) for o, p in zip(ours, baseline, strict=True)]
    slower = [i for i, g in enumerate(gain) if g <= 0]
    if not slower:
        return None
    i = slower[0]
    if i == 0:
        return float(sizes[0])
    x0, x1 = np.log(sizes[i - 1]), np.log(sizes[i])
    return float(np.exp(x0 + (x1 - x0) * gain[i - 1] / (gain[i - 1] - gain[i])))
