r"""Random sampling in neural networks, with the source of the random numbers exchangeable.

Random numbers come into neural networks in many places: as initial weights, in the order of the
training samples, as dropout, as binary units, as fixed random matrices, and as what a generative
network turns into samples.
Mostly nobody asks where they come from.
To someone who samples for a living each of these places is an estimate of an integral, or it is
not, and that decides whether better points make a better network:

- if many numbers are *averaged*, points that cover their domain evenly have less error;
- if the numbers only have to *differ*, as initial weights do, any will do.

:mod:`~mcnn.randomness.source` makes numbers in [0, 1) by name, and everything else here takes that
name: :func:`initialise_`, :func:`epoch_order`, :class:`Dropout` and :class:`DropConnect`, the
gradient estimators of :mod:`~mcnn.randomness.binarise`, the fixed matrices of
:class:`FeedbackMLP`, the latents of :mod:`~mcnn.randomness.gan`, and the kernel approximation of
:class:`FourierFeatures`.

Source: slide "Examples of random sampling" of A. Keller's talk.
"""

from mcnn import lazy_modules
from mcnn.randomness.binarise import (
    DRAWS,
    all_states,
    draws,
    expected_loss,
    score_function,
    straight_through,
)
from mcnn.randomness.features import FourierFeatures, gaussian_kernel
from mcnn.randomness.feedback import FeedbackMLP, alignment_angles
from mcnn.randomness.gan import energy_distance, latent, ring, train_gan
from mcnn.randomness.initialise import initialise_
from mcnn.randomness.masks import DropConnect, Dropout
from mcnn.randomness.order import ORDERS, epoch_order
from mcnn.randomness.source import SOURCES, Stream, normals, numbers, substream

__all__ = [
    "DRAWS",
    "ORDERS",
    "SOURCES",
    "DropConnect",
    "Dropout",
    "FeedbackMLP",
    "FourierFeatures",
    "Stream",
    "alignment_angles",
    "all_states",
    "draws",
    "energy_distance",
    "epoch_order",
    "expected_loss",
    "gaussian_kernel",
    "initialise_",
    "latent",
    "normals",
    "numbers",
    "ring",
    "score_function",
    "straight_through",
    "substream",
    "train_gan",
]

__getattr__ = lazy_modules(__name__, __path__)
