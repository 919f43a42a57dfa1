r"""What each operation of PyTorch is at one input: linear, a gate that can be held, or neither.

===============  ================================================================================
linear           sums, means, shapes, padding, interpolation, average pooling: as they are
one factor       products, convolutions: as they are, if only one factor depends on the input
gates            :math:`z\mapsto sz+c` with slope and constant of this input: ReLU and its kin
choices          maximum pooling, maxima: the place that won stays the winner
normalisation    by batch statistics of training: as it is; by those of the input: the mean is
                 linear and stays, the deviation is held
decisions        comparisons, signs, whole numbers, and constants of the input's shape: held
===============  ================================================================================

An operation that is in no line is refused.

A rule gets the operation with its arguments at the input, and returns what takes its place.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Replay = Callable[..., Any]


class Refusal(Exception):
    """Why an operation is not linear once its gates are held."""


@dataclass(frozen=True)
class Call:
    """An operation at the input.

    Attributes
    ----------
    op
        Of ``torch.ops.aten``.
    args, kwargs
        Its arguments, as values.
    moves
        Which of the positional ones depend on the input.
    value
        What came out.
    """

    op: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    moves: tuple[bool, ...]
    value: Any


def kind(op: Any) -> str:
    """Return the name of an operation without its overload, such as ``"relu"``."""
    return op._schema.name.split("::")[1]


def rule(call: Call) -> Replay:
    """Return what takes the place of an operation.

    Raises
    ------
    Refusal
        If it is none of those above.
    """
    name = kind(call.op)
    if name in _LINEAR:
        return call.op
    if name in _FACTORS:
        return _one_factor(call, _FACTORS[name])
    if name in _RULES:
        return _RULES[name](call)
    if name in _GATES:
        if any(call.moves[1:]):
            raise Refusal("its limits depend on the input")
        return _held(*_GATES[name](*call.args, **call.kwargs))
    raise Refusal(WHY.get(name, "it is neither linear nor a gate"))


_LINEAR = {
    "add", "sub", "rsub", "neg", "sum", "mean", "cumsum", "clone", "alias", "detach", "contiguous",
    "_to_copy", "lift_fresh_copy", "view", "_unsafe_view", "reshape", "_reshape_alias", "t",
    "transpose", "permute", "squeeze", "unsqueeze", "expand", "repeat", "flatten", "unflatten",
    "cat", "stack", "split", "split_with_sizes", "unbind", "select", "slice", "narrow", "unfold",
    "as_strided", "diagonal", "flip", "roll", "im2col", "col2im", "index_select", "constant_pad_nd",
    "avg_pool1d", "avg_pool2d", "avg_pool3d", "_adaptive_avg_pool2d", "_adaptive_avg_pool3d",
    "adaptive_avg_pool1d", "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d",
    "_upsample_nearest_exact2d", "upsample_linear1d", "upsample_bilinear2d", "upsample_bicubic2d",
    "upsample_trilinear3d", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa", "pixel_shuffle",
    "pixel_unshuffle", "channel_shuffle", "reflection_pad1d", "reflection_pad2d",
    "reflection_pad3d", "replication_pad1d", "replication_pad2d", "replication_pad3d",
    "max_unpool2d", "max_unpool3d", "tril", "triu", "rot90", "slice_scatter", "select_scatter",
    "diagonal_scatter",
}  # fmt: skip

# Positions of the factors; what else an operation takes is added, or says how.
_FACTORS: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("mul", "mm", "bmm", "mv", "dot", "matmul", "linear"), (0, 1)),
    **dict.fromkeys(("addmm", "baddbmm", "addbmm", "addmv"), (1, 2)),
    **dict.fromkeys(("convolution", "_convolution", "mkldnn_convolution"), (0, 1)),
}


def _one_factor(call: Call, factors: Sequence[int]) -> Replay:
    if sum(call.moves[i] for i in factors if i < len(call.moves)) > 1:
        raise Refusal("it multiplies two numbers that both depend on the input")
    return call.op


def _division(call: Call) -> Replay:
    if call.moves[1]:
        raise Refusal(_DIVIDES)
    return call.op


def _first_only(call: Call) -> Replay:
    """Pick or fill by places that do not depend on the input, or are decisions."""
    if any(call.moves[1:]):
        raise Refusal("its mask or index depends on the input")
    return call.op


def _squeezed(call: Call) -> Replay:
    """Squeeze a copy: of an input without a batch, ``nn.Linear`` squeezes its product in place."""
    return lambda z, *axes, **__: z.squeeze(*axes)


def _copied(call: Call) -> Replay:
    """Return what is copied; PyTorch's own has no forward derivative."""
    return lambda z, source, *_, **__: source.to(z).expand_as(z)


def _where(call: Call) -> Replay:
    return call.op  # a condition is a decision, which is held already


