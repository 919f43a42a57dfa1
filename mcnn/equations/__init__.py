r"""Integral equations whose kernel is learned through the solver.

A layer that listens to itself is an integral equation of the second kind,

.. math:: a(y) = f(y) + \int_{\Omega(y)} G(x,y,a(x))\,dx ,

with the unknown inside and outside of the integral.
Here G is unknown as well: it is learned from pairs of sources f and solutions a, and the gradient
passes through whatever solved the equation.
The parts of the idea are modules of their own:

===============  ============================================================================
``rules``        where the integral is sampled, and between which limits
``operators``    the integral: a kernel times an activation, a series in y, attention
``solver``       repeat until nothing changes; and the gradient of what comes out
``layer``        the three together, :class:`NeuralIntegralEquation`
``ratios``       attention and a rank-one equation, both the quotient of two means
===============  ============================================================================

Source: "Neural Integral Equations", E. Zappala et al.; it continues the slide "Learning Integral
Operator Kernels" of A. Keller's talk.
"""

from mcnn import lazy_modules
from mcnn.equations.layer import NeuralIntegralEquation
from mcnn.equations.operators import ACTIVATIONS, Attention, Hammerstein, Operator, Urysohn
from mcnn.equations.ratios import rank_one, self_normalised
from mcnn.equations.rules import LIMITS, rule
from mcnn.equations.solver import GRADIENTS, ContractionError, fixed_point, solve

__all__ = [
    "ACTIVATIONS",
    "GRADIENTS",
    "LIMITS",
    "Attention",
    "ContractionError",
    "Hammerstein",
    "NeuralIntegralEquation",
    "Operator",
    "Urysohn",
    "fixed_point",
    "rank_one",
    "rule",
    "self_normalised",
    "solve",
]

__getattr__ = lazy_modules(__name__, __path__)
