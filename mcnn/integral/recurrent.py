r"""A recurrent layer is an integral equation, and its time steps are the terms of a series.

Let a layer also listen to itself, through a second kernel :math:`w^h`:

.. math:: a_l(y) = \int w_l(x,y)\max\{0,a_{l-1}(x)\}\,dx + \int w^h_l(x,y)\max\{0,a_l(x)\}\,dx .

The unknown is on both sides, as in a Fredholm equation of the second kind, only that the ReLU
makes it nonlinear.
A recurrent network computes it by repeating itself, each time step putting the last answer into
the right-hand side.
ReLU brings no two functions further apart, so if :math:`\max_y\int|w^h(x,y)|\,dx=q<1`, every step
shrinks the error by q: the network converges, from wherever it starts, to the one solution.
For a source and a kernel that are nowhere negative the ReLU never acts, and what the steps add up
is the Neumann series.

Source: slide "Learning Integral Operator Kernels" of A. Keller's talk.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from mcnn.integral.kernels import Kernel
from mcnn.integral.sampled import Sampled


class RecurrentLayer(Sampled):
    """The solution of a(y) = f(y) + ∫ w(x, y) max{0, a(x)} dx at n nodes.

    Parameters
    ----------
    kernel
        w, from one cube to itself.
    points, n, seed
        Nodes, see :func:`mcnn.integral.nodes`; the seed is by default from PyTorch's generator.
    steps
        How often the layer listens to itself.
    dtype, device
        Of the nodes; by default those of the parameters of the kernel, else PyTorch's.

    Examples
    --------
    A kernel of mass ½ everywhere doubles a constant.

    >>> class Half(Kernel):
    ...     def forward(self, x, y):
    ...         return torch.full((len(x), len(y)), 0.5)
    >>> RecurrentLayer(Half(1), n=8, steps=40)(torch.ones(1, 8)).unique().tolist()
    [2.0]
    """

    def __init__(
        self,
        kernel: Kernel,
        points: str = "jittered",
        n: int = 256,
        seed: int | torch.Generator | None = None,
        steps: int = 32,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        if steps < 0:
            raise ValueError(f"steps must not be negative, got {steps}")
        super().__init__(kernel, None, points, n, seed, dtype, device)
        self.steps = steps

    def forward(self, source: Tensor) -> Tensor:
        """Return a at the nodes: from f at the nodes, [b, n], to [b, n]."""
        if source.ndim != 2 or source.shape[1] != len(self.x):
            raise ValueError(
                f"source must be [b, {len(self.x)}], functions at the layer's nodes, "
                f"got {list(source.shape)}"
            )
        a = source
        for _ in range(self.steps):
            a = source + self.kernel.integrate(self.weights * F.relu(a), self.x, self.x)
        return a

    def gain(self) -> float:
        """Return q, by which a step shrinks the error at least: below 1 it converges."""
        w = self.kernel(self.x, self.x).detach()  # [n, n], from x to y
        return float((self.weights.unsqueeze(1) * w.abs()).sum(0).max())
