"""The layer that takes the place of dropout."""

from typing import Any

import torch
from torch import Tensor, nn

from mcnn.partition.parts import (
    SOURCES,
    check_choice,
    part_labels,
    parts_or_rate,
    rate_read,
    saved_integers,
)
from mcnn.recomputation import refuse_in_backward, repeated
from mcnn.seeds import layer_seed

DROPS = ("one", "keep-one")
REDRAWS = ("cycle", "epoch", "never")

# The state of a layer is four integers: the part whose turn is next, the random numbers drawn so
# far, the units they were drawn for (0 before the first step), and whether an epoch was announced.
# The labels follow from them, so they need not be saved.
_TURN, _DRAWN, _UNITS, _EPOCH = range(4)


class DropoutPartition(nn.Module):
    r"""Drop the P parts of a layer in turn: in place of :class:`torch.nn.Dropout`.

    A *step* is a call in training mode.
    In a *cycle* of P steps each unit is dropped exactly once; in evaluation the input passes as it
    is, and no step is taken.
    A unit is an element of an example, so that a batch [b, ...] has one mask for all of its
    examples, unless ``per_sample``.

    Parameters
    ----------
    parts
        P, 2 to 256; stands for dropout at a rate of 1/P.
    p
        That rate, in place of ``parts``: as :class:`torch.nn.Dropout` names it.
    drop
        ``"one"``: a step drops one part and scales the others by P/(P-1).
        ``"keep-one"``: a step keeps one part, scaled by P; each unit is kept once a cycle.
    redraw
        When units are thrown into new parts: after each ``"cycle"``; at the first cycle that
        begins after an ``"epoch"`` was announced by :meth:`start_epoch`, so that no cycle is cut
        short; or ``"never"`` again.
    balanced
        Parts of equal size, up to one, instead of :math:`p=\lfloor\xi P\rfloor` for each unit
        independently.
        With few units a part may be empty, by chance or, with fewer units than parts, surely: in
        its step nothing is dropped (``"one"``) or kept (``"keep-one"``).
    per_sample
        Each example has its own turn: when example 0 of a batch drops part t, example j drops part
        (t + j) mod P, at no further random number.
        In every step each unit is dropped in b/P of the b examples, rounded up or down; still once
        a cycle at each place in the batch.
    channels
        Units are whole channels, dimension 1 of [b, c, ...]: in place of
        :class:`torch.nn.Dropout1d`, ``Dropout2d`` and ``Dropout3d``.
    source
        Of the random numbers: ``"lfsr"`` or ``"counter"``, see :func:`part_labels`.
    seed
        An integer, or a generator, which is advanced by one draw; by default from PyTorch's own,
        so that ``torch.manual_seed`` governs it.
        Layers of one network need different seeds, as they have by default, or units of the same
        number are dropped together.

    Attributes
    ----------
    numbers_drawn : int
        Random numbers so far: one a unit whenever parts are drawn.
        Dropout takes one a unit in every step if the batch shares a mask, as here; with
        ``nn.Dropout``, where it does not, one for each example besides.
    labels : Tensor or None
        uint8, the part of each unit, in the shape of an example (channels: [c]); None before the
        first step, and before the first one after a checkpoint was loaded.

    Raises
    ------
    TypeError
        For parts that are no int; when called, for an input that is not floating point.
    ValueError
        For parts out of range, a rate that is not 1/P, or an unknown choice; when called, for an
        input without a batch dimension or units, or with another number of units than before: a
        layer that is used in two places, or for several sizes of images, would mix up its turns.

    Notes
    -----
    Source: slide "Partition instead of Dropout".

    The state is saved with ``state_dict`` and resumes in mid cycle, with the same masks; a
    checkpoint of a network with ``nn.Dropout`` loads, too, and leaves the state as it is.
    The masks depend on the seed and the step alone, not on the device, the dtype or the global
    generator.
    Processes of ``DistributedDataParallel`` that build the network alike thus drop the same parts
    with nothing to communicate; give each its own seed if they should not.
    Activation checkpointing (``torch.utils.checkpoint``) runs a layer twice; the second run repeats
    the step of the first, and is none of its own.
    Where a compiler would run it again, that is an error.

    Examples
    --------
    >>> layer = DropoutPartition(3)
    >>> steps = torch.stack([layer(torch.ones(1, 5)) for _ in range(3)])
    >>> (steps == 0).sum(0).tolist(), steps.mean(0).tolist()
    ([[1, 1, 1, 1, 1]], [[1.0, 1.0, 1.0, 1.0, 1.0]])
    >>> layer.numbers_drawn
    5
    """

    def __init__(
        self,
        parts: int | None = None,
        drop: str = "one",
        redraw: str = "cycle",
        *,
        p: float | None = None,
        balanced: bool = False,
        per_sample: bool = False,
        channels: bool = False,
        source: str = "lfsr",
        seed: int | torch.Generator | None = None,
    ) -> None:
        super().__init__()
        parts = parts_or_rate(parts, p)
        check_choice("drop", drop, DROPS)
        check_choice("redraw", redraw, REDRAWS)
        check_choice("source", source, tuple(SOURCES))
        self.parts, self.drop, self.redraw = parts, drop, redraw
        self.balanced, self.per_sample, self.channels = balanced, per_sample, channels
        self.source, self.seed = source, layer_seed(seed)
        # Neither is a buffer. The state stays on the CPU, where reading it waits for no GPU, and
        # DDP would broadcast buffers, though all processes have the same.
        with torch.inference_mode(False):  # or no training could ever change it
            self._state = torch.zeros(4, dtype=torch.int64, device="cpu")
        self._labels: Tensor | None = None
        self.register_load_state_dict_pre_hook(_fill_in_state)

    @property
    def p(self) -> float:
        """Rate 1/P that it stands for; a warning says what reading it means."""
        return rate_read("DropoutPartition", self.parts)

    @property
    def numbers_drawn(self) -> int:
        """Random numbers so far."""
        return int(self._state[_DRAWN])

    @property
    def labels(self) -> Tensor | None:
        """The part of each unit, uint8; None before the first step, also after loading."""
        return None if self._labels is None else self._labels.clone()

    def start_epoch(self) -> None:
        """Announce an epoch: with ``redraw="epoch"``, the next cycle to begin has new parts."""
        self._state[_EPOCH] = 1

    def forward(self, input: Tensor) -> Tensor:
        """Return the input [b, ...] without the units whose turn it is, the others scaled."""
        if not self.training:
            return input
        if not (input.is_floating_point() or input.is_complex()):
            raise TypeError(
                f"the input must be floating point, got {input.dtype}; call .float() on it"
            )
        shape = input.shape[1:2] if self.channels else input.shape[1:]
        if input.ndim < 2 or shape.numel() == 0:
            kind = "channels, ..." if self.channels else "units, ..."
            raise ValueError(
                f"the input must be [batch, {kind}], not empty; got {list(input.shape)}"
            )
        labels, fresh, before = self._labels, False, repeated(self, self._state)
        state = self._state if before is None else before
        fit = labels is not None and labels.shape == shape and labels.device == input.device
        if fit and not torch.compiler.is_compiling():  # labels of inference cannot change after it
            fit = before is None and not labels.is_inference()
        if not fit:
            labels, fresh = torch.empty(shape, dtype=torch.uint8, device=input.device), True
        take = torch.ops.mcnn.take_turn if before is None else _take_turn
        wait = take(
            state,
            labels,
            self.parts,
            self.redraw,
            self.balanced,
            self.source,
            self.seed,
            fresh,
        )
        if before is None:
            self._labels = labels
        wait = wait.view(1, *shape, *[1] * (input.ndim - 1 - len(shape)))  # [1, ...]
        turn: int | Tensor = 0
        if self.per_sample:  # the others are ahead of example 0, by up to a cycle
            ahead = torch.arange(len(input), device=input.device) % self.parts  # [b]
            turn = ahead.to(torch.uint8).view(-1, *[1] * (input.ndim - 1))
        # In place, which keeps the memory layout of the input.
        if self.drop == "one":
            return (input * (self.parts / (self.parts - 1))).masked_fill_(wait == turn, 0)
        return (input * self.parts).masked_fill_(wait != turn, 0)

    def get_extra_state(self) -> Tensor:
        """Return what ``state_dict`` saves: int64 [6], the state, the parts and the seed."""
        return torch.tensor([*self._state.tolist(), self.parts, self.seed], device="cpu")

    def set_extra_state(self, state: Tensor) -> None:
        """Resume where :meth:`get_extra_state` left, in a layer made with the same options.

        Raises
        ------
        ValueError
            If that was with another number of parts.
        """
        *values, parts, seed = saved_integers(state)
        if parts != self.parts:
            raise ValueError(
                f"the checkpoint has {parts} parts and this layer {self.parts}: make the layer "
                f"with parts={parts}, or leave its '_extra_state' out of the checkpoint"
            )
        with torch.inference_mode(False):
            self._state = torch.tensor(values, device="cpu")
        self.seed = seed
        self._labels = None

    def extra_repr(self) -> str:
        """Describe the options in ``repr``."""
        options = ("balanced", "per_sample", "channels")
        return ", ".join(
            [
                f"parts={self.parts}, drop={self.drop!r}, redraw={self.redraw!r}",
                *(f"{name}=True" for name in options if getattr(self, name)),
                f"source={self.source!r}, seed={self.seed}",
            ]
        )


