r"""Tau-leaping: as if the propensities stayed as they are for a step.

Then the number of each reaction within a step is a Poisson variable, and a step costs the same
however many reactions happen in it.
The error of a mean is of the order of the step.
Where a leap would leave fewer than no particles, it is taken back and made in two halves.

Source: D. T. Gillespie, Approximate accelerated stochastic simulation of chemically reacting
systems, J. Chem. Phys. 115, 2001.
"""

import operator
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mcnn.errors import UsageError
from mcnn.kinetics import ssa
from mcnn.sampling import as_seed

if TYPE_CHECKING:
    from mcnn.kinetics.network import Network

_HALVINGS = 40


def simulate(
    network: "Network",
    initial: Mapping[str, int] | Sequence[int] | Tensor,
    times: Sequence[float] | Tensor,
    step: float,
    runs: int = 1,
    seed: int | torch.Generator = 0,
) -> Tensor:
    """Simulate a network in steps, all runs side by side.

    Parameters
    ----------
    network
        A :class:`mcnn.kinetics.Network`.
    initial
        Counts at time 0: a mapping by species, or [species].
    times
        [times] at which to look, from 0, not decreasing; no step goes beyond one.
    step
        The longest step, above 0.
    runs
        How many, at least 1.
    seed
        Of PyTorch's generator: on one kind of device and version the same seed repeats.

    Returns
    -------
    Tensor
        int64 [runs, times, species], never below 0.

    Raises
    ------
    UsageError
        For wrong counts, times, step or runs, or if no step is short enough.

    Examples
    --------
    >>> from mcnn.kinetics import Network
    >>> birth = Network({"0 -> A": 4.0, "A -> 0": 1.0}, volume=100)
    >>> counts = birth.tau_leap({"A": 400}, [20.0], step=0.1, runs=4000)
    >>> abs(float(counts.double().mean()) - 400) < 5
    True
    """
    start, t = network.state(initial), ssa.checked_times(times)
    if not 0 < step < float("inf"):
        raise UsageError(f"step must be above 0 and finite, got {step}")
    runs = operator.index(runs)
    if runs < 1:
        raise UsageError(f"runs must be at least 1, got {runs}")
    generator = torch.Generator().manual_seed(as_seed(seed))
    x = start.expand(runs, -1).clone()  # [runs, species]
    seen, now = [], 0.0
    for time in t.tolist():
        whole = max(1, int(-(-(time - now) // step)))
        for _ in range(whole if time > now else 0):
            x = _leap(network, x, (time - now) / whole, generator, 0)
        now = time
        seen.append(x)
    return torch.stack(seen, 1)


def _leap(
    network: "Network", x: Tensor, step: float, generator: torch.Generator, halvings: int
) -> Tensor:
    if halvings > _HALVINGS:
        raise UsageError(f"no step of tau_leap is short enough for {network}: take ssa")
    mean = ssa.propensities(network, x) * step  # [runs, reactions]
    if not bool((mean < 2**53).all()):
        raise UsageError(f"{network} runs away: more reactions in a step than can be counted")
    times = torch.poisson(mean, generator=generator).long()
    after = x + times @ network.changes
    wrong = (after < 0).any(1)
    if bool(wrong.any()):
        again = x[wrong]
        for _ in range(2):
            again = _leap(network, again, step / 2, generator, halvings + 1)
        after[wrong] = again
    return after
