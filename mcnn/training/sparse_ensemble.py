r"""Many sparse networks trained as one: what costs time is their edges, not their number.

A network with one percent of the weights of 784/300/300/10 has 3,282 edges.
A training step takes a millisecond, nearly all of it to call one operator after the other.
So :math:`R` networks become one: side by side, a layer of all is block diagonal, and the first one
shares its inputs,

.. math::

   \mathbb{R}^{n_0}\to\mathbb{R}^{n_1^{(1)}+\cdots+n_1^{(R)}}\to\cdots\to\mathbb{R}^{R\,n_L},

which a sparse layer holds without a zero, see :class:`mcnn.paths.layers.PathLinear`.
The loss is the sum of the :math:`R` mean cross entropies, so that the gradient of each network is
its own, and each has its own learning rate.
Nothing passes from one to another: each trains as :func:`mcnn.training.fit` would train it alone,
with the same seed and learning rate, up to rounding.
All see the same batches, so that comparisons between networks of a stack are paired.

Networks may change their edges while they train: :class:`Evolution` replaces the weakest of each
layer, as SET and RigL do.
The number of edges of a layer stays, and so does the place of a network in the stack.

Activations are [units, batch] throughout.
With 784/300/300/10 and batches of 128 on one core, milliseconds a network and step:

===========================  =====  =====  =====  =====  =====
share of the weights         .5 %   1 %    2 %    5 %    20 %
===========================  =====  =====  =====  =====  =====
alone                        1.02   0.94   0.98   1.09   1.38
in a stack of 24             0.17   0.18   0.21   0.39   0.86
===========================  =====  =====  =====  =====  =====

About .15 of that is for activations, whatever the edges.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from mcnn.data import Data, Split
from mcnn.paths.layers import PathLinear
from mcnn.sampling import fold_in, hash_bits
from mcnn.training.fit import Evaluation

AT_ONCE = 24  # networks in a stack: more share no more overhead, and leave the caches


class SparseLayer(NamedTuple):
    """A layer of one network.

    Parameters
    ----------
    ends
        int64 [2, edges], input and output of each edge, sorted by output and within it by input,
        none twice.
    weight
        float32 [edges].
    bias
        float32 [outputs].
    """

    ends: Tensor
    weight: Tensor
    bias: Tensor


Network = Sequence[SparseLayer]


@dataclass(frozen=True)
class Evolution:
    r"""Weak edges leave in training and others come, the same number, with weight zero.

    At step t the fraction :math:`\frac{\alpha}{2}(1+\cos\frac{\pi t}{T})` of a layer's edges
    leaves, those of smallest magnitude; they may come back at once.
    After step T nothing changes any more.
    As :class:`mcnn.baselines.Set` and :class:`mcnn.baselines.RigL`, which do it within masks; here
    a new edge starts without momentum.

    Parameters
    ----------
    steps
        Of the whole training.
    by_gradient
        Edges come where the gradient of the step's batch is largest (RigL), else at random (SET).
    fraction
        :math:`\alpha`.
    interval
        Steps between two changes.
    until
        T as a fraction of all steps.
    seed
        Of what is random.

    Notes
    -----
    Source: D. C. Mocanu et al., Scalable training of artificial neural networks with adaptive
    sparse connectivity inspired by network science, 2018; U. Evci et al., Rigging the lottery:
    making all tickets winners, 2020, whose schedule both have here.
    """

    steps: int
    by_gradient: bool
    fraction: float = 0.3
    interval: int = 100
    until: float = 0.75
    seed: int = 0

    def due(self, step: int) -> bool:
        """Return whether edges change after this step, counted from zero."""
        return 0 < step < self.until * self.steps and step % self.interval == 0

    def leaving(self, edges: int, step: int) -> int:
        """Return how many of a layer's edges leave."""
        phase = math.pi * step / (self.until * self.steps)
        return int(self.fraction / 2 * (1 + math.cos(phase)) * edges)


