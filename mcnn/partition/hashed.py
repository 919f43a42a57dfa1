r"""Partitions with a mask for each example, computed instead of stored.

In :class:`mcnn.partition.DropoutPartition` a unit has a label, and a batch shares the mask.
Here every element of a batch has a part of its own: the numbers of its example j and of its unit i
are *hashed* to 32 bits that look random,

.. math:: p_{j,i}=\lfloor\xi_{j,i}P\rfloor,\qquad \xi_{j,i}=2^{-32}\,h(a_j\oplus b_i),

and in step t the elements of part :math:`t\bmod P` are dropped.
The keys :math:`a_j` and :math:`b_i` are hashed from the seed and the number of the cycle, so that
in a cycle of P steps each element is dropped exactly once, and the next one has other parts.

No labels and no mask are kept, not even for the backward pass, which hashes again; what it needs is
the seed and the step, or a key for each example and each unit.
The hash :math:`h` is ten operations on 32 bits, which are done between reading an element and
writing it: on the CPU by a loop in C (:mod:`mcnn.partition.native`), elsewhere by what
:func:`torch.compile` makes of it.

What that buys, against :class:`mcnn.partition.DropoutPartition`: examples have different masks,
hence gradients less variance in a step, at no number stored.
What it gives up: these are not the numbers of a shift register but of a hash, computed for each
element in every step, so that a cycle saves none of them; parts are not balanced; and a cycle
belongs to a place in the batch, while the examples there change from step to step.
Without any compiler the hash is a chain of operators and slower than dropout.

References
----------
.. [1] C. Wellons: Prospecting for hash functions, 2018, for the constants of the rounds
   (``lowbias32``).
.. [2] J. Salmon, M. Moraes, R. Dror, D. Shaw: Parallel random numbers: as easy as 1, 2, 3. SC 2011,
   for random numbers from counters and keys.
"""

import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from mcnn.partition import native
from mcnn.partition.parts import check_parts, parts_or_rate, rate_read, saved_integers
from mcnn.recomputation import refuse_in_backward, repeated
from mcnn.sampling import as_seed, hash_bits
from mcnn.seeds import layer_seed

_MULTIPLY1 = 0x7FEB352D
_MULTIPLY2 = 0x846CA68B - 2**32  # as a signed integer: products wrap around, as they should


def hash32(bits: Tensor) -> Tensor:
    """Mix the bits of int32 [...]: different ones go to different ones, which look random."""
    bits = (bits ^ _shift(bits, 16)) * _MULTIPLY1
    bits = (bits ^ _shift(bits, 15)) * _MULTIPLY2
    return bits ^ _shift(bits, 16)


def _shift(bits: Tensor, by: int) -> Tensor:
    """Shift right and fill with zeros; the shift of int32 fills with the sign."""
    return (bits >> by) & ((1 << (32 - by)) - 1)


def drop_part(x: Tensor, parts: int, step: int, seed: int = 0) -> Tensor:
    r"""Drop the elements whose turn it is, and scale the others by P/(P-1).

    Parameters
    ----------
    x
        [b, ...], floating point.
    parts
        P, 2 to 256; stands for dropout at a rate of 1/P.
    step
        t, at least 0: part t mod P of cycle t div P is dropped.
    seed
        Of the keys.

    Returns
    -------
    Tensor
        The shape, dtype and device of ``x``.

    Raises
    ------
    TypeError
        For an input that is not floating point, or parts that are no int.
    ValueError
        For parts out of range, a negative step, or an input without a batch dimension.

    Notes
    -----
    What is dropped depends on the seed, the step and the place in ``x`` alone: the first examples
    of a batch have the same masks whatever its size, on every device and for every dtype.

    Examples
    --------
    >>> steps = torch.stack([drop_part(torch.ones(2, 4), 3, step) for step in range(3)])
    >>> (steps == 0).sum(0).tolist(), steps.unique().tolist()
    ([[1, 1, 1, 1], [1, 1, 1, 1]], [0.0, 1.5])
    """
    parts = check_parts(parts)
    if step < 0:
        raise ValueError(f"step must be at least 0, got {step}")
    _check_input(x)
    return _dropped(x, torch.tensor([step, as_seed(seed)], device="cpu"), parts)


