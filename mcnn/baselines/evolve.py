"""Masks that change in training: weak weights leave, others come, and their number stays."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mcnn.baselines.masks import Masked, ranked, weights
from mcnn.sampling import as_seed, fold_in, hash_bits


class Evolving(Masked):
    r"""Replace weights of each layer every few steps of a training; see :meth:`on_step`.

    At step t the fraction :math:`\frac{\alpha}{2}(1+\cos\frac{\pi t}{T})` of a layer's weights
    leaves, those of smallest magnitude, and as many come, at zero.
    Weights that have just left may come back.
    After step T nothing changes any more.

    Parameters
    ----------
    model, masks
        As in :class:`mcnn.baselines.masks.Masked`.
    steps
        Of the whole training.
    fraction
        :math:`\alpha`.
    interval
        Steps between two changes.
    until
        T as a fraction of all steps.
    seed
        Of what is random.

    Raises
    ------
    ValueError
        For a number out of range.
    """

    def __init__(
        self,
        model: nn.Module,
        masks: Mapping[str, Tensor],
        *,
        steps: int,
        fraction: float = 0.3,
        interval: int = 100,
        until: float = 0.75,
        seed: int | torch.Generator = 0,
    ) -> None:
        if steps < 1 or interval < 1:
            raise ValueError(f"steps and interval must be at least 1, got {steps}, {interval}")
        if not (0 <= fraction <= 1 and 0 < until <= 1):
            raise ValueError(f"fraction and until must be in 0 ... 1, got {fraction}, {until}")
        super().__init__(model, masks)
        self.fraction, self.interval, self.end = fraction, interval, until * steps
        self.seed = as_seed(seed)

    def share(self, step: int) -> float:
        """Return the fraction of weights that leaves at a step."""
        return self.fraction / 2 * (1 + math.cos(math.pi * step / self.end))

    def grow(self, name: str, kept: Tensor, step: int) -> Tensor:
        """Return the scores of the weights that may come: the largest do."""
        raise NotImplementedError

    @torch.no_grad()
    def __call__(self, model: nn.Module, step: int = 0) -> None:
        """Change the masks if it is time, and keep the weights inside them."""
        if 0 < step < self.end and step % self.interval == 0:
            for name, weight in weights(model).items():
                if name in self.masks:
                    self._change(name, weight, step)
        super().__call__(model, step)

    def _change(self, name: str, weight: Tensor, step: int) -> None:
        mask = self.masks[name].bool()
        edges = int(mask.sum())
        leaving = int(self.share(step) * edges)
        strength = torch.where(mask, weight.abs(), -1)  # below every magnitude
        kept = ranked(strength, edges - leaving)
        scores = self.grow(name, kept, step)
        lowest = torch.iinfo(scores.dtype).min if scores.dtype == torch.int64 else -torch.inf
        come = ranked(scores.masked_fill(kept, lowest), leaving)
        weight.mul_(kept)
        self.masks[name] = (kept | come).to(weight)


class Set(Evolving):
    """Sparse evolutionary training: weights come at random places.

    Notes
    -----
    Source: D. C. Mocanu et al., Scalable training of artificial neural networks with adaptive
    sparse connectivity inspired by network science, 2018, with the schedule of RigL's comparison.
    """

    def grow(self, name: str, kept: Tensor, step: int) -> Tensor:
        """Return random scores."""
        stream = list(self.masks).index(name) + len(self.masks) * step
        seed = fold_in(self.seed, stream)
        return hash_bits(seed, torch.arange(kept.numel())).view(kept.shape).to(kept.device)


class RigL(Evolving):
    """Rigging the lottery: weights come where the gradient is largest.

    Notes
    -----
    The gradient is that of the step's own batch, which has just been trained on.
    Source: U. Evci, T. Gale, J. Menick, P. S. Castro, E. Elsen: Rigging the lottery: making all
    tickets winners, 2020.
    """

    def grow(self, name: str, kept: Tensor, step: int) -> Tensor:
        """Return the magnitudes of the gradients."""
        return self.gradients[name].abs()
