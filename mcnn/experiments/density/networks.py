"""The networks that are quantised: fully connected, residual, a small transformer; trained once.

Training takes minutes and quantising seconds, so a trained network is kept in the user's cache
under a hash of all that made it: configuration, code, data and version of PyTorch.
A file that does not match or is damaged is made anew.
"""

import hashlib
import inspect
import json
import os
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn, optim
from torch.nn import functional as F
from tqdm import tqdm

from mcnn import data, training
from mcnn.data.cache import cache_path
from mcnn.experiments.density import text
from mcnn.training import nets

PRECISION = torch.bfloat16  # of what is multiplied in training a residual network


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a network is made: what kind, how wide, and how long it is trained.

    ``net`` is ``"mlp"`` (``width`` hidden units), ``"resnet"`` (``width`` filters in the first
    third, three residual blocks) or ``"transformer"`` (``width`` numbers a character, two blocks).
    ``epochs`` are steps where there is text.
    """

    net: str = "resnet"
    dataset: str = "cifar10"
    width: int = 16
    epochs: int = 4
    seed: int = 0


class Residual(nn.Module):
    """Two convolutions with batch normalisation, added to what came in."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_convolution(inputs, outputs, 3, stride), nn.ReLU(), *_convolution(outputs, outputs, 3)
        )
        same = inputs == outputs and stride == 1
        self.skip = (
            nn.Identity() if same else nn.Sequential(*_convolution(inputs, outputs, 1, stride))
        )
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """From [b, inputs, h, w] to [b, outputs, h / stride, w / stride]."""
        return self.relu(self.body(x) + self.skip(x))


def _convolution(inputs: int, outputs: int, size: int, stride: int = 1) -> list[nn.Module]:
    layer = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)
    return [layer, nn.BatchNorm2d(outputs)]


def resnet(channels: int, classes: int, width: int) -> nn.Sequential:
    """Return a residual network of eight layers: widths 1, 2 and 4 times ``width``.

    K. He et al., Deep residual learning for image recognition, arXiv 1512.03385, section 4.2, with
    one block instead of three or more in each third.
    """
    return nn.Sequential(
        *_convolution(channels, width, 3),
        nn.ReLU(),
        Residual(width, width, 1),
        Residual(width, 2 * width, 2),
        Residual(2 * width, 4 * width, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4 * width, classes),
    )


class Block(nn.Module):
    """Attention to what came before, and a layer of four times the width, each added."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mix, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """From [b, t, width] to the same."""
        b, t, width = x.shape
        parts = self.mix(self.norm(x)).view(b, t, 3, self.heads, -1)
        q, k, v = parts.permute(2, 0, 3, 1, 4)  # [b, heads, t, width / heads] each
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(b, t, width))
        return x + self.down(F.relu(self.up(self.norm2(x))))


class Transformer(nn.Module):
    """Predicts the next character: two blocks, four heads."""

    def __init__(self, width: int, context: int = 64) -> None:
        super().__init__()
        self.context = context
        self.characters = nn.Embedding(text.CHARACTERS, width)
        self.places = nn.Embedding(context, width)
        self.blocks = nn.Sequential(Block(width, 4), Block(width, 4))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, text.CHARACTERS)

    def forward(self, x: Tensor) -> Tensor:
        """From characters [b, t] to logits [b, t, characters]."""
        places = torch.arange(x.shape[1], device=x.device)
        return self.head(self.norm(self.blocks(self.characters(x) + self.places(places))))


class _Mixed(nn.Module):
    """A network computed in :data:`PRECISION`, with the channels of a pixel side by side."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, PRECISION):
            return self.model(x.contiguous(memory_format=torch.channels_last)).float()


def trained(recipe: Recipe, source: data.Data | text.Text) -> nn.Module:
    """Return the network of a recipe, trained, in eval mode, from the cache if it is there."""
    model = _built(recipe, source)
    mark = _mark(recipe, source.fingerprint)
    file = cache_path() / "networks" / f"{recipe.net}-{recipe.seed}-{mark}.pt"
    state = _load(file)
    if state is None:
        _train(model, recipe, source)
        _save(file, model.state_dict())
    else:
        model.load_state_dict(state)
    return model.eval()


