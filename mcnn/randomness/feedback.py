r"""Direct feedback alignment: errors come back through fixed random matrices.

Backpropagation sends the error e of the output back through the transposed weights, layer by layer.
Direct feedback alignment [1]_ sends it to every hidden layer at once, through a matrix
:math:`B_l` that is drawn before training, normal with variance :math:`1/n_l`, and never learned:

.. math:: \delta_l=(e\,B_l)\odot[a_l>0]

That this learns at all is a surprise.
It does because the forward weights turn until the direction that comes back is of use: the angle
between :math:`\delta_l` and what backpropagation would have sent falls below 90 degrees, and then
a step downhill for one is a step downhill for the other [2]_.

No backward pass has to be written.
Each hidden layer is cut off from the next (``detach``), and the output gets the summand
:math:`a_l B_l^T-\mathrm{detach}(a_l B_l^T)`, which is zero and has the gradient :math:`e\,B_l`.

References
----------
.. [1] A. Nøkland: Direct feedback alignment provides learning in deep neural networks. NIPS 2016.
.. [2] T. P. Lillicrap, D. Cownden, D. B. Tweed, C. J. Akerman: Random synaptic feedback weights
   support error backpropagation for deep learning. Nature Communications, 2016.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from mcnn.randomness.source import normals, substream
from mcnn.seeds import layer_seed


class FeedbackMLP(nn.Module):
    """A fully connected network with ReLUs that learns by direct feedback alignment.

    Parameters
    ----------
    widths
        Inputs, one or more hidden layers, outputs.
    source
        Of the feedback matrices, one of :data:`mcnn.randomness.SOURCES`: each hidden unit is a
        point, each output a coordinate.
    seed
        Of the feedback matrices: an integer, or a generator, which is advanced by one draw; by
        default from PyTorch's own.
        The weights are initialised as PyTorch does it.
    direct
        False: backpropagation, through the same network.

    Raises
    ------
    ValueError
        For fewer than three widths, or an unknown source.
    """

    def __init__(
        self,
        widths: Sequence[int],
        source: str = "random",
        seed: int | torch.Generator | None = None,
        direct: bool = True,
    ) -> None:
        super().__init__()
        if len(widths) < 3:
            raise ValueError(f"widths must name a hidden layer, got {tuple(widths)}")
        self.direct = direct
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(widths))
        seed, outputs = layer_seed(seed), widths[-1]
        for number, n in enumerate(widths[1:-1]):
            with torch.device("cpu"):
                b = normals(n, outputs, source, substream(seed, number)) / n**0.5
            like = self.layers[0].weight
            self.register_buffer(f"feedback{number}", b.to(like.device, like.dtype))

    def forward(self, x: Tensor) -> Tensor:
        """Map images [b, ...] to logits [b, outputs]."""
        return self.activations(x)[-1]

    def activations(self, x: Tensor) -> list[Tensor]:
        """Return what every layer puts out, [b, width] each; the last are the logits."""
        x = x.flatten(1)
        outputs, summands = [], []
        for number, layer in enumerate(self.layers[:-1]):
            x = layer(x).relu()
            outputs.append(x)
            if self.direct:
                back = x @ getattr(self, f"feedback{number}")  # [b, outputs]
                summands.append(back - back.detach())
                x = x.detach()
        x = self.layers[-1](x)
        return [*outputs, sum(summands, x)]


def alignment_angles(model: FeedbackMLP, x: Tensor, y: Tensor, of: str = "errors") -> list[float]:
    r"""Return the angle between direct feedback and backpropagation at every hidden layer.

    Parameters
    ----------
    model
        Its weights are not changed.
    x, y
        Inputs [b, ...] and classes, int64 [b], of a cross entropy.
    of
        ``"errors"``: of :math:`\delta_l`, the mean over the examples of their angles;
        ``"gradients"``: of the gradients by the weights, of all examples together.

    Returns
    -------
    list of float
        Degrees, 0 ... 180; 90 where one of the two is zero.

    Raises
    ------
    ValueError
        If ``of`` is neither.
    """
    if of not in ("errors", "gradients"):
        raise ValueError(f"of must be 'errors' or 'gradients', got {of!r}")
    directions = []
    before = model.direct
    try:
        for model.direct in (True, False):
            *hidden, logits = model.activations(x)
            loss = nn.functional.cross_entropy(logits, y, reduction="sum")
            if of == "errors":
                grads = torch.autograd.grad(loss, hidden)
                # A unit that is off passes nothing on to its weights.
                grads = [g * (a > 0) for g, a in zip(grads, hidden, strict=True)]  # [b, n_l]
            else:
                weights = [layer.weight for layer in model.layers[:-1]]
                grads = [g.view(1, -1) for g in torch.autograd.grad(loss, weights)]
            directions.append(grads)
    finally:
        model.direct = before
    angles = []
    for direct, back in zip(*directions, strict=True):
        cosine = nn.functional.cosine_similarity(direct, back, dim=1)
        angles.append(float(cosine.clamp(-1, 1).acos().rad2deg().mean()))
    return angles
