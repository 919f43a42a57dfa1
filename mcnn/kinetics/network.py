r"""A network of reactions in a volume, and three ways to say what it does.

The rate k of a reaction is that of chemistry: concentrations c change by
:math:`k\prod_i c_i^{m_i}` per unit of time, where :math:`m_i` counts how often species i is on the
left.
In a volume V the counts x then react at the rate

.. math:: f(x)=k\,V\prod_i \frac{x_i(x_i-1)\cdots(x_i-m_i+1)}{V^{m_i}} ,

for a particle does not react with itself.
"""

import operator
import re
from collections.abc import Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from mcnn.errors import UsageError, unknown
from mcnn.kinetics import leap, ssa

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

_RUNAWAY = 1e9  # concentrations this many times as large as at the start have no end
_TERM = re.compile(r"(?:(\d+)\s*\*?\s*)?([A-Za-z_]\w*)")


class Network:
    """Species and reactions with mass-action rates, in a volume.

    Parameters
    ----------
    reactions
        From an equation to its rate, as ``{"A + B -> 2 B": 0.1, "B -> 0": 1.0}``; a 0 is nothing.
    volume
        V, above 0: the counts are V times the concentrations.

    Attributes
    ----------
    species : tuple of str
        In the order of their first mention; the last axis of every result.
    reactants, changes : Tensor
        int64 [reactions, species]: how many particles each reaction takes, and by how many their
        numbers change.
    rates : Tensor
        float64 [reactions].

    Raises
    ------
    UsageError
        If an equation cannot be read, changes nothing, or has a rate that is no number of at least
        0; or if the volume is not above 0.

    Examples
    --------
    >>> birth = Network({"0 -> A": 2.0, "A -> 0": 1.0}, volume=50)
    >>> birth.species, birth.propensities(torch.tensor([30])).tolist()
    (('A',), [100.0, 30.0])
    """

    def __init__(self, reactions: Mapping[str, float], volume: float = 1.0) -> None:
        if not isinstance(reactions, Mapping) or not reactions:
            raise UsageError('a network needs a reaction, such as {"A -> 0": 1.0}')
        if not 0 < _number(volume) < float("inf"):
            raise UsageError(f"the volume must be above 0 and finite, got {volume}")
        sides = [_sides(text) for text in reactions]
        names = dict.fromkeys(name for side in sides for terms in side for name in terms)
        self.species = tuple(names)
        self.equations = tuple(reactions)
        self.volume = float(volume)
        counts = torch.tensor([[[side.get(n, 0) for n in names] for side in s] for s in sides])
        self.reactants = counts[:, 0]  # [reactions, species]
        self.changes = counts[:, 1] - counts[:, 0]
        for text, rate in reactions.items():
            if not 0 <= _number(rate) < float("inf"):
                raise UsageError(f"the rate of {text!r} must be a number of at least 0, got {rate}")
        for text, change in zip(reactions, self.changes, strict=True):
            if not change.any():
                raise UsageError(f"{text!r} changes nothing")
        self.rates = torch.tensor([float(x) for x in reactions.values()], dtype=torch.float64)

    def __repr__(self) -> str:
        lines = [f"{t!r}: {r:g}" for t, r in zip(self.equations, self.rates.tolist(), strict=True)]
        return f"Network({{{', '.join(lines)}}}, volume={self.volume:g})"

    def state(self, counts: Mapping[str, int] | Sequence[int] | Tensor) -> Tensor:
        """Return counts as int64 [species]; a mapping may leave out what there is none of.

        Raises
        ------
        UsageError
            For an unknown species, another number of them, or a count that is no integer of at
            least 0.
        """
        if isinstance(counts, Mapping):
            for name in counts:
                if name not in self.species:
                    raise unknown("species", name, self.species)
            counts = [counts.get(name, 0) for name in self.species]
        try:
            x = torch.as_tensor(counts)
        except (TypeError, ValueError) as error:
            raise UsageError(f"counts must be integers of at least 0: {error}") from None
        if x.dtype == torch.bool:
            raise UsageError(f"counts must be integers of at least 0, got {x.tolist()}")
        if x.shape != (len(self.species),):
            raise UsageError(
                f"counts of {', '.join(self.species)} are wanted, got shape {tuple(x.shape)}"
            )
        if x.is_complex() or not bool(((x == x.floor()) & (x >= 0) & (x < 2**53)).all()):
            raise UsageError(f"counts must be integers of at least 0, got {x.tolist()}")
        return x.long()

    @property
    def scaled(self) -> Tensor:
        """Rates with their powers of the volume, float64 [reactions]."""
        return self.rates * self.volume ** (1 - self.reactants.sum(1)).double()

    def propensities(self, x: Tensor) -> Tensor:
        """Return how fast each reaction happens at given counts.

        Parameters
        ----------
        x
            [..., species], integers.

        Returns
        -------
        Tensor
            float64 [..., reactions], per unit of time.

        Raises
        ------
        UsageError
            For another number of species, or counts below 0.
        """
        self._like_species(x)
        if bool((x < 0).any()):
            raise UsageError("counts must be at least 0")
        return ssa.propensities(self, x)

    def drift(self, c: Tensor) -> Tensor:
        """Return the rate of change of concentrations c [..., species] in the mean field."""
        self._like_species(c)
        c = c.double()
        terms = torch.pow(c.unsqueeze(-2), self.reactants.double())  # [..., reactions, species]
        return (self.rates * terms.prod(-1)) @ self.changes.double()

    def _like_species(self, x: Tensor) -> None:
        if x.shape[-1:] != (len(self.species),):
            raise UsageError(
                f"the last axis must be {', '.join(self.species)}, got shape {tuple(x.shape)}"
            )

    def mean_field(
        self, initial: Mapping[str, int] | Sequence[int] | Tensor, times: Sequence[float] | Tensor
    ) -> Tensor:
        """Solve the rate equations of chemistry, to a relative error of 1e-9 or so.

        Of concentrations that have fallen far below all those of the start the error is absolute.

        Parameters
        ----------
        initial
            Counts at time 0, as :meth:`state` takes them.
        times
            [times], from 0, not decreasing.

        Returns
        -------
        Tensor
            float64 [times, species], in counts: V times the concentrations.

        Raises
        ------
        UsageError
            For wrong counts or times, or a solution that runs away before the last time.
        """
        from scipy.integrate import solve_ivp  # takes a while

        t = ssa.checked_times(times)
        start = (self.state(initial).double() / self.volume).numpy()
        if not t[-1] > 0:
            return torch.from_numpy(start * self.volume).expand(len(t), -1).clone()

        most = _RUNAWAY * (1 + float(np.abs(start).max()))

        def drift(t: float, c: np.ndarray) -> np.ndarray:
            if not (np.abs(c) < most).all():  # the solver would go on in ever smaller steps
                raise UsageError(
                    f"the mean field of {self} may run away: it does at time {t:g}; "
                    "choose earlier times"
                )
            return self.drift(torch.from_numpy(c)).numpy()

        least = float(start[start > 0].min()) if (start > 0).any() else 1.0
        atol = 1e-12 * min(1.0, 1e3 * least)  # one particle in a large volume counts, too
        options = {"method": "LSODA", "rtol": 1e-10, "atol": atol, "t_eval": np.unique(t.numpy())}
        with np.errstate(over="ignore", invalid="ignore"):
            found = solve_ivp(drift, (0.0, float(t[-1])), start, **options)
        if not found.success or found.y.shape[1] < len(found.t) or not np.isfinite(found.y).all():
            raise UsageError(
                f"the mean field of {self} cannot be followed to time {float(t[-1]):g}: "
                f"{found.message}; it may run away, choose earlier times"
            )
        at = np.searchsorted(options["t_eval"], t.numpy())
        return torch.from_numpy(found.y.T[at] * self.volume)

    def ssa(
        self,
        initial: Mapping[str, int] | Sequence[int] | Tensor,
        times: Sequence[float] | Tensor,
        runs: int = 1,
        seed: int | torch.Generator = 0,
        max_events: int = 10**8,
    ) -> Tensor:
        """Simulate exactly, see :func:`mcnn.kinetics.ssa.simulate`."""
        return ssa.simulate(self, initial, times, runs, seed, max_events)

    def tau_leap(
        self,
        initial: Mapping[str, int] | Sequence[int] | Tensor,
        times: Sequence[float] | Tensor,
        step: float,
        runs: int = 1,
        seed: int | torch.Generator = 0,
    ) -> Tensor:
        """Simulate in steps, see :func:`mcnn.kinetics.leap.simulate`."""
        return leap.simulate(self, initial, times, step, runs, seed)

    def generator(self, most: Mapping[str, int]) -> "csr_matrix":
        """Return the generator of the master equation on counts up to a bound.

        Parameters
        ----------
        most
            The largest count of each species; what would lead beyond is left out, so that
            probability stays where it is.

        Returns
        -------
        scipy.sparse.csr_matrix
            Q, float64 [states, states], rows sum to 0: probabilities change by p Q.
            States are in the order of ``itertools.product`` over ``range(bound + 1)`` of the
            species, the last one fastest.

        Raises
        ------
        UsageError
            If a species has no bound or one below 0, or there is no such species.

        Examples
        --------
        >>> Network({"A -> 0": 2.0}).generator({"A": 2}).toarray().tolist()
        [[0.0, 0.0, 0.0], [2.0, -2.0, 0.0], [0.0, 4.0, -4.0]]
        """
        from scipy.sparse import coo_matrix

        missing = [name for name in self.species if name not in most]
        if missing:
            raise UsageError(f"generator needs the largest count of {', '.join(missing)}")
        for name, bound in most.items():
            if name not in self.species:
                raise unknown("species", name, self.species)
            if operator.index(bound) < 0:
                raise UsageError(f"the largest count of {name} must be at least 0, got {bound}")
        bounds = torch.tensor([int(most[name]) for name in self.species])
        states = torch.tensor(list(product(*(range(int(b) + 1) for b in bounds))))
        strides = torch.cat([(bounds + 1).flip(0).cumprod(0).flip(0)[1:], torch.ones(1).long()])
        speed = self.propensities(states)  # [states, reactions]
        rows, columns, values = [], [], []
        for r, change in enumerate(self.changes):
            after = states + change
            inside = ((after >= 0) & (after <= bounds)).all(1) & (speed[:, r] > 0)
            source = torch.nonzero(inside).squeeze(1)
            rows += [source, source]
            columns += [(after[source] * strides).sum(1), source]
            values += [speed[source, r], -speed[source, r]]
        data = [torch.cat(x).numpy() for x in (values, rows, columns)]
        return coo_matrix((data[0], (data[1], data[2])), shape=(len(states),) * 2).tocsr()


def _number(x: float) -> float:
    """Return a number, or NaN for what is none: no range has that in it."""
    try:
        return float(x)
    except (TypeError, ValueError):
        return float("nan")


def _sides(text: str) -> tuple[dict[str, int], dict[str, int]]:
    left, arrow, right = text.partition("->")
    if not arrow or "->" in right:
        raise UsageError(f"{text!r} is no reaction: write it as 'A + B -> 2 C', with 0 for nothing")
    return _side(left, text), _side(right, text)


def _side(side: str, text: str) -> dict[str, int]:
    counts: dict[str, int] = {}
    if side.strip() in ("0", "∅"):
        return counts
    for term in side.split("+"):
        match = _TERM.fullmatch(term.strip())
        if match is None or not 0 < int(match[1] or 1) < 2**31:
            raise UsageError(
                f"{text!r}: cannot read {term.strip()!r}; write '2 A', or 0 for nothing"
            )
        counts[match[2]] = counts.get(match[2], 0) + int(match[1] or 1)
    return counts
