r"""Functions that are integrals over ridge functions, and how a point becomes a unit.

A *ridge function* of x depends on :math:`a\cdot x` alone, as :math:`\max\{0,a\cdot x-b\}` does.
What is an integral over them,

.. math:: f(x)=c_0+\mathbb E_u\left[\,h(u)\,\max\{0,\;a(u)\cdot x+b(u)\}\,\right],
          \qquad u\text{ uniform in }[0,1]^k ,

is a hidden layer of infinitely many units, one for each u.
:class:`mcnn.approximation.Bump` is the example with a formula, in any dimension;
:class:`mcnn.approximation.HiddenLayer` is a network that is there, whose sum over units is such an
integral with k = 1.

Source: slide "Curse of Dimensionality" of Y. Yao's talk: "Approximation by Sums of Ridge
Functions".
"""

import math
import operator
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from mcnn.errors import UsageError

_SMALLEST = 2.0**-54  # half of the distance of two points: no point becomes an infinite normal
_TINY = 2.0**-1022  # the middle of the cube is frequency zero, which has no direction


class Units(NamedTuple):
    """Hidden units: max{0, weight x + bias}, and the height that each has at the outputs.

    The weights are [n, inputs], the biases [n] and the heights [n, outputs], which are not yet
    divided by n.
    """

    weight: Tensor
    bias: Tensor
    height: Tensor


class RidgeIntegral(Protocol):
    """What :func:`mcnn.approximation.sampled_layer` needs to know of a function.

    Attributes
    ----------
    inputs
        Dimension of x.
    coordinates
        k, the dimension of the points that units are made of.
    """

    inputs: int
    coordinates: int

    def __call__(self, x: Tensor) -> Tensor:
        """Return the function itself: [batch, inputs] to [batch, outputs]."""
        ...

    def units(self, u: Tensor) -> Units:
        """Return the units of points float64 [n, coordinates] of the unit cube."""
        ...

    def constant(self) -> Tensor:
        """Return what is added to the integral, [outputs]."""
        ...


class Bump:
    r"""The bump :math:`e^{-|x|^2}` on the unit ball, as an integral over ridge functions.

    Its Fourier transform is a normal density: :math:`e^{-|x|^2}=\mathbb E\cos\omega\cdot x` with
    independent :math:`\omega_i` of variance 2.
    Along its direction :math:`a=\omega/|\omega|` a wave is a sum of kinks,

    .. math:: \cos\omega\cdot x=1-|\omega|^2\int_0^1\cos(|\omega|b)\,
              \max\{0,|a\cdot x|-b\}\,db ,

    and as :math:`\omega` and :math:`-\omega` are as likely, twice the ridge function
    :math:`\max\{0,a\cdot x-b\}` has the same mean.
    Since :math:`a\cdot x` is of order :math:`d^{-1/2}`, b is drawn with density
    :math:`m(1-b)^{m-1}`, :math:`m=\sqrt d`, and the height divided by it.

    Parameters
    ----------
    inputs
        d.

    Raises
    ------
    UsageError
        For a dimension below one, or inputs of another one.

    Notes
    -----
    Source: A. R. Barron, Universal approximation bounds for superpositions of a sigmoidal function.
    IEEE Transactions on Information Theory 39, 1993: what is finite there is the mean of
    :math:`|\omega|`; a kink in place of a step needs that of :math:`|\omega|^2`, which is 2d here.

    Examples
    --------
    >>> f = Bump(3)
    >>> f(torch.zeros(1, 3)), f.coordinates
    (tensor([[1.]]), 4)
    """

    def __init__(self, inputs: int) -> None:
        inputs = operator.index(inputs)
        if inputs < 1:
            raise UsageError(f"inputs must be at least 1, got {inputs}")
        self.inputs = inputs
        self.coordinates = inputs + 1

    def __call__(self, x: Tensor) -> Tensor:
        """Return exp(-|x|²): [batch, inputs] to [batch, 1]."""
        if x.shape[-1:] != (self.inputs,):
            raise UsageError(f"x must be [batch, {self.inputs}], got {list(x.shape)}")
        return torch.exp(-x.square().sum(-1, keepdim=True))

    def constant(self) -> Tensor:
        """Return 1, the value at the origin: float64 [1]."""
        return torch.ones(1, dtype=torch.float64)

    def units(self, u: Tensor) -> Units:
        """Return the units of points [n, inputs + 1]: frequencies, and an offset in the last."""
        omega = math.sqrt(2) * torch.special.ndtri(u[:, :-1].clamp(min=_SMALLEST))  # [n, inputs]
        size = omega.norm(dim=1)  # [n]
        m, rest = math.sqrt(self.inputs), 1 - u[:, -1]  # of (0, 1]
        b = 1 - rest ** (1 / m)
        density = m * rest ** (1 - 1 / m)
        height = -2 * size.square() * torch.cos(size * b) / density
        return Units(omega / size.clamp(min=_TINY).unsqueeze(1), -b, height.unsqueeze(1))


