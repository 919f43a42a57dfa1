"""PyTorch's tables of modules and operators for its own tests, and how ours are put into them.

The tables ship with PyTorch (``torch.testing._internal``), the tests that go through them do not.
:data:`CHECKS` are those of its ``test/test_modules.py``, written anew: each takes a :class:`Case`,
a layer with an input, and raises where the layer behaves otherwise than one of PyTorch's would.
"""

import copy
import importlib.util
import io
import pickle
import sys
import types
import unittest
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from mcnn.integral import Fourier, RecurrentLayer
from mcnn.linear import SampledLinear
from mcnn.partition import DropoutPartition, HashedPartition
from mcnn.paths import PathCNN, PathConv2d, PathLinear, PathMLP, PathResidual
from mcnn.randomness import DropConnect, Dropout, FourierFeatures
from mcnn.relu import HalfspaceLayer, MaxPool2d
from mcnn.residual import ResidualODE

ONE_TYPE = ("save_load", "swapped", "moving", "gradients", "zero_grad", "empty", "printing")


def types_of(check: str) -> tuple[torch.dtype, ...]:
    """Return the types that a check is made in, of those in PyTorch's table."""
    return (torch.float64,) if check in ONE_TYPE else (torch.float32, torch.float64)


@cache
def tables() -> types.SimpleNamespace:
    """Return PyTorch's tables, and its stricter checks of gradients; skip where it has none."""
    if importlib.util.find_spec("expecttest") is None:  # they import its base class of tests, only
        stub = types.ModuleType("expecttest")
        stub.TestCase = unittest.TestCase
        sys.modules["expecttest"] = stub
    try:
        from torch.testing._internal import common_methods_invocations as operators
        from torch.testing._internal import common_modules as modules
        from torch.testing._internal import common_nn, common_utils
    except ImportError as error:
        pytest.skip(f"PyTorch's tables need more than PyTorch here: {error}")
    finally:  # they forbid to set what other tests set
        torch.backends.__allow_nonbracketed_mutation_flag = True
    return types.SimpleNamespace(
        modules={info.module_cls: info for info in modules.module_db},
        operators={op.name: op for op in operators.op_db if not op.variant_test_name},
        legacy=common_nn,
        gradcheck=common_utils.gradcheck,
        gradgradcheck=common_utils.gradgradcheck,
    )


class Case(NamedTuple):
    """A layer, made anew at each call, with an input that PyTorch tests the one it replaces with.

    Attributes
    ----------
    make
        Makes the layer, with the options that factories have if there are any.
    args, kwargs
        Of its call.
    reference
        From the layer and the arguments to what it has to return, if that is known.
    info
        PyTorch's facts about the layer that it replaces, if it has any.
    dtype
        Of the input.
    batched
        Whether the input has examples along its first axis.
    """

    make: Callable[..., nn.Module]
    args: tuple[Tensor, ...]
    kwargs: dict[str, Tensor]
    reference: Callable[..., Any] | None
    info: Any
    dtype: torch.dtype
    batched: bool

    def layer(self, training: bool = True) -> nn.Module:
        """Return a layer of the type of the input, the same each time."""
        with torch.random.fork_rng():
            torch.manual_seed(1)
            return self.make().to(self.dtype).train(training)

    def call(self, layer: nn.Module) -> Tensor:
        """Call a copy of the layer, which does not take the step that partitions take."""
        with torch.random.fork_rng():
            return copy.deepcopy(layer)(*self.args, **self.kwargs)

    def inputs(self) -> list[Tensor]:
        return [*self.args, *self.kwargs.values()]

    def replaced(self, change: Callable[[Tensor], Tensor]) -> "Case":
        """Return the case with other inputs."""
        args = tuple(change(x) for x in self.args)
        return self._replace(args=args, kwargs={k: change(x) for k, x in self.kwargs.items()})


def same(a: Any, b: Any, **tolerance: float) -> None:
    torch.testing.assert_close(a, b, **tolerance)


# --- the checks of test_modules.py ----------------------------------------------------------------


def forward(case: Case) -> None:
    """The output is the reference's."""
    layer = case.layer()
    output = case.call(layer)
    if case.reference is not None:
        same(output, case.reference(layer, *case.args, **case.kwargs))


