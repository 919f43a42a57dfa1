"""Experiments of the chapter on networks as linear systems."""

from mcnn.experiments.interpreter import cifar, identity, mobilenet, recovery, walks, wavelets

EXPERIMENTS = [
    *identity.EXPERIMENTS,
    *walks.EXPERIMENTS,
    *cifar.EXPERIMENTS,
    *wavelets.EXPERIMENTS,
    *recovery.EXPERIMENTS,
    *mobilenet.EXPERIMENTS,
]
