r"""Layers with a continuum of neurons: integral operators, sampled, and what follows for learning.

Number the neurons of a layer by points x of the unit cube, and its sum becomes an integral,

.. math:: a_l(y) = \int w_l(x,y)\,\max\{0,a_{l-1}(x)\}\,dx .

A trained kernel w then serves any number of neurons, placed anywhere.
The parts of the idea are modules of their own:

===============  ============================================================================
``regroup``      the ReLU moves from the output of a layer to the input of the next
``nodes``        where the integral is sampled: Monte Carlo, quasi-Monte Carlo, Gauss
``kernels``      w as a series of cosines, as a small network, as a readout
``layer``        the layer itself, and a classifier of images made of it
``recurrent``    a layer that listens to itself is an integral equation
``ridge``        integrals with known values, smooth or kinked, in any dimension
``transport``    light in a rod: closed form, Neumann series, random walks
``learning``     the same equation solved by reinforcement learning, which then guides the walks
``noise``        learning a function from noisy samples of the integrals that define it
===============  ============================================================================

Source: slides "Learning Integral Operator Kernels" and those that follow, of A. Keller's talk.
"""

from mcnn import lazy_modules
from mcnn.integral.kernels import Fourier, Kernel, Perceptron, Readout
from mcnn.integral.layer import ClassBias, CosineBias, IntegralLayer, IntegralNet, picture
from mcnn.integral.nodes import RULES, nodes
from mcnn.integral.recurrent import RecurrentLayer
from mcnn.integral.regroup import relu_to_input

__all__ = [
    "RULES",
    "ClassBias",
    "CosineBias",
    "Fourier",
    "IntegralLayer",
    "IntegralNet",
    "Kernel",
    "Perceptron",
    "Readout",
    "RecurrentLayer",
    "nodes",
    "picture",
    "relu_to_input",
]

__getattr__ = lazy_modules(__name__, __path__)
