r"""Simulating discrete densities: sample the weights of a neuron instead of multiplying by all.

A neuron adds up :math:`\sum_j w_j a_j`.
Divide its weights by :math:`\|w\|_1=\sum_j|w_j|`, and their magnitudes
:math:`p_j=|w_j|/\|w\|_1` are a discrete density.
Their partial sums :math:`P_i=\sum_{j\le i}p_j` cut the unit interval into pieces, and a number
:math:`\xi` selects weight :math:`i` if

.. math:: P_{i-1}\le\xi<P_i .

Take :math:`S` such numbers and count how often each weight is hit, with the sign of the weight:
:math:`c_i=\operatorname{sign}(w_i)\,\#\{k: P_{i-1}\le\xi_k<P_i\}`.
Then :math:`\frac{\|w\|_1}{S}\sum_i c_i a_i` is an unbiased estimate of what the neuron computes,
and all it multiplies by are small integers.
Weights that are never hit have left the network, and nothing has been trained again.

How the :math:`\xi_k` are chosen decides the error:

==================  ==============================================  ==========================
``iid``             independent                                     variance of order 1/S
``jittered``        :math:`(k+u_k)/S`, an offset for each k         the talk's choice
``systematic``      :math:`(k+u)/S`, one offset for all k           counts within one of S p_i
``van-der-corput``  radical inverse in base 2, rotated              every prefix is a sample
==================  ==============================================  ==========================

:func:`sample_counts` counts for one weight tensor, :func:`quantize` for a whole network,
and :func:`variance` says beforehand what it costs.
:func:`integer_model` samples what layers take, too, and multiplies integers only;
:func:`save_quantized` and :func:`load_quantized` keep a network in as few bytes as its report says.

Source: slides "Simulating Discrete Densities" of A. Keller's talk.
"""

from mcnn import lazy_modules
from mcnn.density.counts import METHODS, ORDERS, cumulative_mass, dequantize, sample_counts
from mcnn.density.integers import integer_model, sampled
from mcnn.density.model import quantize
from mcnn.density.stored import load_quantized, save_quantized
from mcnn.density.theory import VARIANCES, variance
from mcnn.modelwise import LayerReport, Report

__all__ = [
    "METHODS",
    "ORDERS",
    "VARIANCES",
    "LayerReport",
    "Report",
    "cumulative_mass",
    "dequantize",
    "integer_model",
    "load_quantized",
    "quantize",
    "sample_counts",
    "sampled",
    "save_quantized",
    "variance",
]

__getattr__ = lazy_modules(__name__, __path__)
