"""What the field does instead of sampling paths: masks for sparse networks, from their papers.

==========================  =====================================================================
:func:`random_mask`         so many weights of a layer, at random
:func:`fan_in_mask`         so many weights of each neuron, at random
:func:`erk_densities`       densities of layers by Erdős and Rényi, with or without kernel
:func:`snip`                largest connection sensitivity, abs(w ∂L/∂w), before training
:func:`synflow`             largest sum of products along paths, before training, iteratively
:func:`phew`                edges of random walks that prefer large weights, before training
:class:`Set`                weak weights leave, others come at random, in training
:class:`RigL`               weak weights leave, others come by gradient, in training
:func:`magnitude`           largest weights of a trained network
:func:`shuffled`            the control: the same numbers, at random places
==========================  =====================================================================

A mask is a tensor of the shape of a weight, and :class:`Masked` keeps a network inside of masks
while it is trained.
"""

from mcnn import lazy_modules
from mcnn.baselines.evolve import RigL, Set
from mcnn.baselines.masks import (
    Masked,
    edges_of,
    erk_densities,
    fan_in_mask,
    magnitude,
    random_mask,
    shuffled,
    weights,
)
from mcnn.baselines.phew import phew
from mcnn.baselines.saliency import connection_sensitivity, snip, synaptic_flow, synflow

__all__ = [
    "Masked",
    "RigL",
    "Set",
    "connection_sensitivity",
    "edges_of",
    "erk_densities",
    "fan_in_mask",
    "magnitude",
    "phew",
    "random_mask",
    "shuffled",
    "snip",
    "synaptic_flow",
    "synflow",
    "weights",
]

__getattr__ = lazy_modules(__name__, __path__)
