r"""In what order weights line up, so that systematic samples carry their error to like inputs.

Systematic samples lie equally far apart, so what a weight gets too many its neighbours on the unit
interval get too few: over any run of them the error is less than one sample. It then cancels in
what the neuron computes, as far as the neighbours' :math:`\operatorname{sign}(w_j)\,a_j` are alike.
Two steps bring those together which are:

- inputs form a chain, each followed by the one that is most like it by the cosine of its values
  over the calibration inputs, of those that are left;
- each row lines up its weights from zero on along the chain, and the others on the way back.

Whatever the order, each weight is unbiased: it has no say in how often a weight is hit on average.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mcnn.density.calibrate import Call
from mcnn.density.sequential import products
from mcnn.modelwise import Layer


def chain(own: Tensor) -> Tensor:
    r"""Return inputs in an order in which neighbours are alike.

    Parameters
    ----------
    own
        Inner products :math:`\langle X_t,X_s\rangle` of the inputs, [n, n].

    Returns
    -------
    Tensor
        int64 [n]. It begins with the input of the largest norm.

    Examples
    --------
    >>> x = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 0.2]])  # [inputs, examples]
    >>> chain(x @ x.T)
    tensor([1, 2, 0])
    """
    size = own.diagonal().clamp(min=torch.finfo(own.dtype).tiny).sqrt()
    alike = own / size / size[:, None]
    place = int(size.argmax())
    order = [place]
    for _ in range(len(own) - 1):
        alike[:, place] = -torch.inf  # is in the chain
        place = int(alike[place].argmax())
        order.append(place)
    return torch.tensor(order, device=own.device)


def chains(
    model: nn.Module, layers: Sequence[Layer], calls: Sequence[Call], seed: int
) -> dict[str, Tensor]:
    """Return for each layer the order of the weights of each row, int64 [rows, inputs].

    Parameters
    ----------
    model, layers
        The full network, and layers of it: ``nn.Linear``, ``nn.Conv1d`` or ``nn.Conv2d``.
    calls
        From :func:`mcnn.density.calibrate.batches`.
    seed
        Of the places in images that are looked at.

    Raises
    ------
    ValueError
        As :func:`mcnn.density.sequential.products`.
    """
    found = {}
    for layer in layers:
        rows = layer.rows
        try:
            own = products(model, model, (layer, layer), calls, layer.seed(seed)).own
        except ValueError as error:
            raise ValueError(f"layer {layer.name!r}: {error}") from None
        size = own.shape[-1]
        blocks = -(-rows.shape[1] // size)  # of a long row: their chains follow each other
        starts = torch.arange(blocks, device=own.device).repeat(len(own) // blocks) * size
        lines = torch.stack([chain(x) + start for x, start in zip(own, starts, strict=True)])
        lines = lines.view(-1, blocks * size)  # [groups, inputs, some of which fill up]
        lines = lines[lines < rows.shape[1]].view(len(lines), -1)
        found[layer.name] = lines.repeat_interleave(len(rows) // len(lines), 0)
    return found