def _built(recipe: Recipe, source: data.Data | text.Text) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(recipe.seed)
        if recipe.net == "transformer":
            model = Transformer(recipe.width)
        elif recipe.net == "resnet":
            model = resnet(source.shape[0], len(source.classes), recipe.width)
        else:
            pixels = source.shape[0] * source.shape[1] * source.shape[2]
            model = nets.mlp((pixels, recipe.width, len(source.classes)))
    tensor = source.train if isinstance(source, text.Text) else source.train.images
    return model.to(tensor.device)


def _train(model: nn.Module, recipe: Recipe, source: data.Data | text.Text) -> None:
    if isinstance(source, text.Text):
        _train_text(model, recipe, source.train)
    elif recipe.net == "resnet":
        # Shifts and mirrors for photographs only: a mirrored digit is none.
        augment = "crop-flip" if recipe.dataset == "cifar10" else None
        options = {"lr": 0.2, "schedule": "onecycle", "weight_decay": 5e-4, "scale": "standard"}
        training.fit(
            _Mixed(model.to(memory_format=torch.channels_last)),
            source,
            epochs=recipe.epochs,
            augment=augment,
            seed=recipe.seed,
            desc=f"resnet {recipe.seed}",
            **options,
        )
    else:
        training.fit(model, source, epochs=recipe.epochs, scale="standard", seed=recipe.seed)


def _train_text(model: Transformer, recipe: Recipe, train: Tensor, batch: int = 32) -> None:
    """Adam with decoupled decay, rate 3e-3 with a short rise and a cosine to zero."""
    model.train()
    optimizer = optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
    schedule = optim.lr_scheduler.OneCycleLR(
        optimizer, 3e-3, total_steps=recipe.epochs, pct_start=0.1, cycle_momentum=False
    )
    generator = torch.Generator().manual_seed(recipe.seed)
    window = torch.arange(model.context + 1, device=train.device)
    for _ in tqdm(range(recipe.epochs), f"transformer {recipe.seed}", disable=None, leave=False):
        start = torch.randint(len(train) - model.context, (batch, 1), generator=generator)
        line = train[start.to(train.device) + window]  # [b, context + 1]
        loss = F.cross_entropy(model(line[:, :-1]).flatten(0, 1), line[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()


@torch.no_grad()
def bits_per_character(model: Transformer, characters: Tensor, batch: int = 64) -> float:
    """Return the mean cross entropy in bits, over lines of the whole context, from their start."""
    context = model.context
    lines = (len(characters) - 1) // context
    inputs = characters[: lines * context].view(lines, context)
    targets = characters[1 : lines * context + 1].view(lines, context)
    total = 0.0
    for x, y in zip(inputs.split(batch), targets.split(batch), strict=True):
        total += float(F.cross_entropy(model(x).flatten(0, 1), y.flatten(), reduction="sum"))
    return total / targets.numel() / float(torch.log(torch.tensor(2.0, dtype=torch.float64)))


def _mark(recipe: Recipe, fingerprint: str) -> str:
    code = [inspect.getsource(sys.modules[m]) for m in (__name__, training.fit.__module__)]
    made_by: list[Any] = [asdict(recipe), fingerprint, torch.__version__, *code]
    return hashlib.sha256(json.dumps(made_by).encode()).hexdigest()[:16]


def _load(file: Path) -> dict[str, Tensor] | None:
    try:
        return torch.load(file, weights_only=True)
    except Exception:  # damage shows in many ways, and training anew mends all of them
        return None


def _save(file: Path, state: dict[str, Tensor]) -> None:
    """Write under another name and rename, so that no reader ever meets half a file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=file.parent, delete=False) as unfinished:
        torch.save(state, unfinished)
    os.replace(unfinished.name, file)
