"""Where an integral is sampled, and what each sample counts.

Monte Carlo and quasi-Monte Carlo points all count the same.
A Gauss-Legendre rule, the classical competitor, places few points and weighs each of them; in d
dimensions it needs a full grid of them, which is why it does not go far there.

A rank-1 lattice is as good as the projections that its generating vector was searched for.
The one of :mod:`mcnn.sampling` looks at all pairs of dimensions and at nothing more.
An integrand that is a product over all dimensions asks for more, so there is a second one here,
``lattice-equal``, whose search gave the same weight to every set of dimensions [1]_.

References
----------
.. [1] F. J. Hickernell, P. Kritzer, F. Y. Kuo, D. Nuyens: Weighted compound integration rules with
   higher order convergence for all N. Numerical Algorithms, 2012. Up to 2**20 points and ten
   dimensions.
"""

import numpy as np
import torch
from torch import Tensor, nn

from mcnn.checks import as_count
from mcnn.errors import unknown
from mcnn.sampling import METHODS, as_seed, points, uniforms

RULES = (*METHODS, "lattice-equal", "gauss")

_EQUAL = (1, 364981, 245389, 97823, 488939, 62609, 400749, 385317, 21281, 223487)


def place(
    *functions: nn.Module | None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> tuple[torch.device, torch.dtype]:
    """Return where the nodes of a layer belong: to the parameters of its functions.

    Parameters
    ----------
    functions
        Such as a kernel; without parameters, they take PyTorch's defaults.
    device, dtype
        What is asked for instead.

    Raises
    ------
    ValueError
        If that is another than the parameters have.
    """
    own = [p for f in functions if f is not None for p in f.parameters() if p.is_floating_point()]
    wanted = torch.get_default_device() if device is None else torch.device(device)
    if own and device is None:
        wanted = own[0].device
    kind = dtype or (own[0].dtype if own else torch.get_default_dtype())
    for p in own:
        if p.dtype != kind or p.device.type != wanted.type:
            raise ValueError(
                f"the parameters of the layer's functions are {p.dtype} on {p.device.type}, its "
                f"nodes {kind} on {wanted.type}: convert the kernel and the bias first, or make "
                "the layer as they are and convert it with .to()"
            )
    return wanted, kind


def nodes(
    n: int,
    d: int,
    method: str = "jittered",
    seed: int | torch.Generator = 0,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor]:
    """Return the points and weights of a rule for integrals over the unit cube.

    Parameters
    ----------
    n
        Number of points; ``jittered`` and ``gauss`` need an exact d-th power.
    d
        Dimension.
    method
        One of :data:`RULES`: a point set of :func:`mcnn.sampling.points`, ``"lattice-equal"``, or
        ``"gauss"``, the tensor product of Gauss-Legendre rules.
    seed
        Randomises the points; ``"gauss"`` and ``"sobol-plain"`` do not use it.
    device, dtype
        Of the results.

    Returns
    -------
    points : Tensor
        [n, d] in [0, 1).
    weights : Tensor
        [n], positive, with sum one.

    Raises
    ------
    ValueError
        For an unknown method, or a number of points that the method does not have.

    Examples
    --------
    >>> x, w = nodes(2, 1, "gauss", dtype=torch.float64)
    >>> round(float((w * x[:, 0] ** 3).sum()), 12)  # exact up to degree 3
    0.25
    """
    if method not in RULES:
        raise unknown("method", method, RULES)
    n, d = as_count("n", n), as_count("d", d)
    if method == "gauss":
        x, weights = _gauss(n, d)
        return x.to(device, dtype), weights.to(device, dtype)
    if method == "lattice-equal":
        below_one = 1 - torch.finfo(dtype).eps / 2  # rounding must not reach 1
        x = _lattice_equal(n, d, as_seed(seed)).to(dtype).clamp_(max=below_one).to(device)
    else:
        x = points(n, d, method, seed, device, dtype)
    return x, torch.full((n,), 1 / n, device=device, dtype=dtype)


def _lattice_equal(n: int, d: int, seed: int) -> Tensor:
    if d > len(_EQUAL):
        raise ValueError(f"this lattice has {len(_EQUAL)} dimensions, got d = {d}")
    i, z = torch.arange(n).unsqueeze(1), torch.tensor(_EQUAL[:d])
    return ((i * z % n).double() / n + uniforms(seed, torch.arange(d))) % 1


def _gauss(n: int, d: int) -> tuple[Tensor, Tensor]:
    side = round(n ** (1 / d))
    if side**d != n:
        raise ValueError(
            f"a Gauss rule fills a grid: n must be a power m**{d}, got {n}; "
            f"nearest: {side**d} or {(side + 1) ** d}"
        )
    x, w = np.polynomial.legendre.leggauss(side)  # on [-1, 1], weights with sum 2
    x, w = torch.from_numpy((x + 1) / 2), torch.from_numpy(w / 2)
    grid = torch.stack(torch.meshgrid(*[x] * d, indexing="ij"), -1).view(n, d)
    weights = torch.stack(torch.meshgrid(*[w] * d, indexing="ij"), -1).view(n, d).prod(-1)
    return grid, weights
