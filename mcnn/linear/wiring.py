r"""Which inputs a unit has, sampled before anything is known of the weights.

Without weights to go by the density is uniform.
The :math:`n` inputs are cut into :math:`k` strata of equal size, up to one, and a unit takes one
input of each: its :math:`k` inputs are distinct by construction.
Unit :math:`i` takes of stratum :math:`s` the input in proportion :math:`\xi_{i,s}\in[0,1)`:

============  ===================================  ======================================
``jittered``  :math:`\xi_{i,s}` independent        inputs from all over each stratum
``rotated``   :math:`(v_i+r_s)\bmod 1`             inputs next to those of unit :math:`i-1`
============  ===================================  ======================================

Of :math:`m` units, the i-th has the offset :math:`v_i=(i+u_i)/m`, with :math:`u_i` random, and each
stratum its own :math:`r_s`.
So rotated inputs need :math:`m+k` random numbers instead of :math:`m\,k`, are spread evenly, and
are read in order.
Neither holds a matrix of :math:`m\,n` entries.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from mcnn.sampling import hash_bits, uniforms

_BLOCK = 1 << 22  # connections worked on at once: bounds the memory


def sample_connections(
    in_features: int, out_features: int, fan_in: int, method: str, seed: int
) -> Tensor:
    """Choose distinct inputs for every unit.

    Parameters
    ----------
    in_features, out_features
        Number of inputs and of units.
    fan_in
        Inputs of each unit.
    method
        One of :data:`METHODS`.
    seed
        From :func:`mcnn.sampling.as_seed`.

    Returns
    -------
    Tensor
        int32, [out_features, fan_in], each row in increasing order.
    """
    edges = torch.arange(fan_in + 1) * in_features // fan_in  # [fan_in + 1]
    low, size = edges[:-1], edges.diff()
    inputs = torch.empty(out_features, fan_in, dtype=torch.int32)
    for units in torch.arange(out_features).split(max(1, _BLOCK // fan_in)):
        xi = METHODS[method](units, out_features, fan_in, seed)  # [units, fan_in]
        inputs[units[0] : units[-1] + 1] = low + (xi * size).long()
    return inputs


def signs(out_features: int, fan_in: int, seed: int) -> Tensor:
    """Return random signs: int8, [out_features, fan_in]."""
    drawn = torch.empty(out_features, fan_in, dtype=torch.int8)
    words = -(-fan_in // 64)  # of 64 bits, one for each sign
    for units in torch.arange(out_features).split(max(1, _BLOCK // (64 * words))):
        index = units[:, None] * words + torch.arange(words)
        bits = hash_bits(~seed, index)[:, :, None] >> torch.arange(64) & 1  # another stream
        drawn[units[0] : units[-1] + 1] = 1 - 2 * bits.flatten(1)[:, :fan_in]
    return drawn


def _jittered(units: Tensor, out_features: int, fan_in: int, seed: int) -> Tensor:
    return uniforms(seed, units[:, None] * fan_in + torch.arange(fan_in))


def _rotated(units: Tensor, out_features: int, fan_in: int, seed: int) -> Tensor:
    strata = uniforms(seed, torch.arange(fan_in))  # [fan_in]
    own = (units + uniforms(seed, fan_in + units)) / out_features  # [units]
    return (own[:, None] + strata) % 1


METHODS: dict[str, Callable[[Tensor, int, int, int], Tensor]] = {
    "jittered": _jittered,
    "rotated": _rotated,
}
