r"""Max pooling as a tree of pairwise maxima, each of them a few ReLUs with skip links.

Two decisions make it a drop-in for :class:`torch.nn.MaxPool2d`.

**One axis after the other.**
The maximum over a rectangle is the maximum over its rows of the maxima along them: a 3x3 window
takes 2 + 2 pairwise maxima instead of 8.

**No padding with minus infinity.**
A form that computes :math:`x-y` would make NaN of it.
A maximum does not mind to see an operand twice, so a tap that falls outside the image is moved to
the nearest tap of the same window that does not.

On the CPU a loop in C does the same sums of ReLUs, see :mod:`mcnn.relu.native`, for the exact form
in float32 and contiguous images, without dilation; else, and for further derivatives,
``torch.func`` and compilers, it is PyTorch's operators.
"""

import operator
from collections.abc import Callable
from typing import Any, NamedTuple, SupportsIndex

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils._python_dispatch import _get_current_dispatch_mode

from mcnn.modelwise import deepcopied, exchanged
from mcnn.relu import native
from mcnn.relu.check import check_floating, check_form
from mcnn.relu.maxima import FORMS, exact_finite, join_ends, skip, split_ends

Pair = int | tuple[int, int]
LONG = 32  # taps from which a level of the tree is one tensor, not one for each pair
SMALLEST = 1 << 14  # numbers: fewer are pooled before a compiler has started


def max_pool2d(
    x: Tensor,
    kernel_size: Pair,
    stride: Pair | None = None,
    padding: Pair = 0,
    dilation: Pair = 1,
    ceil_mode: bool = False,
    form: str = "exact",
) -> Tensor:
    """Return the maxima of sliding windows, by ReLUs, sums and skip links.

    Parameters
    ----------
    x
        [channels, height, width] or [batch, channels, height, width], floating point.
    kernel_size, stride, padding, dilation
        One number for both axes, or (vertical, horizontal); the stride is by default the kernel
        size, the padding at most half of it.
    ceil_mode
        Whether windows that stick out at the far end count, if they start inside.
    form
        Of a pairwise maximum: a key of :data:`mcnn.relu.FORMS`.

    Returns
    -------
    Tensor
        As :func:`torch.nn.functional.max_pool2d` returns it: shape, type, memory format, and with
        ``"exact"`` the values, infinities and NaN included.

    Raises
    ------
    TypeError
        If ``x`` is not floating point.
    ValueError
        For a shape of other than 3 or 4 axes, a window that does not fit, sizes that are not
        positive, more padding than half the kernel size, or an unknown form.

    Notes
    -----
    Every level of the tree may cost ``"symmetric"`` and ``"skip"`` 2 ulp of the operand of larger
    magnitude; a window of k x l has ceil(log2 k) + ceil(log2 l) levels.
    Where a window has several largest values, the whole gradient goes to the first of them, as in
    PyTorch; ``"symmetric"`` divides it.
    Source: slide "Maximum pooling layers".

    Examples
    --------
    >>> max_pool2d(torch.arange(16.0).view(1, 4, 4), 2)
    tensor([[[ 5.,  7.],
             [13., 15.]]])
    """
    check_floating(x=x)
    check_form(form, FORMS)
    if x.dim() not in (3, 4):
        raise ValueError(f"x must have 3 or 4 axes, got shape {tuple(x.shape)}")
    if 0 in x.shape[-3:]:
        raise ValueError(f"x must not be empty but for the batch, got shape {tuple(x.shape)}")
    sizes = [
        _pair(kernel_size, "kernel_size", 1),
        _pair(kernel_size if stride is None else stride, "stride", 1),
        _pair(padding, "padding", 0),
        _pair(dilation, "dilation", 1),
    ]
    height, width = (
        _windows(size, *axis, ceil_mode)
        for size, axis in zip(x.shape[-2:], zip(*sizes, strict=True), strict=True)
    )
    if form == "exact" and _suits_loop(x, height, width):
        return _PoolInC.apply(x, height, width)
    return _pool(x, height, width, form)