class HashedPartition(nn.Module):
    r"""Drop each element of a batch once in P steps: in place of :class:`torch.nn.Dropout`.

    A *step* is a call in training mode; in evaluation the input passes as it is, and no step is
    taken.

    Parameters
    ----------
    parts
        P, 2 to 256; stands for dropout at a rate of 1/P.
    p
        That rate, in place of ``parts``: as :class:`torch.nn.Dropout` names it.
    seed
        An integer, or a generator, which is advanced by one draw; by default from PyTorch's own.
        Layers of one network need different seeds, as they have by default, or elements of the
        same number are dropped together; so do processes of ``DistributedDataParallel``, whose
        batches else share masks.

    Raises
    ------
    TypeError
        For parts that are no int; when called, for an input that is not floating point.
    ValueError
        For parts out of range; when called, for an input without a batch dimension.

    Notes
    -----
    The state is two integers, the step and the seed; ``state_dict`` has them, and a checkpoint of a
    network with ``nn.Dropout`` loads, too.
    Activation checkpointing (``torch.utils.checkpoint``) runs a layer twice; the second run repeats
    the step of the first, and is none of its own.
    Where a compiler would run it again, that is an error.

    Examples
    --------
    >>> layer = HashedPartition(4)
    >>> torch.stack([layer(torch.ones(2, 3)) for _ in range(4)]).mean(0).tolist()
    [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]
    """

    def __init__(
        self,
        parts: int | None = None,
        seed: int | torch.Generator | None = None,
        *,
        p: float | None = None,
    ) -> None:
        super().__init__()
        self.parts = parts_or_rate(parts, p)
        # No buffer, for reading it shall wait for no GPU.
        with torch.inference_mode(False):  # or no training could ever change it
            self._state = torch.tensor([0, layer_seed(seed)], device="cpu")
        self.register_load_state_dict_pre_hook(_fill_in_state)

    @property
    def p(self) -> float:
        """Rate 1/P that it stands for; a warning says what reading it means."""
        return rate_read("HashedPartition", self.parts)

    @property
    def step(self) -> int:
        """Steps taken."""
        return int(self._state[0])

    def forward(self, input: Tensor) -> Tensor:
        """Return the input [b, ...] without the elements whose turn it is, the others scaled."""
        if not self.training:
            return input
        _check_input(input)
        before = repeated(self, self._state)
        if before is None:
            return _dropped(input, self._state, self.parts)
        return _dropped(input, before, self.parts, again=True)

    def get_extra_state(self) -> Tensor:
        """Return what ``state_dict`` saves: int64 [2], the step and the seed."""
        return self._state.clone()

    def set_extra_state(self, state: Tensor) -> None:
        """Resume where :meth:`get_extra_state` left."""
        with torch.inference_mode(False):
            self._state = torch.tensor(saved_integers(state), device="cpu")

    def extra_repr(self) -> str:
        """Describe the options in ``repr``."""
        return f"parts={self.parts}, seed={int(self._state[1])}"


def _dropped(x: Tensor, state: Tensor, parts: int, again: bool = False) -> Tensor:
    """Take the turn of a state; ``again`` in a backward pass, where operators refuse."""
    if x.device.type == "cpu" and x.dtype == torch.float32 and not _is_transformed():
        take = _hashed_turn if again else torch.ops.mcnn.hashed_turn
        y = _DropInC.apply(x, take(state), parts)
        return y if x.is_contiguous() else torch.empty_like(x, requires_grad=False).copy_(y)
    units = x.shape[1:].numel()
    take = _next_turn if again else torch.ops.mcnn.next_turn
    bounds, keys = take(state, parts, len(x), units, x.device)
    return _Drop.apply(x, bounds, keys, parts)


def _is_transformed() -> bool:
    """Return whether ``torch.func`` or forward mode looks at it: that sees PyTorch's operators."""
    if torch.compiler.is_compiling():
        return False
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


class _DropInC(torch.autograd.Function):
    """As below, by one operator."""

    @staticmethod
    def forward(x: Tensor, turn: Tensor, parts: int) -> Tensor:
        return torch.ops.mcnn.drop_hashed(x, turn, parts)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, turn, ctx.parts = inputs
        ctx.save_for_backward(turn)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return _DropInC.apply(gradient, *ctx.saved_tensors, ctx.parts), None, None