class HiddenLayer:
    r"""A linear layer, a ReLU and a linear layer, as a discrete density over their units.

    The outputs are

    .. math:: c_0+\sum_jp_j\,\frac{v_j}{p_j}\max\{0,w_j\cdot x+b_j\} ,

    a mean over units that are drawn with any probabilities p.
    Here they are proportional to :math:`|v_j|\,|(w_j,b_j)|`, the most that a unit can add, and a
    point selects j where the partial sums of p reach it, as
    :func:`mcnn.density.sample_counts` selects a weight.
    That few units drawn like this suffice is Maurey's lemma.

    Parameters
    ----------
    first, last
        The layer before the ReLU and the one behind it.

    Raises
    ------
    UsageError
        If these are no two linear layers that fit, no unit adds anything, or a parameter is NaN or
        infinite.

    Notes
    -----
    Source: G. Pisier, Remarques sur un résultat non publié de B. Maurey. Séminaire d'analyse
    fonctionnelle, 1981.

    Examples
    --------
    >>> f = HiddenLayer(nn.Linear(4, 100), nn.Linear(100, 3))
    >>> f(torch.zeros(2, 4)).shape, f.coordinates
    (torch.Size([2, 3]), 1)
    """

    coordinates = 1

    def __init__(self, first: nn.Linear, last: nn.Linear) -> None:
        for layer in (first, last):
            if not isinstance(layer, nn.Linear):
                raise UsageError(
                    f"a hidden layer lies between two torch.nn.Linear, not {type(layer).__name__}"
                )
        if first.out_features != last.in_features:
            raise UsageError(
                f"the layers do not fit: {first.out_features} units before, {last.in_features} "
                "behind the ReLU"
            )
        self.first, self.last = first, last
        self.inputs = first.in_features
        share = self._share()
        if not math.isfinite(float(share.sum())):
            raise UsageError(
                "a parameter of the hidden layer is NaN or infinite: it has no density"
            )
        if not float(share.sum()) > 0:
            raise UsageError("no unit of the hidden layer adds anything to the outputs")
        self.probability = share / share.sum()

    def __call__(self, x: Tensor) -> Tensor:
        """Return what the layers make of [batch, inputs]: [batch, outputs]."""
        return self.last(self.first(x).clamp(min=0))

    def constant(self) -> Tensor:
        """Return the bias of the outputs, float64 [outputs]."""
        return self._parameters()[3]

    def units(self, u: Tensor) -> Units:
        """Return the units that points [n, 1] select.

        Raises
        ------
        UsageError
            If a unit adds something that added nothing before: it would never be drawn.
        """
        w, b, v, _ = self._parameters()
        if bool(((self.probability == 0) & (self._share() != 0)).any()):
            raise UsageError(
                "a unit that added nothing has been trained since: make the HiddenLayer anew"
            )
        sums = self.probability.cumsum(0)
        # Rounding must not reach the last sum, behind which there is no unit.
        place = torch.minimum(u[:, 0].to(sums) * sums[-1], sums[-1].nextafter(sums.new_zeros(())))
        index = torch.searchsorted(sums, place, right=True)  # [n]
        return Units(w[index], b[index], (v / self.probability).T[index])

    def _share(self) -> Tensor:
        """Return the most that each unit can add, float64 [units]."""
        w, b, v, _ = self._parameters()
        return v.norm(dim=0) * torch.cat([w, b.unsqueeze(1)], 1).norm(dim=1)

    def _parameters(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return weights and biases, float64.

        They are [units, inputs], [units], [outputs, units] and [outputs].
        """
        w, v = (layer.weight.detach().double() for layer in (self.first, self.last))
        b, c = (
            torch.zeros_like(layer.weight[:, 0], dtype=torch.float64)
            if layer.bias is None
            else layer.bias.detach().double()
            for layer in (self.first, self.last)
        )
        return w, b, v, c
