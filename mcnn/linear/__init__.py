r"""Networks linear in time and space: layers whose cost is the number of weights they sample.

A fully connected layer between :math:`n_{l-1}` and :math:`n_l` neurons has
:math:`n_{l-1}n_l` weights, so that a network of :math:`n` neurons in :math:`L` equal layers
has :math:`n_w\approx n^2/L`.
If every neuron keeps at most :math:`S` of its weights, then :math:`n_w\le S\,n`: the number of
weights, and with it time and memory, is linear in the number of neurons.

:class:`SampledLinear` executes such a layer, :func:`sample_linears` puts it into a trained
network, and :class:`mcnn.profiling.PeakBytes` counts the memory that a computation needs.

Source: slides "Neural Networks linear in Time and Space" of A. Keller's talk.
"""

from mcnn import lazy_modules
from mcnn.linear.layer import SampledLinear
from mcnn.linear.model import sample_linears

__all__ = ["SampledLinear", "sample_linears"]

__getattr__ = lazy_modules(__name__, __path__)
