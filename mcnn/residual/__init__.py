"""Residual layers are steps of a solver of a differential equation.

A residual layer adds to its input: a_l = a_{l-1} + h W2 max{0, W1 a_{l-1}}.
That is one step of Euler's method, of size h, for the ordinary differential equation
a'(t) = W2(t) max{0, W1(t) a(t)}.
Seen this way, three things that came as one can be chosen one by one:

- the *right-hand side*: how the weights depend on time, and whether W2 is free or follows from W1
  so that the equation is stable (:mod:`mcnn.residual.fields`);
- the *solver*: Euler's method or a better one, the same or another one after training
  (:mod:`mcnn.residual.solvers`);
- the *gradient*: of the steps taken, or from the adjoint equation, whose memory does not grow with
  depth (:class:`mcnn.profiling.SavedBytes` counts it).

:class:`ResidualODE` puts them together.

Source: slide "Residual layers as differential equations".
"""

from mcnn import lazy_modules
from mcnn.residual.fields import STRUCTURES, WEIGHTS
from mcnn.residual.ode import ResidualODE
from mcnn.residual.solvers import ADAPTIVE, ORDERS, SOLVERS

__all__ = [
    "ADAPTIVE",
    "ORDERS",
    "SOLVERS",
    "STRUCTURES",
    "WEIGHTS",
    "ResidualODE",
]

__getattr__ = lazy_modules(__name__, __path__)