def fit_sparse(
    networks: Sequence[Network],
    data: Data,
    *,
    epochs: int,
    lrs: Sequence[float],
    seed: int = 0,
    batch_size: int = 128,
    momentum: float = 0.9,
    scale: str = "unit",
    evolutions: Sequence[Evolution | None] | None = None,
    at_once: int = AT_ONCE,
    desc: str = "train",
) -> list[Network]:
    """Train sparse networks side by side and return them trained.

    Parameters
    ----------
    networks
        R networks with as many layers, all from the same inputs to the same classes; hidden layers
        may differ.
        Units are rectified behind all layers but the last.
        They are left as they are.
    data
        On the CPU; images are flattened.
    epochs, batch_size, momentum, scale, desc
        As in :func:`mcnn.training.fit`.
    lrs
        R learning rates, the first of a cosine schedule.
    seed
        Of the order of the images, the same for all.
    evolutions
        For each network, how its edges change, or ``None``.
    at_once
        Networks in a stack; several stacks are trained one after the other.

    Returns
    -------
    list
        R networks.
        One that diverged has weights that are no finite numbers; the others do not notice.

    Raises
    ------
    ValueError
        For a number out of range, no networks, or networks that do not fit the data or each other.

    Examples
    --------
    >>> from mcnn.data import load
    >>> ends = torch.cartesian_prod(torch.arange(10), torch.arange(64)).T.flip(0)  # all edges
    >>> net = [SparseLayer(ends, torch.zeros(640), torch.zeros(10))]
    >>> slow, fast = fit_sparse([net, net], load("digits"), epochs=1, lrs=[0.001, 0.1])
    >>> scores = evaluate_sparse([slow, fast], load("digits").test)
    >>> scores[0].loss > scores[1].loss
    True
    """
    evolutions = [None] * len(networks) if evolutions is None else list(evolutions)
    _check(networks, data, lrs, evolutions, epochs, batch_size, at_once)
    steps = epochs * math.ceil(len(data.train) / batch_size)
    trained: list[Network] = []
    for first in range(0, len(networks), at_once):
        part = slice(first, first + at_once)
        stack = _Stack(networks[part], lrs[part], math.prod(data.shape))
        generator = torch.Generator().manual_seed(seed)
        step = 0
        with tqdm(total=steps, desc=desc, disable=None, leave=False) as bar:
            for _ in range(epochs):
                for x, y in data.train.batches(batch_size, generator, scale=scale):
                    rate = (1 + math.cos(math.pi * step / steps)) / 2
                    stack.train(x, y, rate, momentum, evolutions[part], step)
                    step += 1
                    bar.update()
        trained += stack.networks()
    return trained


@torch.no_grad()
def evaluate_sparse(
    networks: Sequence[Network],
    split: Split,
    scale: str = "unit",
    batch_size: int = 500,
    at_once: int = AT_ONCE,
) -> list[Evaluation]:
    """Test networks together, as :func:`mcnn.training.evaluate` does one.

    Parameters
    ----------
    networks, scale, at_once
        As of :func:`fit_sparse`.
    split
        On the CPU.
    batch_size
        Images at a time.

    Returns
    -------
    list of Evaluation
        One a network.

    Raises
    ------
    ValueError
        For an empty split.
    """
    if len(split) == 0:
        raise ValueError("split is empty: there is nothing to test on")
    scores = []
    for first in range(0, len(networks), at_once):
        part = networks[first : first + at_once]
        stack = _Stack(part, [0.0] * len(part), math.prod(split.shape))
        hits, loss = 0, 0.0
        for x, y in split.batches(batch_size, scale=scale):
            logits = stack.activations(x)[-1].view(stack.count, -1, len(y))  # [R, classes, b]
            many = y.expand(stack.count, -1)  # [R, b]
            loss += F.cross_entropy(logits, many, reduction="none").double().sum(1)  # [R]
            hits += (logits.argmax(1) == many).sum(1)
        pairs = zip(
            (hits.double() / len(split)).tolist(), (loss / len(split)).tolist(), strict=True
        )
        scores += [Evaluation(*pair) for pair in pairs]
    return scores


