"""The seed of a layer: given, or drawn from PyTorch's generator, as its own layers do."""

import torch

from mcnn.sampling import as_seed


def layer_seed(seed: int | torch.Generator | None) -> int:
    """Return a seed as an integer; without one, draw it from PyTorch's default generator.

    So two layers that are made alike differ, and ``torch.manual_seed`` governs them, as it governs
    ``torch.nn.Linear``; a layer with an integer does not touch that generator.

    Raises
    ------
    TypeError, ValueError
        Of :func:`mcnn.sampling.as_seed`.

    Examples
    --------
    >>> layer_seed(3), layer_seed(None) == layer_seed(None)
    (3, False)
    """
    if seed is None:
        return int(torch.randint(2**63 - 1, (), device="cpu"))
    return as_seed(seed)