class _Drop(torch.autograd.Function):
    """Multiply by a mask that is computed here, and again in the backward pass."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, bounds: Tensor, keys: Tensor, parts: int) -> Tensor:
        examples = keys[: len(x)].view(-1, *[1] * (x.ndim - 1))  # [b, 1, ...]
        units = keys[len(x) :].view(1, *x.shape[1:])  # [1, ...]
        bits = hash32(examples ^ units)  # int32, the shape of x
        dropped = (bits >= bounds[0]) & (bits <= bounds[1])
        return (x * (parts / (parts - 1))).masked_fill_(dropped, 0)  # keeps the memory layout

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, bounds, keys, ctx.parts = inputs
        ctx.save_for_backward(bounds, keys)
        ctx.save_for_forward(bounds, keys)

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        return _Drop.apply(tangent, *ctx.saved_tensors, ctx.parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return _Drop.apply(gradient, *ctx.saved_tensors, ctx.parts), None, None, None


def _check_input(x: Tensor) -> None:
    if not x.is_floating_point():
        raise TypeError(f"the input must be floating point, got {x.dtype}; call .float() on it")
    if x.ndim == 0:
        raise ValueError("the input must be [batch, ...], got a single number")


torch.library.define("mcnn::hashed_turn", "(Tensor(a!) state) -> Tensor")
torch.library.define("mcnn::drop_hashed", "(Tensor x, Tensor turn, int parts) -> Tensor")


@torch.library.impl("mcnn::hashed_turn", "CompositeExplicitAutograd")
def _(state: Tensor) -> Tensor:
    refuse_in_backward("HashedPartition")
    return _hashed_turn(state)


def _hashed_turn(state: Tensor) -> Tensor:
    """Take a step and return int64 [2], which step it was and the seed."""
    turn = state.clone()
    state[0] += 1
    return turn


@torch.library.register_fake("mcnn::hashed_turn")
def _(state: Tensor) -> Tensor:
    return state.new_empty(2)


@torch.library.impl("mcnn::drop_hashed", "CompositeExplicitAutograd")
def _drop_hashed(x: Tensor, turn: Tensor, parts: int) -> Tensor:
    if native.available():
        return native.drop(x, parts, *turn.tolist())
    state, units = turn.clone(), x.shape[1:].numel()
    bounds, keys = _next_turn(state, parts, x.shape[0], units, x.device)
    return _Drop.forward(x, bounds, keys, parts)


@torch.library.register_fake("mcnn::drop_hashed")
def _(x: Tensor, turn: Tensor, parts: int) -> Tensor:
    return x.new_empty(x.shape)


# An operator of its own, so that a compiler calls it as it is and compiles the rest only once: part
# and keys are then numbers in tensors. As tensors keys are also faster than numbers that a kernel
# counts: filling a vector with these takes longer than hashing it.
torch.library.define(
    "mcnn::next_turn",
    "(Tensor(a!) state, int parts, int examples, int units, Device device) -> (Tensor, Tensor)",
)


@torch.library.impl("mcnn::next_turn", "CompositeExplicitAutograd")
def _(
    state: Tensor, parts: int, examples: int, units: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    refuse_in_backward("HashedPartition")
    return _next_turn(state, parts, examples, units, device)


def _next_turn(
    state: Tensor, parts: int, examples: int, units: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Take a step.

    Returns
    -------
    bounds
        int32 [2], first and last of the bits whose elements are to drop.
    keys
        int32 [examples + units].
    """
    step, seed = state.tolist()
    state.copy_(torch.tensor([step + 1, seed]))
    cycle, part = divmod(step, parts)
    # The bits are signed: the least of them, -2**31, stands for xi = 0.
    first, beyond = (-(-p * 2**32 // parts) - 2**31 for p in (part, part + 1))
    bounds = torch.tensor([first, beyond - 1], dtype=torch.int32, device=device)
    # A copy, for compiled graphs may write over what an operator returned.
    return bounds, _keys(seed, cycle, examples, units, device).clone()


@torch.library.register_fake("mcnn::next_turn")
def _(
    state: Tensor, parts: int, examples: int, units: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    n = examples + units
    return tuple(torch.empty(size, dtype=torch.int32, device=device) for size in (2, n))


@functools.lru_cache(maxsize=16)  # the steps of a cycle share them
def _keys(seed: int, cycle: int, examples: int, units: int, device: torch.device) -> Tensor:
    words = hash_bits(seed, 2 * cycle + torch.arange(2, device="cpu")).tolist()
    keys = []
    for n, word in zip((examples, units), words, strict=True):
        number = torch.arange(n, dtype=torch.int32, device=device)
        keys.append(hash32(hash32(number ^ word >> 32) ^ (word & 0xFFFFFFFF) - 2**31))
    return torch.cat(keys)


def _fill_in_state(
    module: HashedPartition, state_dict: dict[str, Any], prefix: str, *rest: Any
) -> None:
    """Let checkpoints of networks with ``nn.Dropout`` load."""
    state_dict.setdefault(f"{prefix}_extra_state", module.get_extra_state())
