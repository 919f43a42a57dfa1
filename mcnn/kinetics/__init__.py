r"""Reaction networks: a random walk on counts, and the equation of its mean that is not its mean.

A reaction network is a list of reactions, each with a rate.
In a volume V it has counts X of its species, integers that change by one reaction at a time, and
each reaction happens at a rate f(X), its *propensity*.
So the mean obeys

.. math:: \frac{d}{dt}\,\mathbb E X=\sum_r \nu_r\,\mathbb E f_r(X)

with the change :math:`\nu_r` of a reaction, and the rate equations of chemistry, the *mean field*,
write :math:`f_r(\mathbb E X)` in its place.
Where f is not linear the two differ, as a ReLU of a sampled sum differs from the ReLU of the sum:
by order 1/V where particles mix well, and at all times where they have to find each other.

===========  ===============================================================================
``network``  a network: propensities, the mean field, the generator of the master equation
``ssa``      exact runs: Gillespie's method, a random walk on the graph of reactions
``leap``     many reactions at a time: tau-leaping
``noise``    what is left of the noise in a large volume: covariance and spectrum
``lattice``  particles that hop on a ring and vanish where they meet
===========  ===============================================================================

Source: U. C. Täuber, Fluctuations and correlations in chemical reaction kinetics and population
dynamics, one of the papers around the talk; the walk is that of :mod:`mcnn.paths`, on other states.
"""

from mcnn import lazy_modules
from mcnn.kinetics.lattice import lattice
from mcnn.kinetics.network import Network

__all__ = ["Network", "lattice"]

__getattr__ = lazy_modules(__name__, __path__)
