r"""Leaky ReLU, absolute value and maximum as sums of ReLUs.

The forms of the maximum, and what floating point makes of them:

=============  =====================================================  ===========================
``symmetric``  the talk's :math:`\frac12(x+y+[x-y]+[y-x])`            within 2 ulp of the operand of
                                                                      larger magnitude; infinite or
                                                                      NaN beyond half the largest
                                                                      number
``skip``       :math:`x+[y-x]`, one ReLU and a skip link              within 2 ulp of the operand of
                                                                      larger magnitude; exact where
                                                                      :math:`x\ge y`
``exact``      ``skip``, then what rounding took is put back          the larger operand, always
=============  =====================================================  ===========================

with :math:`[z]=\operatorname{ReLU}(z)`.

Why ``exact`` is exact.
Let :math:`u=[y-x]` and :math:`m=x+u`, both rounded.
If :math:`x\ge y` then :math:`u=0` and :math:`m=x`.
Otherwise :math:`m` is :math:`y` up to rounding, and the error :math:`y-m` is a floating point
number:

* If :math:`|y|\le|x|/3`, then :math:`u` is near :math:`-x`, so :math:`x+u` is exact by Sterbenz's
  lemma [1]_, and the error is that of one subtraction, :math:`y-x`. The error of a sum or
  difference is a floating point number [2]_.
* Else :math:`m` is within a factor of two of :math:`y`, and :math:`y-m` is exact by that lemma.

So :math:`m+[y-m]-[m-y]` is :math:`y` without error.
The last term must not act where :math:`x\ge y`, for there :math:`m-y` is no error.
It is gated: :math:`a-[a-u]` is 0 if :math:`u=0`, and :math:`a` if :math:`a\le u`, which the error
:math:`a` never exceeds.

Where :math:`y-x` overflows, it is clipped to the largest number, :math:`m` falls short of
:math:`y`, and :math:`m+[y-m]` comes within one ulp before the error is taken.
Infinities would meet as :math:`\infty-\infty`.
They are clipped first, and a code of -1, 0 or 1 that travels beside says afterwards where to put
them back.

The experiment ``relu-max`` tries all :math:`2^{32}` pairs of float16 and of bfloat16 numbers.

References
----------
.. [1] P. H. Sterbenz: Floating-point computation. Prentice-Hall, 1974.
.. [2] T. J. Dekker: A floating-point technique for extending the available precision. Numerische
   Mathematik 18, 1971.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from mcnn.relu.check import check_floating, check_form


def leaky_relu(x: Tensor, negative_slope: float = 0.01) -> Tensor:
    r"""Return :math:`[x]-\alpha[-x]`, which is :math:`x` if positive and else :math:`\alpha x`.

    Parameters
    ----------
    x
        Floating point, any shape.
    negative_slope
        :math:`\alpha`, finite.

    Raises
    ------
    TypeError
        If ``x`` is not floating point.

    Notes
    -----
    The values of :func:`torch.nn.functional.leaky_relu` exactly, for one of the two terms is zero;
    a zero may have the other sign where the product underflows or the slope is not positive.
    Source: slide "Maximum pooling layers".

    Examples
    --------
    >>> leaky_relu(torch.tensor([-2.0, 3.0]), 0.5)
    tensor([-1.,  3.])
    """
    check_floating(x=x)
    return torch.relu(x) - negative_slope * torch.relu(-x)


def absolute(x: Tensor) -> Tensor:
    r"""Return :math:`|x|=[x]+[-x]`.

    Parameters
    ----------
    x
        Floating point, any shape.

    Raises
    ------
    TypeError
        If ``x`` is not floating point.

    Notes
    -----
    The same bits as :func:`torch.abs`, and the same derivative 0 at 0.
    Source: slide "Maximum pooling layers".

    Examples
    --------
    >>> absolute(torch.tensor([-2.0, 3.0]))
    tensor([2., 3.])
    """
    check_floating(x=x)
    return torch.relu(x) + torch.relu(-x)


def maximum(x: Tensor, y: Tensor, form: str = "exact") -> Tensor:
    r"""Return the larger of two numbers as a network of ReLUs with skip links.

    Parameters
    ----------
    x, y
        Of one floating point type, shapes that broadcast.
    form
        One of :data:`FORMS`, see the table above.
        ``"symmetric"`` has two ReLUs, ``"skip"`` one.
        ``"exact"`` has six, and seven clips at the largest number, four of them for infinities.

    Returns
    -------
    Tensor
        With ``"exact"`` the values of :func:`torch.maximum` for every pair of operands: finite,
        infinite or NaN; only the sign of a zero may differ.

    Raises
    ------
    TypeError
        If an operand is not floating point, or their types differ.
    ValueError
        For an unknown form.

    Notes
    -----
    Where both are equal, ``"symmetric"`` gives each half of the gradient, as
    :func:`torch.maximum` does; the other forms give all of it to ``x``, as max pooling gives it to
    the first.
    ``"exact"`` gives none to an infinite operand, and may give none where the result is the largest
    number of its type.
    Source: slide "Maximum pooling layers"; the exact form is this book's.

    Examples
    --------
    >>> x, y = torch.tensor(-1e20), torch.tensor(1.0)
    >>> [maximum(x, y, form).item() for form in FORMS]
    [0.0, 0.0, 1.0]
    """
    check_floating(x=x, y=y)
    return FORMS[check_form(form, FORMS)](x, y)


def symmetric(x: Tensor, y: Tensor) -> Tensor:
    """Add the four terms of the talk."""
    return 0.5 * (x + y + torch.relu(x - y) + torch.relu(y - x))


def skip(x: Tensor, y: Tensor) -> Tensor:
    """Lift x to y where it is below."""
    return x + torch.relu(y - x)


def exact_finite(x: Tensor, y: Tensor) -> Tensor:
    """Return the larger of two finite numbers, exactly; see the proof above."""
    largest = torch.finfo(x.dtype).max
    up = torch.relu(y - x).clamp(max=largest)
    near = (x + up).clamp(-largest, largest)  # x where x >= y, else y up to rounding
    near = near + torch.relu(y - near)  # matters where y - x overflowed
    below = torch.relu(y - near)
    above = torch.relu(near - y).clamp(max=largest)
    return near + below - (above - torch.relu(above - up))


def split_ends(x: Tensor) -> tuple[Tensor, Tensor]:
    """Clip infinities to the largest number, and return a code of -1, 0 or 1 that says where."""
    largest = torch.finfo(x.dtype).max
    finite = x.clamp(-largest, largest)
    # No gradient: that of ``x - finite`` is zero, and times the largest number it might be NaN.
    return finite, (x - finite).detach().clamp(-1, 1)


def join_ends(finite: Tensor, ends: Tensor) -> Tensor:
    """Put infinities back: the largest number plus itself overflows, as it should."""
    return finite + ends * torch.finfo(finite.dtype).max


def _exact(x: Tensor, y: Tensor) -> Tensor:
    (x, x_end), (y, y_end) = split_ends(x), split_ends(y)
    return join_ends(exact_finite(x, y), skip(x_end, y_end))  # ``skip`` is exact for -1, 0 and 1


FORMS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "symmetric": symmetric,
    "skip": skip,
    "exact": _exact,
}
