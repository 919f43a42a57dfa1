"""Which parameters of a module are weights that outputs add up, and how they are laid out.

=========================================  =======================================================
linear layers, convolutions                ``weight``
multi-head attention                       ``in_proj_weight``, or ``q_``, ``k_`` and
                                           ``v_proj_weight``; its ``out_proj`` is a linear layer
LSTM, GRU and RNN, and their cells         ``weight_ih``, ``weight_hh``, ``weight_hr``, by layer
``Conv1D`` of the package transformers     ``weight``, [inputs, outputs]; known by its attributes
layers of paths                            ``weight``, one for each edge
embeddings                                 ``weight``, one row for each token; only if it is named
=========================================  =======================================================
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from mcnn.sparse.layer import SparseLayer

KINDS = (nn.Linear, _ConvNd)  # _ConvNd includes the transposed ones
_TABLES = (nn.Embedding, nn.EmbeddingBag)
_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


@dataclass(frozen=True)
class Slot:
    """A weight of a module, and the bias that is added to what it computes.

    Attributes
    ----------
    weight, bias
        Names of the parameters; a bias may be missing.
    third
        0, 1 or 2 if the bias is that third of the parameter, as in attention with three weights.
    """

    weight: str
    bias: str | None = None
    third: int | None = None

    def name(self, module: str) -> str:
        """Return the name of the layer: that of the module, with the weight's if it has another."""
        if self.weight == "weight":
            return module
        return f"{module}.{self.weight}" if module else self.weight


OWN = Slot("weight", "bias")


def slots(module: nn.Module) -> list[Slot]:
    """Return the weights of a module that outputs add up; none for other modules."""
    if isinstance(module, (*KINDS, *_TABLES)) or is_conv1d(module):
        return [Slot("weight", _there(module, "bias"))]
    if isinstance(module, nn.MultiheadAttention):
        bias = _there(module, "in_proj_bias")
        if module._qkv_same_embed_dim:
            return [Slot("in_proj_weight", bias)]
        return [
            Slot(f"{part}_proj_weight", bias, None if bias is None else third)
            for third, part in enumerate("qkv")
        ]
    if isinstance(module, nn.RNNBase):
        return [
            Slot(name, next((x for x in names if x == name.replace("weight", "bias")), None))
            for names in module._all_weights
            for name in names
            if name.startswith("weight")
        ]
    if isinstance(module, nn.RNNCellBase):
        return [Slot(f"weight_{x}", _there(module, f"bias_{x}")) for x in ("ih", "hh")]
    if isinstance(module, SparseLayer) and hasattr(module, "paths"):
        return [Slot("weight", _there(module, "bias"))]
    return []


def _there(module: nn.Module, bias: str) -> str | None:
    """Return the name of a bias unless the module has none; something else may compute it."""
    return None if getattr(module, bias, None) is None else bias


def is_conv1d(module: nn.Module) -> bool:
    """Whether it is GPT-2's linear layer in transformers, whose weight is [inputs, outputs]."""
    return type(module).__name__ == "Conv1D" and hasattr(module, "nf") and hasattr(module, "weight")


def is_table(module: nn.Module) -> bool:
    """Whether rows of the weight are looked up, one at a time."""
    return isinstance(module, _TABLES)


def why_not(name: str, module: nn.Module) -> str:
    """Say why a module with parameters of its own is still as it was."""
    if is_table(module):
        return "a table that is looked up: name it in layers if you want it sampled"
    if isinstance(module, SparseLayer) and not slots(module):
        return "sampled before"
    if slots(module):
        return "not chosen, or partly"
    if isinstance(module, _NORMS):
        return "normalisation"
    own = ", ".join(key for key, p in module._parameters.items() if p is not None)
    return f"{type(module).__name__} is of no known kind, its {own} stays"


def get_rows(module: nn.Module, weight: Tensor) -> Tensor:
    """Return the weights that each output adds up, [outputs, inputs]; a view where possible."""
    if isinstance(module, _ConvTransposeNd):  # [inputs, outputs / groups, kernel...]
        grouped = weight.unflatten(0, (module.groups, -1)).transpose(1, 2)
        return grouped.reshape(module.out_channels, -1)
    if is_conv1d(module):  # [inputs, outputs]
        return weight.T
    if isinstance(module, SparseLayer):  # [edges, ...], unit by unit
        weight = weight.abs() * module.signs if module.signs is not None else weight
        place = _places(module)  # [edges]
        size = weight[0].numel() if len(weight) else 1
        longest = int(module.edges.starts.diff().max())
        rows = weight.new_zeros(module.out_units * longest, size)
        rows[place] = weight.flatten(1) if weight.ndim > 1 else weight[:, None]
        return rows.view(module.out_units, -1)
    return weight.flatten(1)


def set_rows(module: nn.Module, weight: Tensor, rows: Tensor) -> None:
    """Write rows [outputs, inputs] into a weight."""
    if isinstance(module, _ConvTransposeNd):
        inputs, outputs, *kernel = weight.shape
        shape = (module.groups, outputs, inputs // module.groups, *kernel)
        rows = rows.reshape(shape).transpose(1, 2)
    elif is_conv1d(module):
        rows = rows.T
    elif isinstance(module, SparseLayer):
        size = weight[0].numel() if len(weight) else 1
        rows = rows.reshape(-1, size)[_places(module)]  # [edges, size]
        rows = rows if module.signs is None else rows.abs()  # a sample has the sign of its weight
    weight.copy_(rows.reshape(weight.shape))


def padding(module: nn.Module, weight: Tensor) -> int:
    """Return how many entries of the rows are no weights: units of paths differ in fan-in."""
    if not isinstance(module, SparseLayer) or len(weight) == 0:
        return 0
    fan_in = module.edges.starts.diff()
    return int((fan_in.max() - fan_in).sum()) * weight[0].numel()


def _places(layer: SparseLayer) -> Tensor:
    """Return the place of each edge in rows as long as the longest, int64 [edges]."""
    outputs, starts = layer.edges.outputs.long(), layer.edges.starts.long()
    longest = int(starts.diff().max())
    number = torch.arange(len(outputs), device=outputs.device) - starts[outputs]
    return outputs * longest + number


def named_slots(model: nn.Module) -> Iterator[tuple[str, str, nn.Module, Slot]]:
    """Yield name of the layer, name of the module, module and slot, at every place of the model."""
    for name, module in model.named_modules(remove_duplicate=False):
        for slot in slots(module):
            yield slot.name(name), name, module, slot