def factory_kwargs(case: Case) -> None:
    """``device=`` and ``dtype=`` reach every parameter and buffer that the layer makes."""
    if not [*case.make().parameters(), *case.make().buffers()]:
        return
    for device in ("cpu", "meta"):
        layer = case.make(device=device, dtype=case.dtype)
        for name, tensor in [*layer.named_parameters(), *layer.named_buffers()]:
            assert tensor.device.type == device, name
            assert not tensor.is_floating_point() or tensor.dtype == case.dtype, name
    with torch.device("meta"):
        layer = case.make()
    assert all(t.is_meta for t in [*layer.parameters(), *layer.buffers()])


def printing(case: Case) -> None:
    """``repr`` and ``str`` name the class."""
    layer = case.layer()
    assert type(layer).__name__ in repr(layer)
    assert repr(layer) == str(layer)


def save_load(case: Case) -> None:
    """Saved and loaded, it is the same: pickled whole, and by its state into another one."""
    layer = case.layer()
    for copied in (pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer), copy.copy(layer)):
        same(case.call(copied), case.call(layer))
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    for options in ({}, {"assign": True}):
        file.seek(0)
        other = case.make().to(case.dtype)
        with torch.no_grad():
            for p in other.parameters():
                p.zero_()
        same_keys = other.load_state_dict(torch.load(file, weights_only=True), **options)
        assert not [*same_keys.missing_keys, *same_keys.unexpected_keys]
        same(case.call(other), case.call(layer))
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    same(case.call(torch.load(file, weights_only=False)), case.call(layer))


def swapped(case: Case) -> None:
    """Loading and conversion work where PyTorch swaps parameters instead of writing to them."""
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        layer, other = case.layer(), case.layer()
        held = list(other.parameters())
        with torch.no_grad():
            for p in held:
                p.zero_()
        other.load_state_dict(layer.state_dict())
        assert all(a is b for a, b in zip(held, other.parameters(), strict=True))
        same(case.call(other), case.call(layer))
        other.double()
        assert all(a is b for a, b in zip(held, other.parameters(), strict=True))
        assert {p.dtype for p in other.parameters()} <= {torch.float64}
        same(case.call(other.to(case.dtype)), case.call(layer))
    finally:
        torch.__future__.set_swap_module_params_on_conversion(before)


def moving(case: Case) -> None:
    """``to`` keeps parameters; what went to no device comes back by ``to_empty`` and a state."""
    layer = case.layer()
    state, want = copy.deepcopy(layer.state_dict()), case.call(layer)
    held = list(layer.parameters())
    assert layer.to("cpu", case.dtype) is layer
    assert all(a is b for a, b in zip(held, layer.parameters(), strict=True))
    for p in layer.parameters():
        p.grad = torch.ones_like(p)
    layer.double()
    assert all(p.grad.dtype == torch.float64 for p in layer.parameters())
    layer.to(case.dtype).to("meta")
    assert all(t.is_meta for t in [*layer.parameters(), *layer.buffers()])
    layer.to_empty(device="cpu")
    layer.load_state_dict(state)
    same(case.call(layer), want, rtol=1e-5, atol=1e-5)  # nodes are drawn anew, in another type


def noncontiguous(case: Case) -> None:
    """Neither inputs nor gradients have to be contiguous, nor zeros that are one zero."""

    def apart(x: Tensor) -> Tensor:
        wide = torch.stack([torch.full_like(x, torch.nan), x.detach()], -1)
        return wide[..., 1].requires_grad_(x.requires_grad)

    def gradients(case: Case, layer: nn.Module, upstream: Tensor) -> list[Tensor]:
        layer = copy.deepcopy(layer)
        case = case.replaced(lambda x: x.detach().requires_grad_())  # of the same strides
        leaves = [*case.inputs(), *layer.parameters()]
        with torch.random.fork_rng():
            output = layer(*case.args, **case.kwargs)
        return [output, *torch.autograd.grad(output, leaves, upstream, allow_unused=True)]

    layer = case.layer()
    upstream = torch.randn_like(case.call(layer))
    want = gradients(case, layer, upstream)
    for inputs in (case, case.replaced(apart)):
        for given in (upstream, apart(upstream)):
            same(gradients(inputs, layer, given), want)
    ones = upstream.new_ones(()).expand_as(upstream)  # what a sum hands on, of strides zero
    same(gradients(case, layer, ones), gradients(case, layer, torch.ones_like(upstream)))


