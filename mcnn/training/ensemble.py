r"""Many small networks of one shape trained as one: seeds and settings side by side.

A small network leaves a processor half idle, for most of a step is overhead and memory traffic.
Networks of one shape can share their steps: their weights are stacked, :math:`[R,\dots]`, a step is
taken for all :math:`R` with ``torch.func.vmap``, and the loss is the sum of the :math:`R` losses,

.. math::

   \nabla_{w_r}\sum_{s=1}^R L_s(w_s)=\nabla_{w_r}L_r(w_r),

so that the gradient of each network is its own.
Nothing passes from one to another: :func:`fit` gives every network the weights that
:func:`mcnn.training.fit` would give it alone, with its own seed and learning rate, up to rounding.

On a GPU a step is recorded as a CUDA graph and replayed, without the overhead of its launches.
On a CPU one process a core (``mcnn run --jobs``) mostly is the better way; the benchmark
``training-replicas`` says by how much.
Where all of them are too many for its memory, they train in parts, one after the other.

Source: R. Zou et al.: torch.func, composable function transforms for PyTorch, 2022, on ensembles.
"""

import copy
import gc
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn, optim
from torch.func import functional_call, stack_module_state, vmap
from torch.nn import functional as F
from tqdm import tqdm

from mcnn.data import Data, Split
from mcnn.data.split import batch_indices
from mcnn.training.fit import OPTIMIZERS, SCHEDULES, DivergenceError, Evaluation, choose

T = TypeVar("T")


def fit(
    models: Sequence[nn.Module],
    data: Data,
    *,
    epochs: int,
    seeds: Sequence[int],
    batch_size: int = 128,
    optimizer: str = "sgd",
    lr: float | Sequence[float] = 0.05,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    schedule: str = "cosine",
    scale: str = "unit",
    evaluate_each: bool = False,
    graphs: bool = True,
    desc: str = "train",
) -> list[list[dict[str, Any]]]:
    """Train networks of one shape in place, each as :func:`mcnn.training.fit` would alone.

    Parameters
    ----------
    models
        R networks that differ in nothing but their numbers, on the device of the data.
        They may have batch normalisation and dropout partitions of one seed, but not draw from
        PyTorch's generators (``nn.Dropout``), nor keep state that ``state_dict`` does not save.
    data
        What all are trained on.
    epochs, batch_size, momentum, weight_decay, scale, evaluate_each, desc
        As in :func:`mcnn.training.fit`, for all.
    seeds
        R integers: of the order of the images.
        Networks that share one seed see the same batches, which are then read once.
    optimizer
        One of :data:`mcnn.training.fit.OPTIMIZERS`.
    lr
        The learning rate of all, or R of them.
    schedule
        One of :data:`mcnn.training.fit.SCHEDULES`; every learning rate follows it.
    graphs
        On a GPU, replay a step as a CUDA graph; False for networks that wait for the GPU within.

    Returns
    -------
    list of list of dict
        For each network the rows of :func:`mcnn.training.fit`.

    Raises
    ------
    ValueError
        For an unknown name, a number out of range, no images, networks that differ in more than
        their numbers, or that draw random numbers.
    DivergenceError
        If a loss becomes infinite or NaN; the networks are left as they were.
    torch.OutOfMemoryError
        If not even one network fits into the memory of the GPU.

    Warns
    -----
    UserWarning
        If fewer networks than all are trained at a time, because memory is short.

    Examples
    --------
    >>> from mcnn.training import nets
    >>> from mcnn.data import load
    >>> models = [nets.build("mlp", seed=s, widths=(64, 10)) for s in range(3)]
    >>> rows = fit(models, load("digits"), epochs=1, seeds=range(3), lr=[0.1, 0.1, 0.2])
    >>> len(rows), sorted(rows[0][0])
    (3, ['epoch', 'loss', 'train_accuracy'])
    """
    rates = [lr] * len(models) if isinstance(lr, int | float) else [float(r) for r in lr]
    _check(models, seeds, rates, optimizer, schedule, epochs, batch_size)
    if data.train is None or len(data.train) == 0:
        raise ValueError(f"data.train of {data.name} is empty: there is nothing to train on")
    options = (epochs, batch_size, optimizer, momentum, weight_decay, schedule, scale)

    def run(part: slice) -> tuple[_Stack, list[list[dict[str, Any]]]]:
        some = (models[part], data, seeds[part], rates[part], part.start)
        return _trained(*some, *options, evaluate_each, graphs, desc)

    rows: list[list[dict[str, Any]]] = []
    stacks = []
    for part, (stack, found) in _parts(len(models), run):
        stacks.append((part, stack))
        rows += found
    for part, stack in stacks:  # all or none
        stack.copy_to(models[part])
    return rows


