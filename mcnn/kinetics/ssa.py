r"""Exact runs of a reaction network: Gillespie's direct method.

The counts stay as they are for a time that is exponential with the sum of all propensities; then
one reaction happens, chosen in proportion to its propensity: the next step of a walk, sampled from
a discrete density as a weight is.

The random numbers of event n of run r are numbers :math:`2^{36}r+2n` and the next of the stream of
the seed, so that a run is the same whatever runs beside it.
A loop in C does it where there is a compiler; operators over all runs at once compute the same.

Source: D. T. Gillespie, Exact stochastic simulation of coupled chemical reactions, J. Phys. Chem.
81, 1977.
"""

import operator
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mcnn.errors import UsageError
from mcnn.kinetics import native
from mcnn.sampling import as_seed, uniforms

if TYPE_CHECKING:
    from mcnn.kinetics.network import Network

RUNS, EVENTS = 2**26, 2**35  # as many numbers as a stream has for each


def simulate(
    network: "Network",
    initial: Mapping[str, int] | Sequence[int] | Tensor,
    times: Sequence[float] | Tensor,
    runs: int = 1,
    seed: int | torch.Generator = 0,
    max_events: int = 10**8,
) -> Tensor:
    """Simulate a network exactly, many times.

    Parameters
    ----------
    network
        A :class:`mcnn.kinetics.Network`.
    initial
        Counts at time 0: a mapping by species, or [species].
    times
        [times] at which to look, from 0, not decreasing.
    runs
        How many independent runs, 1 to 2**26.
    seed
        An integer, or a generator, which is advanced by one draw.
    max_events
        Reactions that one run may take; a network that explodes would take them without end.

    Returns
    -------
    Tensor
        int64 [runs, times, species].

    Raises
    ------
    UsageError
        For wrong counts, times or numbers, or if a run needs more than ``max_events``.

    Examples
    --------
    >>> from mcnn.kinetics import Network
    >>> decay = Network({"A -> 0": 1.0})
    >>> decay.ssa({"A": 5}, [0.0, 50.0], runs=2).squeeze(-1).tolist()
    [[5, 0], [5, 0]]
    """
    start, t = network.state(initial), checked_times(times)
    runs, max_events = operator.index(runs), operator.index(max_events)
    if not 1 <= runs <= RUNS:
        raise UsageError(f"runs must be in 1 ... {RUNS}, got {runs}")
    if not 1 <= max_events <= EVENTS:
        raise UsageError(f"max_events must be in 1 ... {EVENTS}, got {max_events}")
    work = native.ssa if native.available() else _by_operators
    counts, most = work(network, start, t, runs, as_seed(seed), max_events)
    if most > max_events:
        raise UsageError(
            f"a run of {network} takes more than {max_events} reactions before time "
            f"{float(t[-1]):g}: choose earlier times, a smaller volume or tau_leap, or raise "
            "max_events"
        )
    return counts


def checked_times(times: Sequence[float] | Tensor) -> Tensor:
    """Return times as float64 [times].

    Raises
    ------
    UsageError
        If there is none, or they are not finite, from 0, and not decreasing.
    """
    t = torch.as_tensor(times, dtype=torch.float64).detach().cpu()
    if t.ndim != 1 or not len(t):
        raise UsageError(f"times must be a list of numbers, got shape {tuple(t.shape)}")
    if not (bool(t.isfinite().all()) and t[0] >= 0 and bool((t.diff() >= 0).all())):
        raise UsageError("times must be finite, begin at 0 or later, and not decrease")
    return t


def propensities(network: "Network", x: Tensor) -> Tensor:
    """Return float64 [..., reactions] at counts [..., species]: rates times falling factorials."""
    x = x.double()
    columns = []
    for rate, orders in zip(network.scaled.tolist(), network.reactants.tolist(), strict=True):
        a = torch.full(x.shape[:-1], rate, dtype=torch.float64)
        for s, order in enumerate(orders):
            for taken in range(order):  # in the order of the loop in C: the same bits
                a = a * (x[..., s] - taken)
        columns.append(a.clamp(min=0))  # with fewer particles than it takes a factor is zero
    return torch.stack(columns, -1)


def _by_operators(
    network: "Network", start: Tensor, t: Tensor, runs: int, seed: int, max_events: int
) -> tuple[Tensor, int]:
    """Return the counts and the most events of a run; all runs take their events side by side."""
    counts = torch.empty(runs, len(t), len(start), dtype=torch.int64)
    x = start.expand(runs, -1).clone()  # [runs, species]
    clock = torch.zeros(runs, dtype=torch.float64)
    looked = torch.zeros(runs, dtype=torch.int64)  # how many of the times are behind each run
    alive = torch.arange(runs)  # the runs that have not come to the last time
    for event in range(max_events + 1):
        cumulative = propensities(network, x[alive]).cumsum(-1)  # [alive, reactions]
        total = cumulative[:, -1]
        first = (alive << 36) + 2 * event
        wait = -torch.log1p(-uniforms(seed, first)) / total  # infinite where nothing can happen
        clock[alive] += torch.where(total > 0, wait, torch.inf)
        passed = torch.searchsorted(t, clock[alive])  # times before the event
        for run, now in zip(alive.tolist(), passed.tolist(), strict=True):
            counts[run, looked[run] : now] = x[run]
        looked[alive] = torch.maximum(looked[alive], passed)
        going = passed < len(t)
        alive, cumulative, total, first = (v[going] for v in (alive, cumulative, total, first))
        if not len(alive):
            return counts, event
        if event == max_events:
            return counts, max_events + 1
        target = uniforms(seed, first + 1) * total
        reaction = (cumulative <= target.unsqueeze(1)).sum(1).clamp(max=cumulative.shape[1] - 1)
        x[alive] += network.changes[reaction]
    raise AssertionError("unreachable")