class _Stack:
    """Networks side by side: their layers as one, and the momentum of their weights."""

    def __init__(self, networks: Sequence[Network], lrs: Sequence[float], inputs: int) -> None:
        self.count = len(networks)
        self.layers: list[_Joint] = []
        widths = [inputs] * self.count
        for parts in zip(*networks, strict=True):
            self.layers.append(_Joint(parts, widths, shared=not self.layers))
            widths = self.layers[-1].outputs
        self.parameters = [p for j in self.layers for p in (j.layer.weight, j.layer.bias)]
        self.velocity = [torch.zeros_like(p) for p in self.parameters]
        rates = torch.tensor(lrs, dtype=torch.float32)
        self.rates = [
            rates.repeat_interleave(torch.tensor(sizes))
            for joint in self.layers
            for sizes in (joint.edges, joint.outputs)
        ]

    def activations(self, x: Tensor) -> list[Tensor]:
        """Return the input, [inputs, b], and the output of each layer, [units, b], logits last."""
        rows = [x.flatten(1).T.contiguous()]
        for joint in self.layers:
            relu = joint is not self.layers[-1]
            rows.append(joint.layer.feature_major(rows[-1], relu))
        return rows

    def train(
        self,
        x: Tensor,
        y: Tensor,
        rate: float,
        momentum: float,
        evolutions: Sequence[Evolution | None],
        step: int,
    ) -> None:
        """Take a step against the gradient of the sum of all mean cross entropies."""
        rows = self.activations(x)
        logits = rows[-1].view(self.count, -1, len(y))  # [R, classes, b]
        loss = F.cross_entropy(logits, y.expand(self.count, -1), reduction="sum") / len(y)
        due = [r for r, evolution in enumerate(evolutions) if evolution and evolution.due(step)]
        wanted = [*self.parameters, *(rows[1:] if due else ())]
        grads = torch.autograd.grad(loss, wanted)
        with torch.no_grad():
            own, behind = grads[: len(self.parameters)], grads[len(self.parameters) :]
            torch._foreach_mul_(self.velocity, momentum)
            torch._foreach_add_(self.velocity, own)
            torch._foreach_addcmul_(self.parameters, self.velocity, self.rates, value=-rate)
            for number, grad in enumerate(behind):
                hidden = number < len(self.layers) - 1
                delta = grad * (rows[number + 1] > 0) if hidden else grad
                for r in due:
                    self._evolve(r, number, evolutions[r], step, rows[number], delta)
                self.parameters[2 * number] = self.layers[number].rebuilt()

    def _evolve(
        self, r: int, number: int, evolution: Evolution, step: int, x: Tensor, delta: Tensor
    ) -> None:
        """Exchange edges of a layer of a network; ``delta`` is the gradient behind the layer."""
        joint = self.layers[number]
        place, rows, columns = joint.places(r)
        if evolution.by_gradient:
            scores = (delta[rows] @ x[columns].T).abs()  # [outputs, inputs]
        else:
            stream = fold_in(evolution.seed, step * len(self.layers) + number)
            size = joint.outputs[r], joint.inputs[r]
            scores = hash_bits(stream, torch.arange(math.prod(size))).view(size) >> 11
            scores = scores.double()  # exact, with 53 bits
        weight = joint.layer.weight[place]
        ends, origin = exchanged(
            joint.part(r).ends, weight, scores, evolution.leaving(len(weight), step)
        )
        stays = origin >= 0
        joint.ends[:, place] = ends + joint.corner(r)
        for values in (joint.layer.weight.data, self.velocity[2 * number]):
            values[place] = values[place][origin.clamp(min=0)] * stays

    def networks(self) -> list[Network]:
        """Take the networks apart."""
        return [[joint.part(r) for joint in self.layers] for r in range(self.count)]


