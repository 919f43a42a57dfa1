r"""The score function with a baseline for each unit, and what the best one is.

For any constant :math:`c_i` the estimate of the derivative by the pre-activation of unit i,

.. math:: (h_i-p_i)\,(L(h)-c_i),

is unbiased.
Its variance is least [1]_ for

.. math::
    c_i=\frac{E[(h_i-p_i)^2L]}{E[(h_i-p_i)^2]}
       =(1-p_i)\,E[L\mid h_i=1]+p_i\,E[L\mid h_i=0],

the mean loss with the two probabilities *exchanged*: the rare state counts most, because there the
factor before it is large.
:func:`all_baselines` computes it with its rivals by enumeration, :class:`RunningBaseline` learns it
while a network does.

"Least" is among constants.
A baseline that knows the other units' states does better: :func:`local_expectation` sums over the
two states of each unit and samples only the others, for k more evaluations of the loss.

References
----------
.. [1] Y. Bengio, N. Léonard, A. Courville: Estimating or propagating gradients through stochastic
   neurons for conditional computation. arXiv:1308.3432.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from mcnn.errors import UsageError
from mcnn.gates.exact import of_states, states

Loss = Callable[[Tensor], Tensor]

BASELINES = ("none", "mean", "probabilities", "rounded", "minimum variance")


def all_baselines(a: Tensor, loss: Loss) -> dict[str, Tensor]:
    """Return what can be taken off the loss, exactly, by all 2**k states.

    Parameters
    ----------
    a
        [b, k], pre-activations.
    loss
        Maps states [..., b, k] to losses [..., b].

    Returns
    -------
    dict of Tensor
        [b, k] for each of :data:`BASELINES`: nothing; the mean loss; the loss at the probabilities;
        that at the more probable states; and the one of minimum variance.

    Raises
    ------
    ValueError
        Of :func:`mcnn.randomness.all_states`, for too many units.

    Examples
    --------
    >>> a = torch.zeros(1, 2, dtype=torch.float64)
    >>> c = all_baselines(a, lambda h: 2 * h[..., 0] + h[..., 1])
    >>> c["mean"].tolist(), c["minimum variance"].tolist()
    ([[1.5, 1.5]], [[1.5, 1.5]])
    """
    p = a.sigmoid()
    h, probability = states(a)
    value = loss(h)  # [2**k, b]
    weight = probability.unsqueeze(-1) * (h - p).square()  # [2**k, b, k]
    minimum = (weight * value.unsqueeze(-1)).sum(0) / weight.sum(0)
    if bool((weight.sum(0) == 0).any()):  # units that rounding has made sure: the other formula
        minimum = torch.where(weight.sum(0) == 0, _exchanged(a, loss), minimum)
    found = ((probability * value).sum(0), loss(p), loss((p > 0.5).to(p.dtype)))
    mean, at_p, rounded = (v.unsqueeze(-1).expand_as(a) for v in found)
    return dict(zip(BASELINES, (torch.zeros_like(a), mean, at_p, rounded, minimum), strict=True))


def _exchanged(a: Tensor, loss: Loss) -> Tensor:
    """Return the mean loss with the probabilities of unit i exchanged, for each i: [b, k]."""
    found = []
    for i in range(a.shape[-1]):
        even = a.clone()
        even[..., i] = 0  # both of its states as probable, and then weighed
        h, probability = states(even)
        on, p = h[..., i], a[..., i].sigmoid()
        weight = 2 * probability * ((1 - p) * on + p * (1 - on))
        found.append((weight * loss(h)).sum(0))
    return torch.stack(found, -1)


def variance(a: Tensor, loss: Loss, baseline: Tensor) -> Tensor:
    """Return the exact variance of the score function of one draw, by all 2**k states.

    Parameters
    ----------
    a
        [b, k], pre-activations.
    loss
        Maps states [..., b, k] to losses [..., b].
    baseline
        [b, k], taken off the loss for each unit.

    Returns
    -------
    Tensor
        [b, k], of the derivative by ``a``.
    """
    h, probability = states(a)
    estimate = (h - a.sigmoid()) * (loss(h).unsqueeze(-1) - baseline)  # [2**k, b, k]
    return of_states(estimate, probability)[1]


def local_variance(a: Tensor, loss: Loss) -> Tensor:
    """Return the exact variance [b, k] of :func:`local_expectation` of one draw.

    Parameters
    ----------
    a, loss
        As for :func:`variance`.
    """
    h, probability = states(a)
    p = a.sigmoid()
    return of_states(p * (1 - p) * _differences(h, loss(h), loss), probability)[1]


def score_function(a: Tensor, xi: Tensor, loss: Loss, baseline: Tensor | float = 0.0) -> Tensor:
    """Return an expression whose gradient estimates that of the expected loss without bias.

    :func:`mcnn.randomness.score_function` has one centre for all units of an example; here each
    unit may have its own.

    Parameters
    ----------
    a
        [b, k], pre-activations.
    xi
        [S, b, k] in [0, 1): S draws.
    loss
        Maps states [..., b, k] to losses [..., b].
    baseline
        [b, k], or what expands to it; it must not depend on the draws.

    Returns
    -------
    Tensor
        [b]; its value is the mean loss of the draws.

    Raises
    ------
    UsageError
        If there is no draw, or the loss is not one number for each draw and example.
    """
    h, value = _drawn(a, xi, loss)  # [S, b, k] and [S, b]
    log_p = h * a - F.softplus(a)  # [S, b, k]
    score = (value.detach().unsqueeze(-1) - baseline) * (log_p - log_p.detach())
    return (value + score.sum(-1)).mean(0)


def local_expectation(a: Tensor, xi: Tensor, loss: Loss) -> Tensor:
    """Return an expression whose gradient sums over each unit's states and samples the others'.

    Parameters
    ----------
    a
        [b, k], pre-activations.
    xi
        [S, b, k] in [0, 1): S draws.
    loss
        Maps states [..., b, k] to losses [..., b]; it is evaluated k + 1 times for each draw.

    Returns
    -------
    Tensor
        [b]; its value is the mean loss of the draws.

    Raises
    ------
    UsageError
        As of :func:`score_function`.
    """
    p = a.sigmoid()
    h, value = _drawn(a, xi, loss)  # [S, b, k] and [S, b]
    with torch.no_grad():
        differences = _differences(h, value, loss)
    return (value + (differences * (p - p.detach())).sum(-1)).mean(0)


def _drawn(a: Tensor, xi: Tensor, loss: Loss) -> tuple[Tensor, Tensor]:
    """Return the states of the draws, and their losses."""
    if xi.dim() != a.dim() + 1 or not len(xi):
        raise UsageError(
            f"xi must be [S, {', '.join(map(str, a.shape))}] with at least one draw, got "
            f"{list(xi.shape)}"
        )
    h = (xi < a.sigmoid()).to(a.dtype).detach()
    value = loss(h)
    if value.shape != h.shape[:-1]:
        raise UsageError(
            f"the loss must map states {list(h.shape)} to {list(h.shape[:-1])}, got "
            f"{list(value.shape)}"
        )
    return h, value


def _differences(h: Tensor, value: Tensor, loss: Loss) -> Tensor:
    """Return the loss with each unit on minus that with it off, [..., k]; the others as in h."""
    k = h.shape[-1]
    other = torch.stack([loss(_flip(h, i)) for i in range(k)], -1)  # [..., k]
    return (value.detach().unsqueeze(-1) - other) * (2 * h - 1)


def _flip(h: Tensor, i: int) -> Tensor:
    flipped = h.clone()
    flipped[..., i] = 1 - flipped[..., i]
    return flipped


class RunningBaseline:
    """The baseline of minimum variance for each unit, from moving averages over past batches.

    It depends on draws of the past only, so the estimate stays unbiased.

    Parameters
    ----------
    decay
        Weight of the past in the averages, in [0, 1).

    Raises
    ------
    ValueError
        For a decay out of range.

    Examples
    --------
    >>> baseline = RunningBaseline()
    >>> baseline.value
    0.0
    >>> baseline.update(torch.tensor([[0.5, -0.5]]), torch.tensor([3.0]))
    >>> baseline.value.tolist()
    [3.0, 3.0]
    """

    def __init__(self, decay: float = 0.99) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be in [0, 1), got {decay}")
        self.decay = decay
        self._weighted: Tensor | None = None  # [k], of (h - p)^2 L
        self._weight: Tensor | None = None  # [k], of (h - p)^2

    @property
    def value(self) -> Tensor | float:
        """The baseline, [k]; zero before the first batch."""
        if self._weighted is None or self._weight is None:
            return 0.0
        return self._weighted / self._weight.clamp(min=torch.finfo(self._weight.dtype).tiny)

    @torch.no_grad()
    def update(self, difference: Tensor, loss: Tensor) -> None:
        """Take in a batch.

        Parameters
        ----------
        difference
            [b, k], h - p.
        loss
            [b].

        Raises
        ------
        UsageError
            For other shapes, or an empty batch.
        """
        if difference.dim() != 2 or loss.shape != difference.shape[:1] or not len(loss):
            raise UsageError(
                f"difference and loss must be [b, k] and [b], got {list(difference.shape)} and "
                f"{list(loss.shape)}"
            )
        square = difference.square()
        weight, weighted = square.mean(0), (square * loss.unsqueeze(-1)).mean(0)
        if self._weighted is None or self._weight is None:
            self._weight, self._weighted = weight, weighted
        else:
            self._weight = self._weight.lerp(weight, 1 - self.decay)
            self._weighted = self._weighted.lerp(weighted, 1 - self.decay)
