r"""A network as a linear system at one input: forwards, backwards, by its singular vectors.

With every decision of the units held as it is at :math:`x`, a network of linear layers and gates is
an affine map, and at :math:`x` it gives the network's own answer:

.. math:: f(x)=A(x)\,x+b(x).

For ReLUs :math:`A(x)` is the derivative; where a gate bends, as in ``Hardswish``, it is not.
:math:`A` is never stored: a product with it is a forward derivative of the held network, a product
with its transpose a backward one, and :math:`b` is the answer of the held network to nothing.

Source: "A Tour of Convolutional Networks Guided by Linear Interpreters" [1]_.

References
----------
.. [1] P. Navarrete Michelini, H. Liu, Y. Lu, X. Jiang: A tour of convolutional networks guided by
   linear interpreters. ICCV 2019, arXiv:1908.05168.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mcnn.errors import UsageError
from mcnn.interpreter.frozen import Frozen

_DENSE = 2**24  # entries of a matrix that is still worth writing down


class Svd(NamedTuple):
    """Singular vectors in the shapes of outputs and inputs, the largest value first.

    Attributes
    ----------
    left
        [k, ...], then the shape of an output.
    values
        [k].
    right
        [k, ...], then the shape of an input.
    """

    left: Tensor
    values: Tensor
    right: Tensor


class LinearInterpreter:
    """A network as the linear system that it is at one input; made by :func:`linear`.

    Parameters
    ----------
    model
        See :func:`linear`.
    x
        The input, in the shape that the model takes.

    Attributes
    ----------
    x, output
        The input, and the network's answer.
    """

    def __init__(self, model: nn.Module, x: Tensor) -> None:
        self.x = x.detach()
        with _kept(model):
            self._held = Frozen(model, self.x)
        self.output = self._held.output

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of A: the numbers of outputs and inputs."""
        return self.output.numel(), self.x.numel()

    @property
    def is_derivative(self) -> bool:
        """Whether A is the derivative of the network: no gate was held where it bends."""
        return not self._held.smooth

    @torch.no_grad()
    def __call__(self, v: Tensor) -> Tensor:
        """Return A v + b: the answer to another input if all decisions stay as they are.

        Parameters
        ----------
        v
            In the shape of the input, or flat.
        """
        return self._held(self._like(v, self.x, "v"))

    @cached_property
    def bias(self) -> Tensor:
        """The part b of the answer that no input brings, in the shape of the output."""
        return self(torch.zeros_like(self.x))

    def matvec(self, v: Tensor) -> Tensor:
        """Return A v, in the shape of the output.

        Parameters
        ----------
        v
            In the shape of the input, or flat.

        Raises
        ------
        UsageError
            If it has another size.
        """
        v = self._like(v, self.x, "v")
        with torch.no_grad():
            return torch.func.jvp(self._held, (torch.zeros_like(v),), (v,))[1].detach()

    def rmatvec(self, u: Tensor) -> Tensor:
        """Return the transpose of A times u, in the shape of the input.

        Parameters
        ----------
        u
            In the shape of the output, or flat.

        Raises
        ------
        UsageError
            If it has another size.
        """
        return self._back(self._like(u, self.output, "u"))[0].detach()

    @cached_property
    def _back(self) -> Callable[[Tensor], tuple[Tensor, ...]]:
        with torch.no_grad():
            _, back = torch.func.vjp(self._held, torch.zeros_like(self.x))
        return back

    def matrix(self, rows: int = 64) -> Tensor:
        """Return A itself, [outputs, inputs].

        Parameters
        ----------
        rows
            How many to find at a time.

        Raises
        ------
        UsageError
            If it has more than 2**24 entries, or no row is to be found.
        """
        if rows < 1:
            raise UsageError(f"rows must be at least 1, got {rows}")
        m, n = self.shape
        if m * n > _DENSE:
            raise UsageError(f"a matrix of {m} x {n} is too large to write down: use matvec or svd")
        units = torch.eye(m, dtype=self.output.dtype, device=self.output.device)
        back = torch.func.vmap(lambda u: self._back(u.view(self.output.shape))[0].flatten())
        return torch.cat([back(part) for part in units.split(rows)]).detach()

    def svd(self, k: int = 6, seed: int = 0) -> Svd:
        """Return the k largest singular values of A, and their vectors.

        A small matrix is written down, of a large one products are enough (Lanczos's method).

        Parameters
        ----------
        k
            At least one, and fewer than rows and columns.
        seed
            Of the vector that Lanczos's method begins with.

        Raises
        ------
        UsageError
            For a k that is out of range.
        """
        least = min(self.shape)
        if not 1 <= k <= least:
            raise UsageError(f"k must be 1 ... {least}, got {k}")
        m, n = self.shape
        if m * n <= _DENSE or k >= least - 1:
            left, values, right = torch.linalg.svd(self.matrix(), full_matrices=False)
        else:
            left, values, right = self._lanczos(k, seed)
        return Svd(
            left.T[:k].reshape(k, *self.output.shape),
            values[:k],
            right[:k].reshape(k, *self.x.shape),
        )

    def _lanczos(self, k: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
        import numpy as np
        from scipy.sparse.linalg import ArpackError, LinearOperator, svds

        def product(times: Callable[[Tensor], Tensor]) -> object:
            return lambda v: times(torch.as_tensor(v).to(self.x)).flatten().double().cpu().numpy()

        a = LinearOperator(
            self.shape, product(self.matvec), product(self.rmatvec), dtype=np.float64
        )
        start = np.random.default_rng(seed).standard_normal(min(self.shape))
        try:
            found = svds(a, k=k, v0=start)
        except ArpackError as error:
            raise UsageError(
                f"Lanczos's method found no singular vectors ({error}): at this input A may be zero"
            ) from error
        left, values, right = (torch.as_tensor(part.copy()).to(self.x) for part in found)
        order = values.argsort(descending=True)
        return left[:, order], values[order], right[order]

    @staticmethod
    def _like(v: Tensor, other: Tensor, name: str) -> Tensor:
        if v.numel() != other.numel():
            raise UsageError(
                f"{name} must have {other.numel()} numbers, as {tuple(other.shape)}: "
                f"got {tuple(v.shape)}"
            )
        return v.to(other).reshape(other.shape)

    def __repr__(self) -> str:
        m, n = self.shape
        return f"LinearInterpreter({m} outputs, {n} inputs)"


@contextmanager
def _kept(model: nn.Module) -> Iterator[None]:
    """Leave the statistics of a model in training mode as they are: it will be refused."""
    learning = [m for m in model.modules() if m.training and hasattr(m, "running_mean")]
    before = [(b, b.clone()) for m in learning for b in m.buffers(recurse=False)]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in before:
                buffer.copy_(value)


def linear(model: nn.Module, x: Tensor) -> LinearInterpreter:
    r"""Return the linear system :math:`f(x)=A(x)x+b(x)` that a network is at one input.

    Parameters
    ----------
    model
        Any module in evaluation mode whose operations are linear, products with one factor that
        depends on the input, gates (ReLU, leaky and parametric ones, ReLU6, clamps, absolute
        values; ``Hardswish``, ``SiLU`` and ``GELU`` as their argument times a gate), maximum
        pooling, or normalisation, in any arrangement, residual ones included.
        Normalisation by statistics of the input itself keeps the mean linear and holds the
        deviation.
    x
        An input in the shape that the model takes, most often a batch of one; of a larger batch A
        has a block for each input.
        For identities to twelve digits make model and input ``double()``.

    Returns
    -------
    LinearInterpreter
        With ``matvec``, ``rmatvec``, ``bias``, ``svd``, ``matrix`` and, called, A v + b.
        It keeps the values of this one pass, and uses the model's parameters as they are.

    Raises
    ------
    UsageError
        If an operation cannot be held linear: softmax attention, a sigmoid, squeeze and excitation,
        batch normalisation in training mode; the message names operation and module.
        If the model decides by values which way to go, or the input is not floating point.

    Notes
    -----
    Source: "A Tour of Convolutional Networks Guided by Linear Interpreters".

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2)).double()
    >>> x = torch.ones(1, 8, dtype=torch.float64)
    >>> system = linear(model, x)
    >>> bool(torch.allclose(system.matvec(x) + system.bias, model(x)))
    True
    >>> linear(nn.Sequential(nn.Linear(8, 8), nn.Sigmoid()).double(), x)
    Traceback (most recent call last):
        ...
    mcnn.errors.UsageError: sigmoid in layer '1' cannot be held linear: it bends everywhere
    """
    if not isinstance(x, Tensor):
        raise UsageError(f"x must be a tensor, got {type(x).__name__}")
    if not x.is_floating_point():
        raise UsageError(f"x must be floating point, got {x.dtype}")
    return LinearInterpreter(model, x)