def exchanged(ends: Tensor, weight: Tensor, scores: Tensor, leaving: int) -> tuple[Tensor, Tensor]:
    """Replace the weakest edges of a layer by those of the largest scores.

    Parameters
    ----------
    ends
        int64 [2, edges], sorted as in :class:`SparseLayer`.
    weight
        [edges].
    scores
        [outputs, inputs], of all edges that may come: those that do not stay.
    leaving
        How many leave, as far as there is room.

    Returns
    -------
    Tensor
        int64 [2, edges], sorted.
    Tensor
        int64 [edges], which old edge each one is, or -1.
    """
    edges, inputs = len(weight), scores.shape[1]
    leaving = min(leaving, scores.numel() - edges + leaving)
    kept = weight.abs().topk(edges - leaving, sorted=False).indices  # [edges - leaving]
    old = ends[1, kept] * inputs + ends[0, kept]
    scores = scores.flatten().index_fill(0, old, -torch.inf)
    new = scores.topk(leaving, sorted=False).indices  # [leaving]
    place, order = torch.cat([old, new]).sort()
    origin = torch.cat([kept, torch.full_like(new, -1)])[order]
    return torch.stack([place % inputs, place // inputs]), origin


class _Joint:
    """One layer of all networks: block diagonal, or with inputs that all share.

    Edges of a network stay together, for they are sorted by output.
    """

    def __init__(self, parts: Sequence[SparseLayer], inputs: Sequence[int], shared: bool) -> None:
        self.inputs, self.outputs = list(inputs), [len(part.bias) for part in parts]
        self.edges = [part.ends.shape[1] for part in parts]
        self.first_input = [0] * len(parts) if shared else _begins(self.inputs)
        self.first_output, self.first_edge = _begins(self.outputs), _begins(self.edges)
        self.width = inputs[0] if shared else sum(inputs)
        shifted = [part.ends + self.corner(r) for r, part in enumerate(parts)]
        self.ends = torch.cat(shifted, dim=1)  # [2, edges of all]
        self.layer = self._layer(torch.cat([part.weight for part in parts]))
        self.layer.bias.data.copy_(torch.cat([part.bias for part in parts]))

    def _layer(self, weight: Tensor) -> PathLinear:
        layer = PathLinear(self.width, sum(self.outputs), self.ends, seed=0, kernel="gather")
        layer.weight.data.copy_(weight)
        return layer

    def rebuilt(self) -> Tensor:
        """Follow changes of the edges and return the new parameter."""
        bias = self.layer.bias
        self.layer = self._layer(self.layer.weight.data)
        self.layer.bias = bias
        return self.layer.weight

    def corner(self, r: int) -> Tensor:
        """Return the first input and the first output of a network, [2, 1]."""
        return torch.tensor([[self.first_input[r]], [self.first_output[r]]])

    def places(self, r: int) -> tuple[slice, slice, slice]:
        """Return where the edges, the outputs and the inputs of a network are."""
        pairs = zip(
            (self.first_edge, self.first_output, self.first_input),
            (self.edges, self.outputs, self.inputs),
            strict=True,
        )
        return tuple(slice(first[r], first[r] + n[r]) for first, n in pairs)

    def part(self, r: int) -> SparseLayer:
        """Return the layer of one network, a copy."""
        edges, outputs, _ = self.places(r)
        ends = self.ends[:, edges] - self.corner(r)
        weight, bias = self.layer.weight.detach(), self.layer.bias.detach()
        return SparseLayer(ends, weight[edges].clone(), bias[outputs].clone())


def _begins(sizes: Sequence[int]) -> list[int]:
    return [0, *accumulate(sizes)][: len(sizes)]


def _check(
    networks: Sequence[Network],
    data: Data,
    lrs: Sequence[float],
    evolutions: Sequence[Evolution | None],
    epochs: int,
    batch_size: int,
    at_once: int,
) -> None:
    if not networks:
        raise ValueError("networks is empty: there is nothing to train")
    if data.train is None or len(data.train) == 0:
        raise ValueError(f"data.train of {data.name} is empty: there is nothing to train on")
    for name, value in {"epochs": epochs, "batch_size": batch_size, "at_once": at_once}.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    for name, values in (("lrs", lrs), ("evolutions", evolutions)):
        if len(values) != len(networks):
            raise ValueError(f"{name} must be {len(networks)}, one a network, got {len(values)}")
    for lr in lrs:
        if not 0 < lr < math.inf:
            raise ValueError(f"lr must be positive and finite, got {lr}")
    if len({len(network) for network in networks}) > 1:
        raise ValueError("all networks of a stack must have as many layers: train others apart")
    for r, network in enumerate(networks):
        units = math.prod(data.shape)
        for number, (ends, weight, bias) in enumerate(network):
            where = f"network {r}, layer {number}"
            if ends.shape != (2, len(weight)) or len(weight) == 0:
                raise ValueError(f"{where}: ends must be [2, {len(weight)}], got {[*ends.shape]}")
            if (
                int(ends.min()) < 0
                or int(ends[0].max()) >= units
                or int(ends[1].max()) >= len(bias)
            ):
                raise ValueError(f"{where}: an edge does not join {units} to {len(bias)} units")
            key = ends[1] * units + ends[0]
            if (key[1:] <= key[:-1]).any():
                raise ValueError(f"{where}: edges must be sorted by output, then input, none twice")
            units = len(bias)
        if units != len(data.classes):
            raise ValueError(f"network {r} has {units} outputs for {len(data.classes)} classes")
