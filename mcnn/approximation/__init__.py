r"""What a hidden layer can approximate, and at what cost: sums of ridge functions, pieces, trees.

A hidden layer of n units is a sum of n *ridge functions*, and a sum is a Monte Carlo estimate of an
integral.
So a function that is an integral over ridge functions needs a number of units that does not depend
on its dimension: the error of n independent units falls as :math:`n^{-1/2}`.
What is constant on cells has no such luck, its error falls as :math:`n^{-1/d}`.
And a function that is made of functions of two variables each, along a tree, wants a network whose
paths are those of that tree.

=============  =============================================================================
``ridges``     functions that are integrals over ridge functions: a bump, a trained layer
``sampled``    a hidden layer whose units are samples of such an integral
``pieces``     one constant for each cell: the nearest centre answers
``tree``       a network of paths in the shape of a tree, and the shallow one of its size
``fitted``     both built by least squares, without training
``targets``    functions along a tree, and the same turned, as a control
=============  =============================================================================

A sampled layer is unbiased, for its sample is taken behind the ReLU.
The next ReLU sees it as a noisy input, and :math:`\mathbb E\,f(X)\ne f(\mathbb E\,X)`.

Source: slides "Curse of Dimensionality" and "Theorem (informal statement)" of Y. Yao's talk On
Mathematical Theories of Deep Learning, and "Why should neural networks work?" of A. Zelener's talk.
"""

from mcnn import lazy_modules
from mcnn.approximation.pieces import Pieces
from mcnn.approximation.ridges import Bump, HiddenLayer
from mcnn.approximation.sampled import sampled_layer
from mcnn.approximation.tree import TreeNet

__all__ = ["Bump", "HiddenLayer", "Pieces", "TreeNet", "sampled_layer"]

__getattr__ = lazy_modules(__name__, __path__)
