"""Exchanging modules of a model at every place where they stand."""

import warnings
from collections.abc import Callable

from torch import nn


def exchanged(
    model: nn.Module,
    new: Callable[[str, nn.Module], nn.Module | None],
) -> nn.Module:
    """Exchange modules in place, each once, at all places where it stands.

    Parameters
    ----------
    model
        Changed, unless it is itself exchanged.
    new
        From the first name of a module and the module to the one that takes its place, or none.
        Modules inside of one that is exchanged are not asked for.
        Hooks are not taken over, since they may look at what the new one does not have; a warning
        names the module.

    Returns
    -------
    nn.Module
        The model, or what has taken its place.

    Examples
    --------
    >>> act = nn.ReLU()
    >>> exchanged(nn.Sequential(act, nn.Flatten(), act), lambda name, module: nn.GELU()
    ...     if isinstance(module, nn.ReLU) else None)
    Sequential(
      (0): GELU(approximate='none')
      (1): Flatten(start_dim=1, end_dim=-1)
      (2): GELU(approximate='none')
    )
    """
    done: dict[int, nn.Module] = {}
    kept = [model]  # ids stay theirs while the modules live

    def visit(name: str, module: nn.Module) -> nn.Module:
        if id(module) in done:
            return done[id(module)]
        kept.append(module)
        instead = new(name, module)
        done[id(module)] = module if instead is None else instead
        if instead is not None and instead is not module and _hooked(module):
            warnings.warn(
                f"layer {name!r} has hooks, and its replacement has not: register them on it",
                stacklevel=3,
            )
        if instead is None:
            for key, child in list(module._modules.items()):
                if child is not None:
                    result = visit(f"{name}.{key}" if name else key, child)
                    if result is not child:
                        setattr(module, key, result)
                        _leave_fast_path(module, result)
        return done[id(module)]

    return visit("", model)


def _hooked(module: nn.Module) -> bool:
    return any(
        getattr(module, f"_{kind}_hooks")
        for kind in ("forward", "forward_pre", "backward", "backward_pre")
    )


def _leave_fast_path(parent: nn.Module, new: nn.Module) -> None:
    """Let an encoder layer call what is new in it, where for inference it would read its weight."""
    if isinstance(parent, nn.TransformerEncoderLayer) and not isinstance(new, nn.Linear):
        parent.activation_relu_or_gelu = 0  # "some other function", which has no fast path