# Gates: slope and constant, from the arguments at the input.

_Gate = tuple[Tensor, "Tensor | None"]


def _held(slope: Tensor, constant: Tensor | None) -> Replay:
    if constant is None or not constant.any():
        return lambda z, *_, **__: z * slope
    return lambda z, *_, **__: z * slope + constant


def _relu(z: Tensor) -> _Gate:
    return (z > 0).to(z.dtype), None


def _hardtanh(z: Tensor, low: float = -1.0, high: float = 1.0) -> _Gate:
    return _clamp(z, low, high)


def _clamp(z: Tensor, low: Any = None, high: Any = None) -> _Gate:
    clamped = torch.clamp(z, low, high)
    inside = torch.ones_like(z, dtype=torch.bool)
    inside = inside if low is None else inside & (z > low)
    inside = inside if high is None else inside & (z < high)
    return inside.to(z.dtype), torch.where(inside, 0.0, clamped)


def _leaky_relu(z: Tensor, slope: Any = 0.01) -> _Gate:
    return torch.where(z > 0, torch.ones_like(z), slope), None


def _hardsigmoid(z: Tensor) -> _Gate:
    inside = z.abs() < 3
    return inside / z.new_tensor(6.0), torch.where(inside, 0.5, (z >= 3).to(z.dtype))


def _threshold(z: Tensor, at: float, value: float) -> _Gate:
    above = z > at
    return above.to(z.dtype), torch.where(above, 0.0, torch.full_like(z, value))


def _softshrink(z: Tensor, at: float = 0.5) -> _Gate:
    outside = z.abs() > at
    return outside.to(z.dtype), torch.where(outside, -at * z.sign(), 0.0)


def _times(share: Callable[[Tensor], Tensor]) -> Callable[..., _Gate]:
    """Hold the gate of a function that is its argument times a share between zero and one."""
    return lambda z, *_: (share(z), None)


def _gelu(z: Tensor, approximate: str = "none") -> _Gate:
    if approximate == "none":
        return torch.special.ndtr(z), None
    # GPT-2's: the logistic function of a cubic, since (1 + tanh u) / 2 is that of 2u.
    return (2 * math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)).sigmoid(), None


_GATES: dict[str, Callable[..., _Gate]] = {
    "relu": _relu,
    "hardtanh": _hardtanh,
    "clamp": _clamp,
    "clamp_min": _clamp,
    "clamp_max": lambda z, high: _clamp(z, None, high),
    "leaky_relu": _leaky_relu,
    "_prelu_kernel": _leaky_relu,
    "abs": lambda z: (z.sign(), None),
    "threshold": _threshold,
    "hardsigmoid": _hardsigmoid,
    "softshrink": _softshrink,
    "hardshrink": lambda z, at=0.5: ((z.abs() > at).to(z.dtype), None),
    "hardswish": _times(lambda z: (z / 6 + 0.5).clamp(0, 1)),
    "silu": _times(torch.sigmoid),
    "gelu": _gelu,
}
# These bend between their gates' ends: with the gate held, A is no derivative of the network.
SMOOTH = {"hardswish", "silu", "gelu"}


# Choices: the place that won.


