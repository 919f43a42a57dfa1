"""Experiments of the chapter on residual layers as differential equations."""

from mcnn.experiments.residual import adjoint, mnist, order, spirals, stable

EXPERIMENTS = [
    *order.EXPERIMENTS,
    *mnist.EXPERIMENTS,
    *spirals.EXPERIMENTS,
    *stable.EXPERIMENTS,
    *adjoint.EXPERIMENTS,
]