def _parts(count: int, run: Callable[[slice], T]) -> Iterator[tuple[slice, T]]:
    """Run all of some networks at once, or as many at a time as memory allows."""
    first, size = 0, count
    while first < count:
        part = slice(first, min(first + size, count))
        try:
            done = run(part)
        except RuntimeError as error:
            if part.stop - first == 1 or not _out_of_memory(error):
                raise
            size = -(-(part.stop - first) // 2)
        else:
            yield part, done
            first = part.stop
            continue
        # Only here is all gone that the error held, and the tensors of the attempt with it.
        gc.collect()
        torch.cuda.empty_cache()
        text = f"memory is short for {part.stop - first} networks at a time: going on with {size}"
        warnings.warn(text, stacklevel=3)


def _out_of_memory(error: BaseException | None) -> bool:
    """Whether memory was short; while a graph is recorded, another error follows on that."""
    while error is not None and not isinstance(error, torch.OutOfMemoryError):
        error = error.__context__
    return error is not None


def _trained(
    models: Sequence[nn.Module],
    data: Data,
    seeds: Sequence[int],
    rates: Sequence[float],
    first: int,
    epochs: int,
    batch_size: int,
    optimizer: str,
    momentum: float,
    weight_decay: float,
    schedule: str,
    scale: str,
    evaluate_each: bool,
    graphs: bool,
    desc: str,
) -> tuple["_Stack", list[list[dict[str, Any]]]]:
    """Train the networks from the ``first`` on and return their numbers and their rows."""
    n = len(data.train)
    steps = epochs * math.ceil(n / batch_size)
    stack = _Stack(models)
    graphs = graphs and data.device.type == "cuda"
    stepper = _Optimizer(optimizer, stack.trained, momentum, weight_decay, graphs)
    train = _Step(stack, stepper, data.train, scale, batch_size, graphs)
    table = torch.tensor(list(_factors(schedule, steps)), dtype=torch.float64)  # [steps]
    table = table.unsqueeze(1) * torch.tensor(rates, dtype=torch.float64)  # [steps, R]
    rates_of_steps = iter(table.to(data.device, stack.dtype))
    shared = len(set(seeds)) == 1
    generators = [torch.Generator().manual_seed(s) for s in (seeds[:1] if shared else seeds)]

    rows: list[list[dict[str, Any]]] = [[] for _ in models]
    with tqdm(total=steps, desc=desc, disable=None, leave=False) as bar:
        for epoch in range(1, epochs + 1):
            train.begin()
            orders = (batch_indices(n, batch_size, g, False, data.device) for g in generators)
            for batches in zip(*orders, strict=True):
                index = batches[0] if shared else torch.stack(batches)  # [b] or [R, b]
                train(index, next(rates_of_steps))
                bar.update()
            losses = (train.loss_sum / n).tolist()
            bad = [r for r, loss in enumerate(losses) if not math.isfinite(loss)]
            if bad:
                raise DivergenceError(
                    f"the training loss of network {first + bad[0]} became {losses[bad[0]]} in "
                    f"epoch {epoch} with lr={rates[bad[0]]}: choose a smaller lr"
                )
            tests = stack.evaluate(data.test, scale) if evaluate_each else None
            for r, hits in enumerate(train.hits.tolist()):
                row = {"epoch": epoch, "loss": losses[r], "train_accuracy": hits / n}
                if tests is not None:
                    row["test_accuracy"], row["test_loss"] = tests[r]
                rows[r].append(row)
    return stack, rows


def evaluate(
    models: Sequence[nn.Module], split: Split, scale: str = "unit", batch_size: int = 1000
) -> list[Evaluation]:
    """Test networks of one shape together, as :func:`mcnn.training.evaluate` does one.

    Parameters
    ----------
    models
        As of :func:`fit`.
    split, scale, batch_size
        As of :func:`mcnn.training.evaluate`.

    Returns
    -------
    list of Evaluation
        One a network.

    Raises
    ------
    ValueError
        For an empty split, or networks that differ in more than their numbers.
    """
    _check_alike(models)
    parts = _parts(len(models), lambda p: _Stack(models[p]).evaluate(split, scale, batch_size))
    return [score for _, scores in parts for score in scores]


class _Stack:
    """The parameters and buffers of R networks, [R, ...] each, and one network without any."""

    def __init__(self, models: Sequence[nn.Module]) -> None:
        self.parameters, self.buffers = stack_module_state(list(models))
        self.trained = [p for p in self.parameters.values() if p.requires_grad]
        self.dtype = next(iter(self.parameters.values())).dtype
        self.skeleton = copy.deepcopy(models[0]).to("meta")

    def logits(self, x: Tensor, shared: bool, training: bool) -> Tensor:
        """Return [R, b, classes] for images [R, b, c, h, w], or [b, c, h, w] for all of them."""
        self.skeleton.train(training)

        def one(parameters: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor) -> Tensor:
            return functional_call(self.skeleton, (parameters, buffers), (x,))

        try:
            many = vmap(one, (0, 0, None if shared else 0), randomness="error")
            return many(self.parameters, self.buffers, x)
        except RuntimeError as error:
            if "randomness" not in str(error):
                raise
            raise ValueError(
                "the networks draw random numbers in their forward pass, as dropout does, which "
                "would not be those of a run of its own: train them with mcnn.training.fit"
            ) from error

    @torch.no_grad()
    def evaluate(self, split: Split, scale: str, batch_size: int = 1000) -> list[Evaluation]:
        """Return accuracy and mean loss of each network on all images of a split."""
        if len(split) == 0:
            raise ValueError("split is empty: there is nothing to test on")
        hits, loss = 0, 0.0
        for x, y in split.batches(batch_size, scale=scale):
            logits = self.logits(x, shared=True, training=False)  # [R, b, classes]
            many = y.expand(len(logits), -1)  # [R, b]
            loss += _losses(logits, many).double() * len(y)  # [R]
            hits += (logits.argmax(2) == many).sum(1)
        pairs = zip(
            (hits.double() / len(split)).tolist(), (loss / len(split)).tolist(), strict=True
        )
        return [Evaluation(*pair) for pair in pairs]

    @torch.no_grad()
    def copy_to(self, models: Sequence[nn.Module]) -> None:
        """Give each network its numbers."""
        for r, model in enumerate(models):
            model.train()
            for name, p in model.named_parameters():
                p.copy_(self.parameters[name][r])
            for name, b in model.named_buffers():
                b.copy_(self.buffers[name][r])
            for mine, common in zip(model.modules(), self.skeleton.modules(), strict=True):
                if type(mine).get_extra_state is not nn.Module.get_extra_state:
                    mine.set_extra_state(common.get_extra_state())


def _losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross entropy of each network, [R], from [R, b, classes] and [R, b]."""
    return (
        F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
        .view_as(labels)
        .mean(1)
    )


class _Optimizer:
    """One of :mod:`torch.optim`, with a learning rate for each network.

    PyTorch's take one rate for a tensor, and a tensor here holds all networks.
    So they optimize *moves* that begin at zero, with the rate 1; what comes out of a step is added
    to the parameters, times the rate of each network.
    Beside the rules written out by hand, on a core of an AMD EPYC, a training by SGD takes 5 % more
    time, and one by Adam up to 20 % less.
    """

    def __init__(
        self, name: str, parameters: list[Tensor], momentum: float, decay: float, graphs: bool
    ) -> None:
        self.parameters, self.decay = parameters, decay
        self.moves = [torch.zeros_like(p) for p in parameters]
        self.optimizer = OPTIMIZERS[name](self.moves, 1.0, momentum, 0.0)
        for group in self.optimizer.param_groups:
            group["foreach"] = True
            if graphs and "capturable" in group:  # a recorded step must count on the device
                group["capturable"] = True

    @torch.no_grad()
    def step(self, grads: Sequence[Tensor], rate: Tensor) -> None:
        if self.decay:  # by hand, for it is the parameter that decays, not its move
            grads = torch._foreach_add(grads, self.parameters, alpha=self.decay)
        for move, grad in zip(self.moves, grads, strict=True):
            move.grad = grad
        self.optimizer.step()
        for p, move in zip(self.parameters, self.moves, strict=True):
            p.addcmul_(move, _along(rate, p))
        torch._foreach_zero_(self.moves)


def _along(rate: Tensor, p: Tensor) -> Tensor:
    return rate.view(-1, *[1] * (p.ndim - 1))  # [R, 1, ...]


class _Step:
    """A training step of all networks; on a GPU recorded as a graph, and replayed from then on."""

    WARM = 3  # steps before the recording, in which libraries choose their kernels

    def __init__(
        self,
        stack: _Stack,
        optimizer: _Optimizer,
        split: Split,
        scale: str,
        batch: int,
        graphs: bool,
    ) -> None:
        self.stack, self.optimizer, self.split, self.scale = stack, optimizer, split, scale
        self.batch, self.graphs, self.calls = batch, graphs, 0
        self.graph: torch.cuda.CUDAGraph | None = None
        replicas = len(stack.trained[0])
        self.loss_sum = torch.zeros(replicas, dtype=torch.float64, device=split.device)
        self.hits = torch.zeros(replicas, dtype=torch.int64, device=split.device)

    def begin(self) -> None:
        """Begin the sums of an epoch: a recorded step adds to these tensors, so they stay."""
        self.loss_sum.zero_()
        self.hits.zero_()

    def __call__(self, index: Tensor, rate: Tensor) -> None:
        """Train on the images of an index, [b] or [R, b], with learning rates [R]."""
        if not self.graphs or index.shape[-1] != self.batch:  # the last batch may be smaller
            self._train(index, rate)
            return
        if self.calls == 0:
            self.index, self.rate = index.clone(), rate.clone()
        self.index.copy_(index)
        self.rate.copy_(rate)
        with torch.cuda.device(self.index.device):
            if self.calls < self.WARM:
                stream, current = torch.cuda.Stream(), torch.cuda.current_stream()
                stream.wait_stream(current)
                with torch.cuda.stream(stream):
                    self._train(self.index, self.rate)
                current.wait_stream(stream)
            else:
                if self.graph is None:
                    self.graph = torch.cuda.CUDAGraph()
                    with torch.cuda.graph(self.graph):  # recorded, not run
                        self._train(self.index, self.rate)
                self.graph.replay()
        self.calls += 1

    def _train(self, index: Tensor, rate: Tensor) -> None:
        shared = index.ndim == 1
        x = self.split.inputs(index.flatten(), self.scale)  # [b or R b, c, h, w]
        x = x if shared else x.unflatten(0, index.shape)
        logits = self.stack.logits(x, shared, training=True)  # [R, b, classes]
        y = self.split.labels[index].expand(len(logits), -1)  # [R, b]
        losses = _losses(logits, y)  # [R]
        self.optimizer.step(torch.autograd.grad(losses.sum(), self.stack.trained), rate)
        self.loss_sum += losses.detach() * y.shape[1]
        self.hits += (logits.argmax(2) == y).sum(1)


def _factors(schedule: str, steps: int) -> Iterator[float]:
    """Yield the learning rate of each step for one that begins or peaks at 1."""
    optimizer = optim.SGD([nn.Parameter(torch.zeros(()))], 1.0)
    scheduler = SCHEDULES[schedule](optimizer, 1.0, steps)
    for _ in range(steps):
        yield optimizer.param_groups[0]["lr"]
        optimizer.step()
        scheduler.step()


def _check(
    models: Sequence[nn.Module],
    seeds: Sequence[int],
    rates: Sequence[float],
    optimizer: str,
    schedule: str,
    epochs: int,
    batch_size: int,
) -> None:
    _check_alike(models)
    choose("optimizer", optimizer, OPTIMIZERS)
    choose("schedule", schedule, SCHEDULES)
    for name, number in (("epochs", epochs), ("batch_size", batch_size)):
        if number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}")
    for name, values in (("seeds", seeds), ("lr", rates)):
        if len(values) != len(models):
            raise ValueError(f"{name} must be {len(models)}, one a network, got {len(values)}")
    for rate in rates:
        if not 0 < rate < math.inf:
            raise ValueError(f"lr must be positive and finite, got {rate}")


def _check_alike(models: Sequence[nn.Module]) -> None:
    if not models:
        raise ValueError("models is empty: there is nothing to train")
    if len({id(m) for m in models}) < len(models):
        raise ValueError("models must be different objects: use copy.deepcopy")
    first = _shape(models[0])
    for r, model in enumerate(models):
        for a, b in zip(first, _shape(model), strict=False):
            if a != b:
                raise ValueError(f"network {r} is not like network 0: it has {b}, not {a}")
        if len(first) != len(_shape(model)):
            raise ValueError(f"network {r} has more or fewer layers or tensors than network 0")


def _shape(model: nn.Module) -> list[str]:
    """Describe all of a network but its numbers."""
    lines = [line.strip() for line in repr(model).splitlines()]
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    for name, t in [*model.named_parameters(), *model.named_buffers()]:
        kind = "trained" if name in trained else "fixed"
        lines.append(f"{name}: {kind}, {t.dtype} {list(t.shape)} on {t.device}")
    return lines + [
        f"{k}: {v}" for k, v in model.state_dict().items() if k.endswith("_extra_state")
    ]