def _max_pool(axes: int) -> Callable[[Call], Replay]:
    def made(call: Call) -> Replay:
        index = call.value[1]  # [..., out], into the flattened last axes

        def replay(z: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
            picked = z.flatten(-axes).gather(-1, index.flatten(-axes))
            return picked.view(index.shape), index

        return replay

    return made


def _max_dim(call: Call) -> Replay:
    if len(call.args) < 2:
        return _largest(call)
    axis, keep = call.args[1], len(call.args) > 2 and call.args[2]
    index = call.value[1] if keep else call.value[1].unsqueeze(axis)

    def replay(z: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        picked = z.gather(axis, index)
        return picked if keep else picked.squeeze(axis), call.value[1]

    return replay


def _largest(call: Call) -> Replay:
    """Hold the places of the largest, or least, over axes; equal ones share."""
    z, axes = call.args[0], (call.args[1] if len(call.args) > 1 else ())
    axes = tuple([axes] if isinstance(axes, int) else axes) or tuple(range(z.dim()))
    keep = len(call.args) > 2 and call.args[2]
    value = call.value if keep else _unsqueezed(call.value, axes, z.dim())
    won = (z == value).to(z.dtype)
    share = won / won.sum(axes, keepdim=True).clamp(min=1)  # of NaN, nobody wins
    return lambda v, *_, **__: (v * share).sum(axes, keepdim=keep)


def _unsqueezed(value: Tensor, axes: tuple[int, ...], dimensions: int) -> Tensor:
    for axis in sorted(a % dimensions for a in axes):
        value = value.unsqueeze(axis)
    return value


def _larger(call: Call) -> Replay:
    first = torch.as_tensor(call.args[0] >= call.args[1])
    first = first if kind(call.op) == "maximum" else ~first
    return lambda a, b: torch.where(first, a, b)


# Normalisation.


def _normalised(z: Tensor, axes: tuple[int, ...], deviation: Tensor) -> Tensor:
    return (z - z.mean(axes, keepdim=True)) / deviation


def _deviation(z: Tensor, axes: tuple[int, ...], eps: float) -> Tensor:
    return (z.var(axes, keepdim=True, correction=0) + eps).sqrt()


def _scaled(
    z: Tensor, weight: Tensor | None, bias: Tensor | None, shape: tuple[int, ...]
) -> Tensor:
    z = z if weight is None else z * weight.view(shape)
    return z if bias is None else z + bias.view(shape)


def _batch_norm(call: Call) -> Replay:
    z, weight, bias, mean, variance, training, _, eps = call.args[:8]
    if training and mean is not None:
        raise Refusal("it is in training mode: call model.eval() first")
    return _by_channel(z, weight, bias, None if training else (mean, variance), eps)


def _batch_norm_eval(call: Call) -> Replay:
    z, weight, bias, mean, variance, _, eps = call.args
    return _by_channel(z, weight, bias, (mean, variance), eps)


def _by_channel(
    z: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    statistics: tuple[Tensor, Tensor] | None,
    eps: float,
) -> Replay:
    shape = (1, -1, *(1,) * (z.dim() - 2))
    axes = (0, *range(2, z.dim()))
    if statistics is None:  # those of the input, as in instance normalisation
        deviation = _deviation(z, axes, eps)
        return lambda v, *_, **__: (_scaled(_normalised(v, axes, deviation), weight, bias, shape),)
    mean, variance = (s.view(shape) for s in statistics)
    deviation = (variance + eps).sqrt()
    return lambda v, *_, **__: (_scaled((v - mean) / deviation, weight, bias, shape),)


def _layer_norm(call: Call) -> Replay:
    z, shape, weight, bias, eps = call.args
    axes = tuple(range(-len(shape), 0))
    deviation = _deviation(z, axes, eps)
    shape = tuple(shape)
    return lambda v, *_, **__: (_scaled(_normalised(v, axes, deviation), weight, bias, shape),)


def _group_norm(call: Call) -> Replay:
    z, weight, bias, _, channels, _, groups, eps = call.args

    def grouped(v: Tensor) -> Tensor:
        return v.reshape(len(v), groups, -1)

    deviation = _deviation(grouped(z), (-1,), eps)
    shape = (1, channels, *(1,) * (z.dim() - 2))

    def replay(v: Tensor, *_: Any, **__: Any) -> tuple[Tensor]:
        return (_scaled(_normalised(grouped(v), (-1,), deviation).view_as(z), weight, bias, shape),)

    return replay


_RULES: dict[str, Callable[[Call], Replay]] = {
    "div": _division,
    "gather": _first_only,
    "index": _first_only,
    "masked_fill": _first_only,
    "embedding": _first_only,
    "where": _where,
    "squeeze_": _squeezed,
    "copy": _copied,
    "max_pool2d_with_indices": _max_pool(2),
    "max_pool3d_with_indices": _max_pool(3),
    "adaptive_max_pool2d": _max_pool(2),
    "adaptive_max_pool3d": _max_pool(3),
    "max": _max_dim,
    "min": _max_dim,
    "amax": _largest,
    "amin": _largest,
    "maximum": _larger,
    "minimum": _larger,
    "native_batch_norm": _batch_norm,
    "cudnn_batch_norm": _batch_norm,
    "_native_batch_norm_legit_no_training": _batch_norm_eval,
    "native_layer_norm": _layer_norm,
    "native_group_norm": _group_norm,
}

DECISIONS = {
    "sign", "heaviside", "zeros_like", "ones_like", "full_like", "new_zeros", "new_ones",
    "new_full",
}  # fmt: skip

_DIVIDES = "it divides by a number that depends on the input"
_CURVED = "it bends everywhere"
DROPS = "it draws random numbers: call model.eval() first"
_ATTENTION = "softmax attention weighs the input by what depends on the input"
WHY = {
    **dict.fromkeys(("sigmoid", "tanh", "exp", "log", "softplus", "elu", "celu"), _CURVED),
    "reciprocal": _DIVIDES,
    **dict.fromkeys(("sin", "cos", "pow", "erf", "sqrt", "rsqrt"), _CURVED),
    **dict.fromkeys(
        (
            "_softmax",
            "_log_softmax",
            "_scaled_dot_product_flash_attention_for_cpu",
            "_scaled_dot_product_flash_attention",
            "_scaled_dot_product_efficient_attention",
            "_scaled_dot_product_cudnn_attention",
            "_native_multi_head_attention",
            "_transformer_encoder_layer_fwd",
        ),
        _ATTENTION,
    ),
}