def memory_format(case: Case) -> None:
    """Outputs lie in memory as those of the layer that it replaces, and gradients as inputs."""
    layer = case.layer()
    want = case.call(layer)
    assert want.is_contiguous()
    want.view(-1)
    for dims, form in ((4, torch.channels_last), (5, torch.channels_last_3d)):
        if not all(x.dim() == dims for x in case.inputs()):
            continue
        last = case.replaced(lambda x, form=form: x.detach().to(memory_format=form))
        got = last.call(layer)
        same(got, want)
        if case.reference is not None:
            twin = case.reference(layer, *last.args, **last.kwargs)
            assert got.stride() == twin.stride()
        elif got.dim() == dims:
            assert got.is_contiguous(memory_format=form)
        if case.info is not None and case.info.module_memformat_affects_out:
            got = case.call(copy.deepcopy(layer).to(memory_format=form))
            same(got, want)


def gradients(case: Case) -> None:
    """First and second derivatives are right, also in forward mode and under ``vmap``."""
    layer = case.layer()
    names = [name for name, _ in layer.named_parameters()]
    case = case.replaced(lambda x: x.detach().requires_grad_())
    n, inputs = len(case.args), case.inputs()

    def function(*tensors: Tensor) -> Tensor:
        given, parameters = tensors[: len(inputs)], tensors[len(inputs) :]
        kwargs = dict(zip(case.kwargs, given[n:], strict=True))
        held = dict(zip(names, parameters, strict=True))
        return functional_call(copy.deepcopy(layer), held, given[:n], kwargs)

    parameters = [p.detach().requires_grad_() for p in layer.parameters()]
    every = (*inputs, *parameters)
    if case.info is None and layer.training and len(parameters) > 4:  # networks: made of the others
        tables().gradcheck(function, every, check_batched_grad=False)
        return
    tables().gradcheck(function, every, check_forward_ad=True)
    tables().gradgradcheck(function, every, check_fwd_over_rev=True)


def transforms(case: Case) -> None:
    """``torch.func``: gradients of each example, as those of a batch of one."""
    if not case.batched or not case.args:
        return
    for training in (False, True):
        layer = case.layer(training)
        if not (training and any(isinstance(m, nn.BatchNorm2d) for m in layer.modules())):
            of_examples(case, layer)  # statistics of a batch are of no example


def of_examples(case: Case, layer: nn.Module) -> None:
    held = {name: p.detach() for name, p in layer.named_parameters()}

    def loss(held: dict[str, Tensor], x: Tensor) -> Tensor:
        one = copy.deepcopy(layer)  # masks are those of the next step, and it is not taken
        return functional_call(one, held, (x.unsqueeze(0), *case.args[1:])).square().sum()

    each = vmap(grad(loss), (None, 0))(held, case.args[0])
    for name in held:
        want = torch.stack([grad(loss)(held, x)[name] for x in case.args[0]])
        same(each[name], want, rtol=1e-4, atol=1e-4)


def modes(case: Case) -> None:
    """Training and evaluation differ where the facts say so, and come back; no gradient is lost."""
    layer = case.layer()
    assert layer.training
    assert layer.eval() is layer
    assert not any(m.training for m in layer.modules())
    same(case.call(layer), case.call(layer))
    case.call(layer.train()).sum()
    assert all(m.training for m in layer.modules())
    if case.reference is not None and not case.info.train_and_eval_differ:
        same(case.call(layer.train()), case.call(layer.eval()))


def zero_grad(case: Case) -> None:
    """Gradients come to all parameters, go with ``zero_grad``, and none comes to frozen ones."""
    layer = case.layer()
    if not list(layer.parameters()):
        return
    layer(*case.args, **case.kwargs).sum().backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in layer.parameters())
    layer.zero_grad()
    assert all(p.grad is None for p in layer.parameters())
    layer.requires_grad_(False)
    output = layer(*case.args, **case.kwargs)
    assert not output.requires_grad
    x = case.replaced(lambda x: x.detach().requires_grad_())
    layer(*x.args, **x.kwargs).sum().backward()
    assert all(p.grad is None for p in layer.parameters())


def not_in_place(case: Case) -> None:
    """The input is left as it is, and the output is no view of it that a later one may change."""
    layer = case.layer()
    before = [x.clone() for x in case.inputs()]
    versions = [x._version for x in case.inputs()]
    output = layer(*case.args, **case.kwargs)
    assert [x._version for x in case.inputs()] == versions
    same(case.inputs(), before)
    output.detach().zero_()
    same(case.inputs(), before)
    # What the backward pass needs is not what comes out: the next layer may write there.
    leaf = case.replaced(lambda x: x.detach().requires_grad_())
    want = case.layer()(*leaf.args, **leaf.kwargs)
    want = torch.autograd.grad((want * 2).sum(), leaf.inputs())
    output = case.layer()(*leaf.args, **leaf.kwargs)
    if output.requires_grad and not any(output is x for x in leaf.inputs()):
        same(torch.autograd.grad(output.mul_(2).sum(), leaf.inputs()), want)


