r"""Networks as linear systems: what a network does to one input is a matrix.

A unit that rectifies decides, and for one input all decisions are made.
Held as they are, a network of linear layers and gates is one affine map,

.. math:: f(x)=A(x)\,x+b(x),

and :math:`A` can be asked what any matrix can: its rows, its columns, its singular vectors
(:func:`linear`).
It is also a sum over paths, one term for each way through active units, so that backward random
walks estimate it without bias (:func:`walk`).

The decisions belong to :math:`x`.
A walk, or a sampled weight, has the right mean as long as they are held; if the samples decide
themselves which units are active, :math:`\mathbb{E}f(X)\ne f(\mathbb{E}X)`.

What a rectifier takes away from a narrow layer is a question of counting
(:func:`recovery_probability`), and what a unit wants to see is one of searching (:func:`maximise`).
:func:`gabor_fit` says how much an image is like a wave at one place.

Sources: "A Tour of Convolutional Networks Guided by Linear Interpreters" (P. Navarrete Michelini
and others), "MobileNetV2: Inverted Residuals and Linear Bottlenecks" (M. Sandler and others), and
"On mathematical theories of deep learning" (Y. Yao).
"""

from mcnn import lazy_modules
from mcnn.interpreter.gabor import GaborFit, band, gabor_fit, orientation, phase_shuffled
from mcnn.interpreter.maximise import MaximiseError, Maximiser, Prior, maximise
from mcnn.interpreter.recovery import count_recovered, recovered, recovery_probability
from mcnn.interpreter.system import LinearInterpreter, Svd, linear
from mcnn.interpreter.walks import active, variance, walk

__all__ = [
    "GaborFit",
    "LinearInterpreter",
    "MaximiseError",
    "Maximiser",
    "Prior",
    "Svd",
    "active",
    "band",
    "count_recovered",
    "gabor_fit",
    "linear",
    "maximise",
    "orientation",
    "phase_shuffled",
    "recovered",
    "recovery_probability",
    "variance",
    "walk",
]

__getattr__ = lazy_modules(__name__, __path__)
