r"""The rate on the talk's own integrand, w·max{0, a}, kinked where the ReLU acts.

A trial is one random plane :math:`g\cdot x+c`, which crosses zero in the cube (*kinked*) or passes
it by (*smooth*), under the kernel of :mod:`mcnn.integral.ridge`; and a periodic integrand with a
kink, where a sum of cosines takes the place of the plane.
All of the rules here are without bias, so that the error is the standard deviation over replicates,
and no exact value is needed.

Theory, as exponents of n, up to logarithms (:func:`theory`):

- independent points: -1/2 for all;
- jittered: -1/2 - 1/d for all that is Lipschitz continuous, a kink included;
- scrambled Sobol' points: -3/2 for smooth integrands in any dimension (Owen 1997). A kink that lies
  at an angle to all axes has no mixed derivatives in L2. Counting the boxes of side
  :math:`n^{-1/d}` that it crosses, :math:`n^{1-1/d}`, each with a mixed difference of the size of a
  side, gives -1/2 - 3/(2d), and no better than -3/2. That is an estimate, not a theorem; the same
  count for a jump gives -1/2 - 1/(2d), which He and Wang (2015) prove for certain indicators;
- shifted lattices: -1 where an integrand is not periodic; with the tent transform -2 for smooth
  ones (Hickernell 2002), and in one dimension for a kink, too, whose Fourier coefficients fall like
  the square of the frequency.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mcnn.integral.nodes import nodes
from mcnn.integral.randomised import nested_sobol, tent
from mcnn.integral.ridge import CosineProduct, random_ridge
from mcnn.ledger.experiment import Experiment, Trial
from mcnn.ledger.records import Record
from mcnn.sampling import fold_in, points, uniforms
from mcnn.stats import slope

KINDS = ("smooth", "kinked", "periodic, kinked")
METHODS = ("random", "jittered", "sobol-nested", "sobol-linear", "lattice", "lattice-tent")
_PLACES = 4  # y at which the integral is taken


@dataclass(frozen=True, kw_only=True)
class KinkTrial(Trial):
    """A dimension; ``grids`` are the numbers of jittered points, the rest takes ``sizes``."""

    dimension: int = 1
    sizes: tuple[int, ...] = tuple(2**k for k in range(4, 15))
    grids: tuple[int, ...] = tuple(2**k for k in range(4, 15))
    replicates: int = 400


class _Integrands:
    """The three integrands of a trial, [kinds, places] for a set of points."""

    def __init__(self, d: int, seed: int) -> None:
        self.y = uniforms(fold_in(seed, 0), torch.arange(_PLACES * d)).view(_PLACES, d)
        self.phase = uniforms(fold_in(seed, 1), torch.arange(d))
        self.kernel = CosineProduct(d)
        self.ridges = [random_ridge(d, kinked, seed) for kinked in (False, True)]

    def means(self, x: Tensor) -> Tensor:
        """Return the mean of each integrand over points [n, d]: [kinds, places]."""
        open_, closed = self.kernel(x, self.y), self.kernel(2 * x, 2 * self.y)  # [n, places]
        smooth, kinked = self.ridges
        waves = kinked(self._folded(x))
        pairs = ((smooth(x), open_), (kinked(x), open_), (waves, closed))
        return torch.stack([a.clamp(min=0) @ w for a, w in pairs]) / len(x)

    def _folded(self, x: Tensor) -> Tensor:
        return (1 + torch.cos(2 * torch.pi * (x - self.phase))) / 2  # periodic, in the cube


def _draws(method: str, n: int, d: int, seeds: Sequence[int]) -> Iterator[Tensor]:
    for seed in seeds:
        if method == "sobol-nested":
            yield nested_sobol(n, d, seed)
        elif method.startswith("lattice"):
            x, _ = nodes(n, d, "lattice-equal", seed, dtype=torch.float64)
            yield tent(x) if method == "lattice-tent" else x
        else:
            name = {"sobol-linear": "sobol"}.get(method, method)
            yield points(n, d, name, seed, dtype=torch.float64)


def _run(trial: KinkTrial, device: torch.device) -> dict[str, Any]:
    """Return errors of every method at every size, and the share of the worst replicate in them."""
    d = trial.dimension
    integrands = _Integrands(d, trial.seed)
    metrics: dict[str, Any] = {
        kind: {method: {"n": [], "error": [], "worst": []} for method in METHODS} for kind in KINDS
    }
    seeds = [fold_in(trial.seed, 2 + r) for r in range(trial.replicates)]
    for method in METHODS:
        for n in trial.grids if method == "jittered" else trial.sizes:
            means = torch.stack([integrands.means(x) for x in _draws(method, n, d, seeds)])
            mean = means.mean(0)  # [kinds, places]
            squares = ((means - mean) / mean).square().mean(2)  # [replicates, kinds]
            total = squares.sum(0)
            for i, kind in enumerate(KINDS):
                row = metrics[kind][method]
                row["n"].append(n)
                row["error"].append(float(total[i] / (len(seeds) - 1)) ** 0.5)
                row["worst"].append(float(squares[:, i].max() / total[i]))
    return metrics


_POWERS = tuple(2**k for k in range(4, 15))
_SIZES = {1: _POWERS, 2: _POWERS, 8: _POWERS[::2]}
_GRIDS = {1: _POWERS, 2: tuple(4**k for k in range(2, 8)), 8: (2**8, 3**8)}


def _trials(profile: str, seeds: Sequence[int]) -> list[KinkTrial]:
    few = {} if profile == "full" else {"replicates": 16}
    most = 2**14 if profile == "full" else 2**10
    trials = []
    for d, sizes in _SIZES.items():
        grids = _GRIDS[d] if d == 8 else tuple(n for n in _GRIDS[d] if n <= most)
        cases = {"sizes": tuple(n for n in sizes if n <= most), "grids": grids}
        trials += [KinkTrial(dimension=d, seed=seed, **cases, **few) for seed in seeds]
    return trials


def theory(method: str, d: int, kind: str) -> float | None:
    """Return the exponent of the error, up to logarithms; None where we know of none."""
    if method == "random":
        return -0.5
    if method == "jittered":
        return -0.5 - 1 / d
    if method.startswith("sobol"):
        return -1.5 if kind == "smooth" else max(-1.5, -0.5 - 1.5 / d)
    periodic = kind.startswith("periodic")
    if method == "lattice" and not periodic:
        return -1.0
    return -2.0 if d == 1 or kind == "smooth" else None


def _measure(records: Sequence[Record]) -> Mapping[str, Sequence[float]]:
    """Return the slopes, and the worst replicate's share at the most points, one value a plane."""
    readings: dict[str, list[float]] = {}
    for r in records:
        for kind in KINDS:
            for method, row in r.metrics[kind].items():
                name = f"{method}, d={r.config.dimension}, {kind}"
                readings.setdefault(name, []).append(slope(row["n"], row["error"]))
                if method.startswith("sobol"):
                    share = f"{name}: worst replicate's share"
                    readings.setdefault(share, []).append(row["worst"][-1])
    return readings


EXPERIMENT = Experiment(
    name="integral-kink",
    summary="error of w max{0, a} against the number of nodes, where the ReLU has its kink",
    trial=KinkTrial,
    trials=_trials,
    run=_run,
    seeds={"fast": range(2), "full": range(100, 106)},
    measures={"integral-kink": _measure},
    tolerance=1e-6,
)