def start_epoch(model: nn.Module) -> None:
    """Announce an epoch to every :class:`DropoutPartition` in a model.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(4, 4), DropoutPartition(2, redraw="epoch"))
    >>> for epoch in range(3):
    ...     start_epoch(model)
    ...     for step in range(4):
    ...         _ = model(torch.ones(1, 4))
    >>> model[1].numbers_drawn
    12
    """
    for module in model.modules():
        if isinstance(module, DropoutPartition):
            module.start_epoch()


# An operator of its own, so that a compiler calls it as it is: whether numbers are drawn depends
# on the step, which a compiled graph could only decide by drawing them every time.
# torch.library.custom_op would do the same, but imports the compiler when it is first called.
torch.library.define(
    "mcnn::take_turn",
    "(Tensor(a!) state, Tensor(b!) labels, int parts, str redraw, bool balanced, str source, "
    "int seed, bool fresh) -> Tensor",
)


@torch.library.impl("mcnn::take_turn", "CompositeExplicitAutograd")
def _(state: Tensor, labels: Tensor, *options: Any) -> Tensor:
    refuse_in_backward("DropoutPartition")
    return _take_turn(state, labels, *options)


def _take_turn(
    state: Tensor,
    labels: Tensor,
    parts: int,
    redraw: str,
    balanced: bool,
    source: str,
    seed: int,
    fresh: bool,
) -> Tensor:
    """Take a step, and return how many more until a unit's turn: uint8, the shape of ``labels``.

    ``labels`` are drawn anew when it is time, and filled in when they are ``fresh``.
    What is returned is no view of them, for a backward pass may need it after later steps.
    """
    turn, drawn, units, epoch = state.tolist()
    n = labels.numel()
    if units not in (0, n):
        raise ValueError(
            f"the input has {n} units, but the partition was drawn for {units}: use one "
            "DropoutPartition in each place, and HashedPartition where lengths change"
        )
    again = redraw == "cycle" or (redraw == "epoch" and epoch == 1)
    draw = units == 0 or (turn == 0 and again)
    if draw:
        drawn, epoch = drawn + n, 0
    if draw or fresh:
        drawn_labels = part_labels(
            n,
            parts,
            balanced=balanced,
            source=source,
            seed=seed,
            start=drawn - n,
            device=labels.device,
        )
        labels.copy_(drawn_labels.view_as(labels))
    state.copy_(torch.tensor([(turn + 1) % parts, drawn, n, epoch]))
    return ((labels.short() - turn) % parts).to(torch.uint8)


@torch.library.register_fake("mcnn::take_turn")
def _(state: Tensor, labels: Tensor, *options: Any) -> Tensor:
    return torch.empty_like(labels)


def _fill_in_state(
    module: DropoutPartition, state_dict: dict[str, Any], prefix: str, *rest: Any
) -> None:
    """Let checkpoints of networks with ``nn.Dropout`` load."""
    state_dict.setdefault(f"{prefix}_extra_state", module.get_extra_state())
