r"""Reinforcement learning solves the integral equation, because it is one.

.. math::

   L(x) &= E(x) + \int k(x,y)\,L(y)\,dy \\
   Q(s,a) &= r(s,a) + \gamma\int \pi(a'|s')\,Q(s',a')\,da'

Emitted light is reward, the kernel is discount times policy, and incident light is value.
In the rod of :mod:`mcnn.integral.transport` the state is where the walk is and the action is where
it goes next.
What it finds there does not depend on where it came from, so the value of an action is the
:math:`L` of its target, and one table over the rod holds all values.

While a walk goes on, its table learns, Q' = (1 − α) Q + α · target, with a target of three kinds:

=============  ======================================  ======================================
``expected``   r + ∫ k Q                               expected SARSA: the equation itself
``sarsa``      r + k(x, y)/p(y|x) · Q(y)               one sample y of that integral
``max``        r + c · max Q                           Q-learning as in games: another equation
=============  ======================================  ======================================

And the table pays back: walks that choose cells in proportion to k times Q go where light is, and
their estimate stays unbiased, whatever the table holds, since each step is weighed by k/p.
Were the table exact, all walks would give the same number.

Source: slide "Structural Equivalence of Integral Equations and Reinforcement Learning" of
A. Keller's talk; K. Dahm, A. Keller: Learning light transport the reinforced way (2017).
"""

import torch
from torch import Tensor

from mcnn.errors import unknown
from mcnn.integral.transport import Rod

TARGETS = ("expected", "sarsa", "max")
_FLOOR = 1e-12  # of a table's value in a density, so that no cell is ruled out before it is known


def learn(
    rod: Rod,
    steps: int,
    generator: torch.Generator,
    cells: int = 64,
    learners: int = 32,
    walkers: int = 32,
    target: str = "expected",
    explore: float = 0.05,
    power: float = 0.7,
) -> Tensor:
    """Learn the solution while walking.

    Parameters
    ----------
    rod
        The equation.
    steps
        Of every walk; each learner sees ``steps * walkers`` states.
    generator
        Of everything random; its device is that of the result.
    cells
        Entries of a table.
    learners
        Independent repetitions, which say how far the result can be trusted.
    walkers
        Walks that share the table of a learner.
    target
        One of :data:`TARGETS`.
    explore
        Probability of a step to a uniformly chosen cell, in (0, 1].
        The more a walk follows its table, the closer p is to k times Q, and the less noise there
        is in the sampled target.
    power
        The k-th visit of a cell moves its value by the fraction (1 + k/h)**-power, in (0.5, 1),
        where h = 1/(1 - albedo) is how many steps of a walk matter.

    Returns
    -------
    Tensor
        [learners, cells] float64, each table's mean over the second half of its steps.

    Raises
    ------
    ValueError
        For an unknown target or a number out of range.
    """
    if target not in TARGETS:
        raise unknown("target", target, TARGETS)
    if min(steps, cells, learners, walkers) < 1:
        raise ValueError("steps, cells, learners and walkers must be at least 1")
    if not (0 < explore <= 1 and 0.5 < power < 1):
        raise ValueError(
            f"explore must be in (0, 1] and power in (0.5, 1), got {explore} and {power}"
        )
    device, shape = generator.device, (learners, walkers)
    q = torch.zeros(learners, cells, dtype=torch.float64, device=device)
    visits, mean = torch.zeros_like(q), torch.zeros_like(q)
    x = _uniform(shape, generator)
    for step in range(steps):
        here = (x * cells).long()  # [learners, walkers]
        k = rod.cells(x, cells)  # [learners, walkers, cells]
        there, y, p = step_towards(k, q.unsqueeze(1), explore, generator)
        if target == "expected":
            future = (k @ q.unsqueeze(-1)).squeeze(-1)
        elif target == "sarsa":
            future = rod.kernel(x, y) / p * q.gather(1, there)
        else:
            future = rod.albedo * q.max(1, keepdim=True).values
        count = torch.zeros_like(q).scatter_add_(1, here, torch.ones_like(x))
        change = torch.zeros_like(q).scatter_add_(
            1, here, rod.emission(x) + future - q.gather(1, here)
        )
        seen = count > 0
        visits += seen
        rate = (1 + (1 - rod.albedo) * visits) ** -power
        q = q + rate * change / count.clamp(min=1)
        if step >= steps // 2:
            mean += q / (steps - steps // 2)
        # Now and then a walk ends and another begins anywhere, so that no cell is forgotten.
        over = _uniform(shape, generator) >= rod.albedo
        x = torch.where(over, _uniform(shape, generator), y)
    return mean


def guided_walks(
    rod: Rod, start: float, table: Tensor, n: int, generator: torch.Generator, explore: float = 0.1
) -> Tensor:
    """Estimate L at one place by walks that go where a table says that light is.

    Parameters
    ----------
    rod
        The equation.
    start
        x in [0, 1].
    table
        [cells] float64, values that are not negative; need not be accurate.
    n
        Number of walks.
    generator
        Of the walks, on the table's device.
    explore
        Probability of a step to a uniformly chosen cell, in (0, 1]; keeps weights bounded where
        the table is too small.

    Returns
    -------
    Tensor
        [n] float64, independent estimates whose mean is L(start).

    Raises
    ------
    ValueError
        If the table is not one row of numbers that are not negative.
    """
    if table.ndim != 1 or not bool((table >= 0).all()):
        raise ValueError("table must be one row of finite numbers that are not negative")
    x = torch.full((n,), start, dtype=torch.float64, device=table.device)
    weight = torch.ones_like(x)
    score = rod.emission(x)
    while bool((weight > 1e-9).any()):
        k = rod.cells(x, len(table))  # [n, cells]
        _, y, p = step_towards(k, table, explore, generator)
        weight = weight * rod.kernel(x, y) / p
        x = y
        score += weight * rod.emission(x)
    return score


def step_towards(
    k: Tensor, q: Tensor, explore: float, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Choose the next place of walks with a density proportional to k times Q, cell by cell.

    Parameters
    ----------
    k
        [..., cells], the kernel's integral over each cell, from :meth:`Rod.cells`.
    q
        Values, to be broadcast to the shape of k.
    explore
        Probability of a uniformly chosen cell instead.
    generator
        Of the choice.

    Returns
    -------
    cell : Tensor
        int64 [...], the chosen cell.
    y : Tensor
        [...], uniform in the cell.
    density : Tensor
        [...], the density with which y was chosen.
    """
    m = k.shape[-1]
    good = k * q.clamp(min=_FLOOR)
    chance = (1 - explore) * good / good.sum(-1, keepdim=True) + explore / m
    cumulated = chance.cumsum(-1)
    shape = k.shape[:-1]
    xi = _uniform(shape, generator).unsqueeze(-1) * cumulated[..., -1:]
    cell = (cumulated <= xi).sum(-1).clamp(max=m - 1)
    y = ((cell + _uniform(shape, generator)) / m).clamp(max=1 - 2**-53)
    return cell, y, chance.gather(-1, cell.unsqueeze(-1)).squeeze(-1) * m


def _uniform(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.rand(shape, dtype=torch.float64, device=generator.device, generator=generator)
