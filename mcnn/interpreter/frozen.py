"""A network at one input, written down operation by operation, with its decisions held."""

import operator
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.node import map_arg
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mcnn.errors import UsageError
from mcnn.interpreter import rules


class _Step(NamedTuple):
    """An operation that depends on the input; nodes among its arguments do so, too."""

    name: str
    run: rules.Replay
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class Frozen(nn.Module):
    """The affine map that a network is around one input.

    Attributes
    ----------
    output
        The network's own output at the input.
    smooth
        Names of operations whose gates are held where they bend, see
        :data:`mcnn.interpreter.rules.SMOOTH`.
    """

    def __init__(self, model: nn.Module, x: Tensor) -> None:
        super().__init__()
        graph, places = _written(model, x)
        self._steps: list[_Step] = []
        self.smooth: set[str] = set()
        values: dict[Node, Any] = {}
        moving: set[Node] = set()
        for node in graph.graph.nodes:
            if node.op == "placeholder":
                values[node] = x
                moving.add(node)
                self._input = node.name
            elif node.op == "get_attr":
                values[node] = getattr(graph, node.target)
            elif node.op == "call_function":
                self._add(node, values, moving, places)
            else:  # the output comes last
                (result,) = tree_leaves(node.args, is_leaf=lambda leaf: isinstance(leaf, Node))
                self.output = values[result].detach()
                self._result = result.name if result in moving else None

    def _add(
        self, node: Node, values: dict[Node, Any], moving: set[Node], places: dict[str, str]
    ) -> None:
        if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
            why = rules.WHY.get(rules.kind(node.target), rules.DROPS)
            raise UsageError(_refused(node, why, places))
        args = map_arg(node.args, values.__getitem__)
        kwargs = map_arg(node.kwargs, values.__getitem__)
        value = values[node] = node.target(*args, **kwargs)
        moves = tuple(_among(moving, arg) for arg in node.args)
        if not any(moves) and not _among(moving, node.kwargs):
            return
        if _decides(node, value):
            return
        if node.target is operator.getitem:
            run = node.target
        else:
            try:
                run = rules.rule(rules.Call(node.target, args, kwargs, moves, value))
                _check(run(*args, **kwargs), value)
            except rules.Refusal as why:
                raise UsageError(_refused(node, str(why), places)) from None
            self.smooth |= {rules.kind(node.target)} & rules.SMOOTH
        moving.add(node)

        def held(argument: Node) -> Any:
            return argument if argument in moving else values[argument]

        self._steps.append(
            _Step(node.name, run, map_arg(node.args, held), map_arg(node.kwargs, held))
        )

    def forward(self, v: Tensor) -> Tensor:
        """Send another input through the map; with decisions held it is affine."""
        if self._result is None:
            return self.output
        values: dict[str, Any] = {self._input: v}
        for step in self._steps:
            args, kwargs = (
                map_arg(a, lambda node: values[node.name]) for a in (step.args, step.kwargs)
            )
            values[step.name] = step.run(*args, **kwargs)
        return values[self._result]


def _check(held: Any, value: Any) -> None:
    """Refuse an operation whose rule gives another answer than it does, at the input itself."""
    results, own = tree_leaves(held), tree_leaves(value)
    if not all(map(_equals, results, own)):  # a rule may leave out the last ones of several
        raise rules.Refusal("held, it does not give its own answer")


def _equals(held: Tensor, right: Tensor) -> bool:
    held, right = held.detach(), right.detach()
    if held.shape != right.shape or not right.numel():
        return held.shape == right.shape
    if not right.is_floating_point():  # places, as of a maximum
        return torch.equal(held, right)
    least = torch.finfo(right.dtype).eps ** 0.5 * max(1.0, float(right.abs().max()))
    return torch.allclose(held, right, rtol=0, atol=least, equal_nan=True)


def _among(moving: set[Node], argument: Any) -> bool:
    found = []
    map_arg(argument, found.append)
    return any(node in moving for node in found)


def _decides(node: Node, value: Any) -> bool:
    """Whether what comes out is no real number, so that it stays as it is for a while."""
    tensors = [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]
    if not any(t.is_floating_point() for t in tensors):
        return True
    return node.target is not operator.getitem and rules.kind(node.target) in rules.DECISIONS


def _refused(node: Node, why: str, places: dict[str, str]) -> str:
    where = f" in layer {places[node.name]!r}" if places.get(node.name) else ""
    return f"{rules.kind(node.target)}{where} cannot be held linear: {why}"


def _written(model: nn.Module, x: Tensor) -> tuple[GraphModule, dict[str, str]]:
    """Return the operations of a model at an input, and the module that each belongs to.

    Raises
    ------
    UsageError
        If the model decides by values which way to go, or returns no single floating point tensor.
    """
    names: list[tuple[str, str]] = []

    def call(v: Tensor) -> Tensor:
        with _Noting(names, model):
            y = model(v.clone())  # a first layer that works in place would change the input
        if not isinstance(y, Tensor) or not y.is_floating_point():
            raise UsageError(f"the model must return one tensor of real numbers, got {_named(y)}")
        return y

    try:
        with torch.no_grad():
            graph = make_fx(torch.func.functionalize(call))(x)
    except RuntimeError as error:
        if "control" in str(error) or "item" in str(error):
            raise UsageError(
                "the model decides by values of the input which operations follow: give a model "
                "that always takes the same way"
            ) from error
        raise
    graph.graph.eliminate_dead_code()
    return graph, _placed(graph, names)


def _named(y: Any) -> str:
    return str(y.dtype) if isinstance(y, Tensor) else type(y).__name__


class _Noting(TorchDispatchMode):
    """Note each operation with the innermost module that it is called from."""

    def __init__(self, names: list[tuple[str, str]], model: nn.Module) -> None:
        super().__init__()
        self._names, self._model = names, model
        self._inside: list[str] = []
        self._hooks = ExitStack()

    def __enter__(self) -> "_Noting":
        for name, module in self._model.named_modules():
            self._hooks.enter_context(self._noted(name, module))
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        self._hooks.close()
        super().__exit__(*error)

    @contextmanager
    def _noted(self, name: str, module: nn.Module) -> Iterator[None]:
        before = module.register_forward_pre_hook(lambda *_: self._inside.append(name))
        after = module.register_forward_hook(lambda *_: self._left(), always_call=True)
        try:
            yield
        finally:
            before.remove()
            after.remove()

    def _left(self) -> None:
        self._inside.pop()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run an operation and note it."""
        where = self._inside[-1] if self._inside else ""
        self._names.append((rules.kind(func).rstrip("_"), where))
        return func(*args, **(kwargs or {}))


def _placed(graph: GraphModule, names: list[tuple[str, str]]) -> dict[str, str]:
    """Find the module of each node: the first relu of the graph is the first that was noted."""
    waiting: dict[str, list[str]] = {}
    for op, where in names:
        waiting.setdefault(op, []).append(where)
    places = {}
    for node in graph.graph.nodes:
        if node.op == "call_function" and node.target is not operator.getitem:
            queue = waiting.get(rules.kind(node.target).rstrip("_"), [])
            places[node.name] = queue.pop(0) if queue else ""
    return places
