"""Networks of paths for other engines: operations that all have, and the 2:4 pattern of GPUs."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from mcnn.errors import naming_extra, unknown
from mcnn.modelwise import deepcopied, exchanged
from mcnn.paths.nets import PathMLP
from mcnn.sparse.layer import SparseLayer, SparseLinear


class GatherLinear(nn.Module):
    """A sparse linear layer as plain operations: gather inputs, multiply, add into outputs.

    Slower in PyTorch, but made of operations that any engine has, and without zeros to store.

    Parameters
    ----------
    layer
        Whose weights are copied.
    """

    def __init__(self, layer: SparseLinear) -> None:
        super().__init__()
        edges, weights = layer.edges, layer.weights().detach()
        self.weight = nn.Parameter(weights.clone())  # [edges]
        bias = weights.new_zeros(layer.out_features) if layer.bias is None else layer.bias
        self.bias = nn.Parameter(bias.detach().clone())
        self.register_buffer("inputs", edges.inputs.long())
        self.register_buffer("outputs", edges.outputs.long())

    def forward(self, x: Tensor) -> Tensor:
        """Return the output [..., out_features] of an input [..., in_features]."""
        taken = x[..., self.inputs] * self.weight  # [..., edges]
        y = self.bias.expand(*x.shape[:-1], -1).clone()
        return y.scatter_add(-1, self.outputs.expand(taken.shape), taken)


def to_dense_model(model: nn.Module) -> nn.Module:
    """Return a network of dense layers, zeros included, that computes the same.

    Parameters
    ----------
    model
        Any module with sparse layers inside, of paths or of samples; not changed.

    Returns
    -------
    Module
        In evaluation mode.

    Examples
    --------
    >>> to_dense_model(PathMLP([8, 8, 4], paths=16))[1]
    Linear(in_features=8, out_features=8, bias=True)
    """
    return _converted(model, lambda layer: layer.to_dense()).eval()


def to_gather_model(model: nn.Module) -> nn.Module:
    """Return a network of :class:`GatherLinear` layers, with as many numbers as edges.

    Parameters
    ----------
    model
        As of :func:`to_dense_model`.

    Returns
    -------
    Module
        In evaluation mode.

    Raises
    ------
    ValueError
        For a convolution of paths.
    """
    return _converted(model, _gathered).eval()


FORMS = {"gather": to_gather_model, "dense": to_dense_model}


def _gathered(layer: SparseLayer) -> GatherLinear:
    if not isinstance(layer, SparseLinear):
        raise ValueError("convolutions of paths have no gather form: take form='dense'")
    return GatherLinear(layer)


def _converted(model: nn.Module, convert: Callable[[SparseLayer], nn.Module]) -> nn.Module:
    def converted(layer: SparseLayer) -> nn.Module:
        made = convert(layer)
        frozen = not any(p.requires_grad for p in layer.parameters())
        return made.requires_grad_(False) if frozen else made

    def new(name: str, module: nn.Module) -> nn.Module | None:
        if isinstance(module, PathMLP):
            layers = [m for layer in module.layers for m in (converted(layer), nn.ReLU())]
            return nn.Sequential(nn.Flatten(), *layers[:-1])
        return converted(module) if isinstance(module, SparseLayer) else None

    return exchanged(deepcopied(model), new)


def export_onnx(model: nn.Module, example: Tensor, file: str | Path, form: str = "gather") -> None:
    """Write a network as an ONNX file that takes any batch size.

    Parameters
    ----------
    model
        As of :func:`to_dense_model`; not changed.
    example
        An input, [batch, ...].
    file
        Where to write.
    form
        ``"gather"``, as :func:`to_gather_model`, or ``"dense"``, as :func:`to_dense_model`.

    Raises
    ------
    MissingExtraError
        Without the packages onnx and onnxscript; an ``ImportError``, too.
    ValueError
        For an unknown form, or a convolution of paths with ``"gather"``.
    """
    if form not in FORMS:
        raise unknown("form", form, FORMS)
    with naming_extra():
        torch.onnx.export(
            FORMS[form](model),
            (example,),
            str(file),
            input_names=["x"],
            output_names=["y"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            verbose=False,
        )


@dataclass(frozen=True)
class TwoFour:
    """Weights with at most two that are not zero in every four neighbours of a row.

    Attributes
    ----------
    weight
        [out_features, in_features], as ``to_sparse_semi_structured`` takes it.
    edges
        How many weights were not zero.
    lost
        How many of those had to become zero.
    lost_energy
        Their share of the sum of squares.
    """

    weight: Tensor
    edges: int
    lost: int
    lost_energy: float


def two_four(layer: SparseLinear) -> TwoFour:
    """Force a layer into the 2:4 pattern that GPUs multiply fast, and say what that loses.

    Of four neighbouring weights of a row the two largest stay.
    Sparse layers mostly fit as they are; the pattern stores half of all weights, however few there
    are.

    Parameters
    ----------
    layer
        With a multiple of four inputs.

    Returns
    -------
    TwoFour

    Raises
    ------
    ValueError
        If the inputs are no multiple of four.

    Examples
    --------
    >>> from mcnn.paths import PathLinear
    >>> forced = two_four(PathLinear(64, 64, paths=256))
    >>> forced.edges, forced.lost <= 64
    (256, True)
    """
    if layer.in_features % 4:
        raise ValueError(f"in_features must be a multiple of 4, got {layer.in_features}")
    dense = layer.dense_weight().detach()
    fours = dense.view(len(dense), -1, 4)
    kept = torch.zeros_like(fours).scatter_(2, fours.abs().topk(2, dim=2).indices, 1)
    weight = (fours * kept).view_as(dense)
    edges, energy = int(dense.count_nonzero()), float(dense.double().square().sum())
    lost_energy = 1 - float(weight.double().square().sum()) / energy if energy else 0.0
    return TwoFour(weight, edges, edges - int(weight.count_nonzero()), lost_energy)
