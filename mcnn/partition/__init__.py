r"""Partition instead of dropout: the same units are dropped, but each of them in its turn.

Dropout tosses a coin for every unit in every step.
Some units are then dropped often and others hardly at all, and every toss costs a random number.
Instead, throw each unit once into one of :math:`P` parts,

.. math:: p=\lfloor\xi P\rfloor,\qquad 0\le\xi<1,

and let the parts take turns: in step :math:`t` the units of part :math:`t \bmod P` are dropped,
after :math:`P` steps the cycle is over and the units are thrown anew.
As with dropout at rate :math:`1/P`, the units that stay are scaled by :math:`P/(P-1)`.
What that buys is exact, not just expected:

- in a cycle each unit is dropped once and kept :math:`P-1` times, so none is forgotten;
- for fixed inputs and weights, the mean of a linear layer over a cycle is that of all units;
- a cycle of :math:`P` steps takes one random number a unit.

:class:`DropoutPartition` takes the place of :class:`torch.nn.Dropout`; where examples need masks of
their own, or sequences have changing lengths, :class:`HashedPartition` does.
:func:`part_labels` makes the parts for any other use.
:func:`replace_dropout` exchanges all dropout layers of a network, and :func:`cycle_outputs` asks it
once with each mask; :func:`variance_factor` says what a cycle does to the variance of a mean.
The talk draws :math:`\xi` from a linear feedback shift register, and so does
:mod:`mcnn.partition.lfsr`.

Source: slide "Partition instead of Dropout" of A. Keller's talk.
"""

from mcnn import lazy_modules
from mcnn.partition.hashed import HashedPartition, drop_part
from mcnn.partition.layer import DROPS, REDRAWS, DropoutPartition, start_epoch
from mcnn.partition.model import cycle_outputs, replace_dropout
from mcnn.partition.parts import MAX_PARTS, SOURCES, part_labels
from mcnn.partition.theory import first_order_share, variance_factor

__all__ = [
    "DROPS",
    "MAX_PARTS",
    "REDRAWS",
    "SOURCES",
    "DropoutPartition",
    "HashedPartition",
    "cycle_outputs",
    "drop_part",
    "first_order_share",
    "part_labels",
    "replace_dropout",
    "start_epoch",
    "variance_factor",
]

__getattr__ = lazy_modules(__name__, __path__)
