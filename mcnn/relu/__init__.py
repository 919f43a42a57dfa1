r"""Rectifiers all the way: what a network of ReLUs, sums and skip links already contains.

One function, :math:`\operatorname{ReLU}(x)=\max\{0,x\}`, makes others by addition:

.. math::
    \operatorname{leaky}(x)&=\operatorname{ReLU}(x)-\alpha\operatorname{ReLU}(-x)\\
    |x|&=\operatorname{ReLU}(x)+\operatorname{ReLU}(-x)\\
    \max\{x,y\}&=\tfrac12\bigl(x+y+\operatorname{ReLU}(x-y)+\operatorname{ReLU}(y-x)\bigr)

The maximum of many is a tree of maxima of two, so max pooling is no layer of its own: it is a few
layers of ReLUs with skip links (:class:`MaxPool2d`).

On paper these are identities.
In floating point the third one is not: a small operand beside a large one is rounded away before
the large one cancels.
:func:`maximum` offers the talk's form, and one that gives the larger operand bit for bit.

A residual layer with one neuron of unit weights :math:`\hat\omega` and offset :math:`b`,

.. math:: x-\hat\omega\operatorname{ReLU}(\hat\omega\cdot x-b),

moves a point on the wrong side of the plane :math:`\hat\omega\cdot x=b` onto it and leaves all
others where they are: the layer projects onto a half space (:func:`project_halfspace`).

Source: slides "Maximum pooling layers" and "Residual layers" of A. Keller's talk.
"""

from mcnn import lazy_modules
from mcnn.relu.halfspace import HalfspaceLayer, project_halfspace
from mcnn.relu.maxima import FORMS, absolute, leaky_relu, maximum
from mcnn.relu.pool import MaxPool2d, max_pool2d, replace_maxpool
from mcnn.relu.rounding import ulp, ulps

__all__ = [
    "FORMS",
    "HalfspaceLayer",
    "MaxPool2d",
    "absolute",
    "leaky_relu",
    "max_pool2d",
    "maximum",
    "project_halfspace",
    "replace_maxpool",
    "ulp",
    "ulps",
]

__getattr__ = lazy_modules(__name__, __path__)