def empty(case: Case) -> None:
    """An empty batch goes through and back, and leaves zeros."""
    if not case.batched:
        return
    layer = case.layer()
    nothing = case.inputs()[0].detach()[:0].requires_grad_()
    output = layer(nothing)
    assert output.shape == (0, *case.call(layer).shape[1:])
    output.backward(torch.rand_like(output))
    same(nothing.grad, torch.zeros_like(nothing))
    assert all((p.grad == 0).all() for p in layer.parameters())


CHECKS = {
    check.__name__: check
    for check in (
        forward,
        factory_kwargs,
        printing,
        save_load,
        swapped,
        moving,
        noncontiguous,
        memory_format,
        gradients,
        transforms,
        modes,
        zero_grad,
        not_in_place,
        empty,
    )
}


# --- ours in PyTorch's tables ---------------------------------------------------------------------


def every_path(inputs: int, outputs: int) -> Tensor:
    units = (torch.arange(n, device="cpu") for n in (inputs, outputs))
    return torch.cartesian_prod(*units).T


def path_linear(i: int, o: int, bias: bool = True, **options: Any):
    return PathLinear(i, o, 2 * max(i, o), seed=1, bias=bias, **options)


def path_blocks(i: int, o: int, bias: bool = True, **options: Any):
    """Two complete blocks, where the sizes allow it."""
    if i % 2 or o % 2:
        return path_linear(i, o, bias, **options)
    halves = [  # of the units, joined to each other
        every_path(i // 2, o // 2) + torch.tensor([[h * i // 2], [h * o // 2]], device="cpu")
        for h in (0, 1)
    ]
    paths = torch.cat(halves, 1)
    return PathLinear(i, o, paths, seed=1, bias=bias, kernel="blocks", **options)


def path_conv(i: int, o: int, k: Any, *args: Any, kernel: str, **options: Any):
    names = ("stride", "padding", "dilation", "groups", "bias", "padding_mode")
    options |= dict(zip(names, args, strict=False))
    return PathConv2d(i, o, k, 2 * max(i, o), seed=1, kernel=kernel, **options)


def sampled_linear(i: int, o: int, bias: bool = True, **options: Any):
    return SampledLinear.from_linear(nn.Linear(i, o, bias, **options), samples=6)


def drop_connect(i: int, o: int, bias: bool = True, **options: Any):
    return DropConnect(i, o, bias, seed=1, **options)


class Layer(NamedTuple):
    """One of ours: what it stands in place of, and how it is made from the arguments of that.

    ``example`` is the number of axes of an input without a batch.
    Without a class that it replaces, ``shapes`` are those of its inputs.
    """

    make: Callable[..., nn.Module]
    replaces: type[nn.Module] | None
    example: int
    shapes: tuple[tuple[int, ...], ...] = ()
    exact: bool = True  # whether a call is what the replaced layer's would be


def of(function: Callable[..., nn.Module], *first: Any, **options: Any) -> Callable[..., nn.Module]:
    return lambda *args, **kwargs: function(*first, *args, **kwargs, **options)


def fourier() -> Fourier:
    return Fourier(1, 1, 4, torch.Generator().manual_seed(0))


def at_nodes(**options: Any) -> nn.Module:
    kernel = fourier().to(**options)
    return RecurrentLayer(kernel, n=8, seed=1, steps=2, **options)


LAYERS = {
    "PathLinear, gather": Layer(of(path_linear, kernel="gather"), nn.Linear, 1),
    "PathLinear, blocks": Layer(path_blocks, nn.Linear, 1),
    "PathLinear, dense": Layer(of(path_linear, kernel="dense"), nn.Linear, 1),
    "PathLinear, kept": Layer(of(path_linear, duplicates="keep"), nn.Linear, 1),
    "PathLinear, signs": Layer(of(path_linear, fixed_signs=True), nn.Linear, 1),
    "SampledLinear": Layer(sampled_linear, nn.Linear, 1),
    "DropConnect": Layer(drop_connect, nn.Linear, 1, exact=False),
    "PathConv2d, gather": Layer(of(path_conv, kernel="gather"), nn.Conv2d, 3),
    "PathConv2d, dense": Layer(of(path_conv, kernel="dense"), nn.Conv2d, 3),
    "MaxPool2d, exact": Layer(MaxPool2d, nn.MaxPool2d, 3),
    "MaxPool2d, skip": Layer(of(MaxPool2d, form="skip"), nn.MaxPool2d, 3),
    "MaxPool2d, symmetric": Layer(of(MaxPool2d, form="symmetric"), nn.MaxPool2d, 3),
    "DropoutPartition": Layer(of(DropoutPartition, p=1 / 3, seed=1), None, 1, ((3, 5), (2, 3, 4))),
    "DropoutPartition, channels": Layer(
        of(DropoutPartition, p=1 / 3, seed=1, channels=True, per_sample=True),
        None,
        3,
        ((3, 4), (2, 3, 4, 5)),
    ),
    "HashedPartition": Layer(of(HashedPartition, p=1 / 3, seed=1), None, 1, ((3, 5), (2, 3, 4))),
    "Dropout": Layer(of(Dropout, 5, seed=1), None, 1, ((3, 5), (2, 3, 5))),
    "PathMLP": Layer(of(PathMLP, [6, 8, 4], 16, seed=1), None, 1, ((3, 6),)),
    "PathResidual": Layer(of(PathResidual, 4, 4, 16, seed=1), None, 3, ((2, 4, 6, 6),)),
    "PathCNN": Layer(of(PathCNN, [3, 4], 4, 16, seed=1, blocks=1), None, 3, ((2, 3, 4, 4),)),
    "ResidualODE": Layer(of(ResidualODE, 6, 8, 2, seed=1), None, 1, ((3, 6), (2, 3, 6), (6,))),
    "ResidualODE, dopri5": Layer(of(ResidualODE, 6, 8, 2, "dopri5", seed=1), None, 1, ((3, 6),)),
    "ResidualODE, verlet": Layer(
        of(ResidualODE, 6, 8, 2, "verlet", structure="hamiltonian", seed=1), None, 1, ((3, 6),)
    ),
    "RecurrentLayer": Layer(at_nodes, None, 1, ((3, 8),)),
    "FourierFeatures": Layer(of(FourierFeatures, 3, 4, seed=1), None, 1, ((5, 3), (3,), (2, 5, 3))),
    "HalfspaceLayer": Layer(
        lambda **o: HalfspaceLayer(torch.arange(1.0, 4).to(**o), 0.5), None, 1, ((5, 3), (3,))
    ),
}


def cases(name: str, dtype: torch.dtype) -> Iterator[tuple[str, Case]]:
    """Yield the inputs of PyTorch's table for the layer that this one replaces."""
    layer = LAYERS[name]
    info = tables().modules.get(layer.replaces)
    if info is None:
        for shape in layer.shapes:
            args = (torch.randn(shape, dtype=dtype),)
            yield (
                str(shape),
                Case(layer.make, args, {}, None, None, dtype, len(shape) > layer.example),
            )
        return
    inputs = info.module_inputs_func(
        info, device="cpu", dtype=dtype, requires_grad=False, training=True
    )
    for given in inputs:
        args, kwargs = given.constructor_input.args, given.constructor_input.kwargs
        if "return_indices" in kwargs:
            continue  # refused, as another test has it
        make = of_arguments(layer.make, args, kwargs)
        reference = reference_of(given, layer) if layer.exact else None
        call = given.forward_input
        first = next(iter([*call.args, *call.kwargs.values()]))
        yield (
            f"{args} {kwargs} {given.desc}",
            Case(make, call.args, call.kwargs, reference, info, dtype, first.dim() > layer.example),
        )


def refused(name: str) -> Iterator[tuple[Callable[..., nn.Module], Any]]:
    """Yield what PyTorch's own layer raises at, as its table says: how it is made, and called."""
    layer = LAYERS[name]
    info = tables().modules[layer.replaces]
    options = {"dtype": torch.float32, "requires_grad": False, "training": True}
    for error in info.module_error_inputs_func(info, device="cpu", **options):
        given = error.module_error_input
        built = given.constructor_input
        yield of_arguments(layer.make, built.args, built.kwargs), given.forward_input


def of_arguments(make, args, kwargs):
    return lambda **options: make(*args, **kwargs, **options)


def reference_of(given: Any, layer: Layer) -> Callable[..., Tensor]:
    """Return what the layer of PyTorch's with the same weights returns, by its own test's words."""

    def reference(module: nn.Module, *args: Tensor, **kwargs: Tensor) -> Tensor:
        built = given.constructor_input
        twin = (
            module.to_dense()
            if hasattr(module, "to_dense")
            else layer.replaces(*built.args, **built.kwargs)
        )
        with torch.no_grad():
            want = twin(*args, **kwargs)
            if given.reference_fn is not None:
                same(given.reference_fn(twin, *args, **kwargs), want)
        return want

    return reference