def _pool(x: Tensor, height: "_Windows", width: "_Windows", form: str = "exact") -> Tensor:
    """Pool by PyTorch's operators."""

    def pool(x: Tensor, larger: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        return _reduce(_reduce(x, -1, width, larger), -2, height, larger)

    if form == "exact":
        finite, ends = split_ends(x)
        pooled = join_ends(pool(finite, exact_finite), pool(ends, skip))
    else:
        pooled = pool(x, FORMS[form])
    pooled = _blank(_blank(pooled, -1, width), -2, height)
    return pooled.contiguous(memory_format=_format(x))


def _suits_loop(x: Tensor, *axes: "_Windows") -> bool:
    """Return whether the loop in C computes it, and nobody wants to see operators."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    plain = type(x) in (Tensor, nn.Parameter) and x.device.type == "cpu" and not x.is_neg()
    watched = (
        torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
        or _get_current_dispatch_mode() is not None
    )
    return (
        plain
        and not watched
        and x.dtype == torch.float32
        and x.is_contiguous()
        and x.numel() >= SMALLEST
        and all(axis.dilation == 1 and axis.kernel <= native.TAPS for axis in axes)
        and native.available()
    )


class _PoolInC(torch.autograd.Function):
    """The exact form by the loop in C; derivatives of derivatives by operators."""

    @staticmethod
    def forward(x: Tensor, height: "_Windows", width: "_Windows") -> Tensor:
        return native.pool(x, height, width)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, ctx.height, ctx.width = inputs
        ctx.save_for_backward(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        seen = torch.is_grad_enabled() or torch._C._are_functorch_transforms_active()
        if not seen and type(gradient) is Tensor and _get_current_dispatch_mode() is None:
            return native.pool_back(x, gradient, ctx.height, ctx.width), None, None
        with torch.enable_grad():
            leaf = x.view_as(x)  # in the graph of x
            y = _pool(leaf, ctx.height, ctx.width)
        (found,) = torch.autograd.grad(y, leaf, gradient, create_graph=torch.is_grad_enabled())
        return found, None, None


def _format(x: Tensor) -> torch.memory_format:
    last = x.dim() == 4 and not x.is_contiguous()
    if last and x.is_contiguous(memory_format=torch.channels_last):
        return torch.channels_last
    return torch.contiguous_format


def _pair(value: Pair, name: str, least: int) -> tuple[int, int]:
    pair = tuple(value) if isinstance(value, tuple | list) else (value, value)
    pair *= 2 if len(pair) == 1 else 1
    whole = all(isinstance(v, SupportsIndex) and not isinstance(v, bool) for v in pair)
    if len(pair) != 2 or not whole or min(pair) < least:
        raise ValueError(f"{name} must be one or two integers, {least} or larger, got {value}")
    return operator.index(pair[0]), operator.index(pair[1])


class _Windows(NamedTuple):
    """The windows along an axis: window o has the places o stride - padding + j dilation.

    A tap j whose place falls outside is moved to the nearest inside.
    """

    size: int
    kernel: int
    stride: int
    padding: int
    dilation: int
    outputs: int

    def starts(self, device: torch.device) -> Tensor:
        """Return the places of the first taps, int64 [outputs]."""
        return torch.arange(self.outputs, device=device) * self.stride - self.padding

    def places(self, taps: Tensor) -> Tensor:
        """Return where taps fall, int64 [outputs, taps]; 0 if the window lies outside."""
        starts = self.starts(taps.device)[:, None]  # [outputs, 1]
        first = (-starts).clamp(min=0).add(self.dilation - 1) // self.dilation
        last = (self.size - 1 - starts) // self.dilation
        inside = taps.clamp(min=first).clamp(max=last)  # [outputs, taps]
        return (starts + inside * self.dilation).clamp(0, self.size - 1)

    def fits(self, tap: int) -> bool:
        """Return whether a tap falls inside for all outputs."""
        first = tap * self.dilation - self.padding
        return first >= 0 and first + (self.outputs - 1) * self.stride < self.size

    def misses(self) -> bool:
        """Return whether a window lies outside with all its taps; only dilation makes such.

        It starts before the image, and its first tap beyond the edge is beyond the other, too.
        """
        if self.dilation <= self.size:
            return False
        starts = range(
            -self.padding, min(0, self.outputs * self.stride - self.padding), self.stride
        )
        return any(start % self.dilation >= self.size for start in starts)


def _windows(
    size: int, kernel: int, stride: int, padding: int, dilation: int, ceil_mode: bool
) -> _Windows:
    reach = dilation * (kernel - 1)
    if padding > kernel // 2:
        raise ValueError(
            f"padding must be at most half of the kernel size, {kernel // 2}, got {padding}"
        )
    room = size + 2 * padding - reach - 1
    outputs = room // stride + 1
    if ceil_mode:
        outputs = -(-room // stride) + 1
        if (outputs - 1) * stride >= size + padding:  # the last window must start inside
            outputs -= 1
    if outputs < 1:
        raise ValueError(
            f"a window that reaches over {reach + 1} does not fit into {size} with padding "
            f"{padding} on both sides; take a smaller kernel_size or dilation"
        )
    return _Windows(size, kernel, stride, padding, dilation, outputs)


def _reduce(
    x: Tensor, axis: int, windows: _Windows, larger: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """Take the maximum over the taps, in a tree that keeps their order."""
    if windows.kernel > LONG:
        return _reduce_long(_taps(x, axis, windows), larger)
    row = [_view(x, axis, windows, tap) for tap in range(windows.kernel)]
    while len(row) > 1:
        odd = row[len(row) // 2 * 2 :]
        row = [larger(a, b) for a, b in zip(row[::2], row[1::2], strict=False)] + odd
    return row[0]


def _reduce_long(row: Tensor, larger: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Go through the same tree a level at a time: from [..., taps] to [...]."""
    while (n := row.shape[-1]) > 1:
        pairs = larger(row[..., : n // 2 * 2 : 2], row[..., 1::2])
        row = torch.cat([pairs, row[..., n // 2 * 2 :]], -1) if n % 2 else pairs
    return row[..., 0]


def _taps(x: Tensor, axis: int, windows: _Windows) -> Tensor:
    """Return the operands at all taps, [..., taps]: a view where no tap had to be moved."""
    if windows.fits(0) and windows.fits(windows.kernel - 1):
        reach = windows.dilation * (windows.kernel - 1) + 1
        return x.unfold(axis, reach, windows.stride)[..., :: windows.dilation]
    places = windows.places(torch.arange(windows.kernel, device=x.device))  # [outputs, taps]
    moved = x.index_select(axis, places.flatten())
    return moved.unflatten(axis, places.shape).movedim(axis, -1)


def _view(x: Tensor, axis: int, windows: _Windows, tap: int) -> Tensor:
    """Return the operands at one tap: a strided view where no tap had to be moved."""
    if windows.fits(tap):
        start = tap * windows.dilation - windows.padding
        index = [slice(None)] * x.dim()
        stop = start + (windows.outputs - 1) * windows.stride + 1
        index[axis] = slice(start, stop, windows.stride)
        return x[tuple(index)]
    places = windows.places(torch.tensor([tap], device=x.device)).flatten()  # [outputs]
    moved = x.index_select(axis, places)
    channels_last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
    return moved.contiguous(memory_format=torch.channels_last) if channels_last else moved


def _blank(x: Tensor, axis: int, windows: _Windows) -> Tensor:
    """Put minus infinity where a window lies outside the image with all its taps."""
    if not windows.misses():
        return x
    starts = windows.starts(x.device)
    outside = (starts < 0) & (starts % windows.dilation >= windows.size)  # [outputs]
    return x.masked_fill(outside.unsqueeze(1) if axis == -2 else outside, -torch.inf)


class MaxPool2d(nn.MaxPool2d):
    """Max pooling by ReLUs, sums and skip links, in place of :class:`torch.nn.MaxPool2d`.

    Parameters
    ----------
    kernel_size, stride, padding, dilation, ceil_mode
        As in :func:`max_pool2d`.
    return_indices
        Must be false: sums know values, not places.
    form
        Of a pairwise maximum: a key of :data:`mcnn.relu.FORMS`.

    Raises
    ------
    ValueError
        If ``return_indices`` is true, or the form is unknown.

    Notes
    -----
    Source: slide "Maximum pooling layers".

    Examples
    --------
    >>> MaxPool2d(3, stride=2, padding=1)(torch.ones(1, 8, 5, 5)).shape
    torch.Size([1, 8, 3, 3])
    """

    def __init__(
        self,
        kernel_size: Pair,
        stride: Pair | None = None,
        padding: Pair = 0,
        dilation: Pair = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
        form: str = "exact",
    ) -> None:
        if return_indices:
            raise ValueError(
                "return_indices is not supported: sums of ReLUs give the values of maxima, not "
                "their places; keep nn.MaxPool2d where its indices are used"
            )
        super().__init__(kernel_size, stride, padding, dilation, return_indices, ceil_mode)
        self.form = check_form(form, FORMS)

    def forward(self, input: Tensor) -> Tensor:
        """Pool [channels, height, width] or [batch, channels, height, width]."""
        return max_pool2d(
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            self.ceil_mode,
            self.form,
        )

    def extra_repr(self) -> str:
        """Return the arguments as they are printed."""
        return f"{super().extra_repr()}, form={self.form!r}"


def replace_maxpool(model: nn.Module, form: str = "exact") -> nn.Module:
    """Return a copy of a model in which ReLUs do the max pooling.

    Parameters
    ----------
    model
        Any module with ``nn.MaxPool2d`` inside, or one itself; not changed.
    form
        Of a pairwise maximum: a key of :data:`mcnn.relu.FORMS`.

    Raises
    ------
    ValueError
        If there is no ``nn.MaxPool2d`` (calls of ``F.max_pool2d`` are not seen), one returns
        indices, or the form is unknown.

    Examples
    --------
    >>> replace_maxpool(nn.Sequential(nn.Conv2d(3, 8, 3), nn.MaxPool2d(2)))[1]
    MaxPool2d(kernel_size=2, stride=2, padding=0, dilation=1, ceil_mode=False, form='exact')
    """
    model = deepcopied(model)
    found = False

    def new(name: str, old: nn.Module) -> nn.Module | None:
        nonlocal found
        if not isinstance(old, nn.MaxPool2d):
            return None
        found = True
        sizes = (old.kernel_size, old.stride, old.padding, old.dilation)
        try:
            pool = MaxPool2d(*sizes, old.return_indices, old.ceil_mode, form)
        except ValueError as error:
            raise ValueError(f"layer {name!r}: {error}") from None
        return pool.train(old.training)

    model = exchanged(model, new)
    if not found:
        raise ValueError(
            "the model has no nn.MaxPool2d to replace; where it calls F.max_pool2d, "
            "call mcnn.relu.max_pool2d instead"
        )
    return model
