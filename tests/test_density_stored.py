"""Quantised networks in files: what comes back, how large they are, and what is refused."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from mcnn import safetensors
from mcnn.baselines import rounding
from mcnn.density import coding, load_quantized, quantize, save_quantized
from mcnn.density.stored import StoredError, integers
from mcnn.errors import UsageError
from mcnn.paths import PathLinear, PathMLP


def net():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(
            nn.Conv2d(1, 16, 3),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(16 * 36, 40),
            nn.ReLU(),
            nn.Linear(40, 10),
        )


X = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(2))


def left_over(model, report):
    """Bytes of what the report does not count."""
    buffers = sum(b.numel() * b.element_size() for b in model.buffers())
    return 4 * (report.parameters - report.covered) + buffers


@pytest.mark.parametrize("coded", ["entropy", "packed"])
@pytest.mark.parametrize("fraction", [0.12, 1.0, 4.0])
@pytest.mark.parametrize("sequential", [False, True])
def test_files_have_the_size_of_the_report(tmp_path, coded, fraction, sequential):
    small, report = quantize(net(), fraction=fraction, calibrate=X, sequential=sequential)
    size = save_quantized(small, tmp_path / "small.safetensors", coded)
    assert size == (tmp_path / "small.safetensors").stat().st_size
    told = report.bits / 8 if coded == "entropy" else report.bytes_packed
    told += left_over(small, report)
    overhead = 800  # of the container, the names, and the tables of three layers
    assert told * 0.98 <= size <= told * 1.02 + overhead


def test_a_large_network_is_within_two_percent(tmp_path):
    layer = nn.Linear(2000, 300)
    small, report = quantize(layer, fraction=1.0, method="systematic")
    size = save_quantized(small, tmp_path / "small.safetensors")
    assert abs(8 * size / report.bits - 1) < 0.02
    size = save_quantized(small, tmp_path / "small.safetensors", "packed")
    assert abs(size / report.bytes_packed - 1) < 0.02


@pytest.mark.parametrize("coded", ["entropy", "packed"])
@pytest.mark.parametrize(
    "made",
    [
        lambda m: quantize(m, samples=1),
        lambda m: quantize(m, samples=700, method="iid"),
        lambda m: quantize(m, fraction=2.0, calibrate=X, sequential=True),
        lambda m: quantize(m, bits=2.0, bias="exact"),
        lambda m: rounding.quantize(m, lambda w, s: rounding.nearest(w, 4, "mse")),
        lambda m: rounding.quantize(m, lambda w, s: rounding.ternary(w)),
    ],
)
def test_what_is_loaded_is_what_was_saved(tmp_path, made, coded):
    small = made(net())[0].eval()
    small[1].running_mean.fill_(0.25)
    save_quantized(small, tmp_path / "small.safetensors", coded)
    again = load_quantized(tmp_path / "small.safetensors", net()).eval()
    for name, value in small.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value, rtol=3e-7, atol=0)
    torch.testing.assert_close(again(X), small(X), rtol=1e-4, atol=1e-5)
    # What was loaded is quantised itself, to the same integers.
    assert torch.equal(integers(again[4].weight)[0], integers(small[4].weight)[0])


def test_integers_are_those_of_the_counts():
    from mcnn.density import dequantize, sample_counts

    w = torch.randn(50, 300, generator=torch.Generator().manual_seed(3))
    counts = sample_counts(w, 900)
    codes, scale = integers(dequantize(counts, w))
    common = [math.gcd(*row) for row in counts.abs().tolist()]
    assert torch.equal(codes * torch.tensor(common)[:, None], counts)
    torch.testing.assert_close(codes * scale[:, None], dequantize(counts, w), rtol=3e-7, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types(tmp_path, dtype):
    layer = nn.Linear(20, 5).to(dtype)
    small, _ = quantize(layer, samples=20)
    save_quantized(small, tmp_path / "small.safetensors")
    again = load_quantized(tmp_path / "small.safetensors", nn.Linear(20, 5).to(dtype))
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(again.weight, small.weight, rtol=4 * eps, atol=0)


def test_tied_weights_are_stored_once_and_stay_tied(tmp_path):
    def tied():
        model = nn.Sequential(nn.Embedding(300, 200), nn.Linear(200, 300))
        model[0].weight = model[1].weight
        return model

    small, report = quantize(tied(), samples=200)
    size = save_quantized(small, tmp_path / "small.safetensors")
    assert size < report.bits / 8 + 1024
    again = load_quantized(tmp_path / "small.safetensors", tied())
    assert again[0].weight is again[1].weight
    torch.testing.assert_close(again[0].weight, small[1].weight)


def test_layers_that_are_not_quantised_are_kept_as_they_are(tmp_path):
    small, _ = quantize(net(), samples=30, layers=["4"])
    save_quantized(small, tmp_path / "small.safetensors")
    again = load_quantized(tmp_path / "small.safetensors", net())
    assert torch.equal(again[0].weight, small[0].weight)
    with pytest.raises(ValueError, match="quantize the model first"):
        save_quantized(net(), tmp_path / "none.safetensors")
    with pytest.raises(ValueError, match="no coding 'zip'"):
        save_quantized(small, tmp_path / "none.safetensors", "zip")
    assert [p.name for p in tmp_path.iterdir()] == ["small.safetensors"]


def test_another_model_is_refused_and_left_alone(tmp_path):
    small, _ = quantize(net(), samples=30)
    save_quantized(small, tmp_path / "small.safetensors")
    wider = net()
    wider[6] = nn.Linear(40, 11)
    before = [p.clone() for p in wider.parameters()]
    with pytest.raises(StoredError, match=r"layer '6' has rows \(10, 40\), the model has"):
        load_quantized(tmp_path / "small.safetensors", wider)
    assert all(torch.equal(*pair) for pair in zip(before, wider.parameters(), strict=True))
    with pytest.raises(StoredError, match=r"has nothing for 7.weight"):
        load_quantized(tmp_path / "small.safetensors", nn.Sequential(*net(), nn.Linear(10, 10)))
    without = net()
    without[1] = nn.Identity()
    with pytest.raises(StoredError, match=r"1\.weight is"):
        load_quantized(tmp_path / "small.safetensors", without)


def test_damage_is_told(tmp_path):
    small, _ = quantize(net(), samples=30)
    path = tmp_path / "small.safetensors"
    save_quantized(small, path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-600] + bytes([whole[-600] ^ 255]) + whole[-599:])
    with pytest.raises(StoredError, match="damaged"):
        load_quantized(path, net())
    path.write_bytes(whole[:2000])
    with pytest.raises(StoredError, match="does not hold a quantised network"):
        load_quantized(path, net())
    path.write_bytes(safetensors.pack({"a": torch.ones(3)}))
    with pytest.raises(StoredError, match="format None, where 2 is known"):
        load_quantized(path, net())
    with pytest.raises(FileNotFoundError):
        load_quantized(tmp_path / "none.safetensors", net())


def test_a_small_network_has_a_small_frame(tmp_path):
    """A net of 4,770 weights: what is not codes, scales or biases is below half a kilobyte."""
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    small, report = quantize(model, fraction=0.5, method="systematic")
    size = save_quantized(small, tmp_path / "small.safetensors")
    assert size - report.bits / 8 < 512


# --- coding ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 2, 4095, 4096, 8193, 100_000])
@pytest.mark.parametrize("levels", [1, 2, 9, 300])
def test_codes_come_back_at_about_their_entropy(number, levels):
    generator = np.random.default_rng(number + levels)
    codes = np.minimum(generator.geometric(0.5, number) - 1, levels - 1)
    units = coding.frequencies(codes)
    assert units.astype(int).sum() == 1 << 14
    words = coding.encode(codes, units)
    assert np.array_equal(coding.decode(words, units, number), codes)
    share = np.bincount(codes) / number
    entropy = -(share[share > 0] * np.log2(share[share > 0])).sum() * number
    assert 16 * len(words) <= entropy * 1.01 + 64 + 0.02 * number


@pytest.mark.parametrize("bits", [0, 1, 3, 12])
def test_packed_codes_come_back(bits):
    codes = np.random.default_rng(bits).integers(0, 1 << bits, 1001)
    packed = coding.pack(codes, bits)
    assert len(packed) == math.ceil(1001 * bits / 8)
    assert np.array_equal(coding.unpack(packed, bits, 1001), codes)


def pair(tied):
    table, head = nn.Embedding(30, 8), nn.Linear(8, 30, bias=False)
    if tied:
        head.weight = table.weight
    return nn.Sequential(table, nn.ReLU(), head)


def test_a_flipped_bit_is_never_a_weight(tmp_path):
    small, _ = quantize(nn.Linear(40, 30), samples=40)
    save_quantized(small, tmp_path / "small.safetensors")
    whole = (tmp_path / "small.safetensors").read_bytes()
    for place in range(0, len(whole), 61):
        damaged = bytearray(whole)
        damaged[place] ^= 16
        (tmp_path / "damaged.safetensors").write_bytes(damaged)
        try:
            again = load_quantized(tmp_path / "damaged.safetensors", nn.Linear(40, 30))
        except StoredError:
            continue
        torch.testing.assert_close(again.weight, small.weight)  # it was a bit that nothing reads
        torch.testing.assert_close(again.bias, small.bias)


def test_a_tie_of_the_model_alone_is_refused(tmp_path):
    small, _ = quantize(pair(tied=False), samples=8)
    save_quantized(small, tmp_path / "small.safetensors")
    with pytest.raises(StoredError, match="tied"):
        load_quantized(tmp_path / "small.safetensors", pair(tied=True))


@pytest.mark.parametrize("other", [nn.Conv2d(2, 30, (4, 5)), nn.ReLU()])
def test_layers_of_another_kind_are_refused(tmp_path, other):
    small, _ = quantize(nn.Linear(40, 30), samples=40)
    save_quantized(small, tmp_path / "small.safetensors")
    with pytest.raises(StoredError, match="the model"):
        load_quantized(tmp_path / "small.safetensors", other)


def test_a_state_of_other_things_than_tensors_is_refused(tmp_path):
    class Other(nn.Linear):
        def get_extra_state(self):
            return {"a": 1}

    small, _ = quantize(Other(40, 30), samples=40)
    with pytest.raises(ValueError, match="no tensor"):
        save_quantized(small, tmp_path / "small.safetensors")


@pytest.mark.parametrize("signs", [False, True])
def test_layers_of_other_paths_take_those_of_the_file(tmp_path, signs):
    x = torch.randn(5, 16, generator=torch.Generator().manual_seed(3))
    for make in (
        lambda seed: PathLinear(16, 8, 32, seed=seed, fixed_signs=signs),
        lambda seed: PathMLP([16, 8, 4], 32, seed=seed, fixed_signs=signs),
    ):
        small, _ = quantize(make(1), samples=8)
        save_quantized(small, tmp_path / "small.safetensors")
        again = load_quantized(tmp_path / "small.safetensors", make(2))
        torch.testing.assert_close(again(x), small(x))


def test_a_model_on_no_device_is_refused(tmp_path):
    save_quantized(quantize(nn.Linear(8, 4), samples=4)[0], tmp_path / "small.safetensors")
    with pytest.raises(UsageError, match=r"weight of the model is on no device .*to_empty"):
        load_quantized(tmp_path / "small.safetensors", nn.Linear(8, 4, device="meta"))


def test_what_is_loaded_in_inference_mode_trains_later(tmp_path):
    save_quantized(quantize(nn.Linear(8, 4), samples=4)[0], tmp_path / "small.safetensors")
    layer = nn.Linear(8, 4)
    with torch.inference_mode():
        load_quantized(tmp_path / "small.safetensors", layer)
    layer(torch.ones(2, 8, requires_grad=True)).sum().backward()
    assert layer.weight.grad is not None
