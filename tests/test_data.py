"""The data sets: read from every layout, checked, and resident in a canonical order."""

import os
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_digits
from torchvision.transforms import functional as TF

import mcnn.data
from mcnn.data import DATASETS, Split, cache, readers
from mcnn.errors import DataError, UsageError

DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()
CLASSES = DATASETS["cifar10"].classes


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    """No test reads or writes the user's cache, unless it asks for the real data."""
    monkeypatch.delenv("MCNN_DATA", raising=False)
    monkeypatch.setattr(cache, "cache_path", lambda: tmp_path / "cache")
    monkeypatch.setattr(mcnn.data, "cache_path", lambda: tmp_path / "cache")


def random_parts(sizes=(6, 4), shape=(1, 28, 28)):
    rng = np.random.default_rng(1)
    return tuple(
        (
            torch.from_numpy(rng.integers(0, 256, (n, *shape), dtype=np.uint8)),
            torch.from_numpy(rng.permutation(n) % 10),
        )
        for n in sizes
    )


def expect(monkeypatch, name, parts):
    """Let a small set pass for the published one."""
    sizes = tuple(len(labels) for _, labels in parts)
    mark = readers.fingerprint(parts)
    monkeypatch.setitem(DATASETS, name, replace(DATASETS[name], sizes=sizes, fingerprint=mark))


def write_mnist(place: Path, parts) -> Path:
    raw = place / "MNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    for part, (images, labels) in zip(("train", "t10k"), parts, strict=True):
        head = np.array([2051, len(images), 28, 28], dtype=">i4").tobytes()
        (raw / f"{part}-images-idx3-ubyte").write_bytes(head + images.numpy().tobytes())
        head = np.array([2049, len(labels)], dtype=">i4").tobytes()
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(head + labels.byte().numpy().tobytes())
    return raw


def write_folder(place: Path, parts, suffix=".png", reverse=False) -> Path:
    for part, (images, labels) in zip(("train", "test"), parts, strict=True):
        for name in CLASSES:
            (place / "cifar10" / part / name).mkdir(parents=True, exist_ok=True)
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            number = len(images) - i if reverse else i
            file = place / "cifar10" / part / CLASSES[label] / f"{number:03}{suffix}"
            Image.fromarray(image.movedim(0, -1).numpy()).save(file, lossless=True)
    return place / "cifar10"


def write_batches(place: Path, parts, monkeypatch) -> None:
    folder = place / "cifar-10-batches-py"
    folder.mkdir()
    names = ("data_batch_1", "test_batch")
    for name, (images, labels) in zip(names, parts, strict=True):
        content = {"data": images.flatten(1).numpy(), "labels": labels.tolist()}
        (folder / name).write_bytes(pickle.dumps(content))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list(CLASSES)}))
    cifar10 = torchvision.datasets.CIFAR10
    monkeypatch.setattr(cifar10, "train_list", [(names[0], None)])
    monkeypatch.setattr(cifar10, "test_list", [(names[1], None)])
    monkeypatch.setattr(cifar10, "meta", cifar10.meta | {"md5": None})


CIFAR = ((12, 10), (3, 32, 32))  # an image folder needs an image of every class


@pytest.fixture
def mnist(tmp_path, monkeypatch):
    parts = random_parts()
    expect(monkeypatch, "mnist", parts)
    return write_mnist(tmp_path, parts), parts


@pytest.fixture
def cifar10(tmp_path, monkeypatch):
    parts = tuple(readers.by_content(*pair) for pair in random_parts(*CIFAR))
    expect(monkeypatch, "cifar10", parts)
    return write_folder(tmp_path, parts), parts


def same(data, parts):
    return all(
        torch.equal(split.images, images) and torch.equal(split.labels, labels)
        for split, (images, labels) in zip((data.train, data.test), parts, strict=True)
    )


# --- reading -------------------------------------------------------------------------------------


def test_digits_are_scikit_learns_each_once():
    data = mcnn.data.load("digits")
    bunch = load_digits()
    grey = torch.from_numpy(np.rint(bunch.images * 255 / 16)).byte()
    wanted = sorted((int(y), x.numpy().tobytes()) for x, y in zip(grey, bunch.target, strict=True))
    splits = (data.train, data.test)
    got = [
        (int(y), x.numpy().tobytes())
        for s in splits
        for x, y in zip(s.images, s.labels, strict=True)
    ]
    assert sorted(got) == wanted
    assert [len(s) for s in splits] == [1437, 360]
    assert data.shape == (1, 8, 8)
    # Sorting by content shuffles: every class is in both parts about as often as it should be.
    assert data.test.labels.bincount().min() > 20


def test_idx_files_keep_their_order(mnist, tmp_path):
    _, parts = mnist
    data = mcnn.data.load("mnist", root=tmp_path)
    assert same(data, parts)
    assert data.train.images.dtype == torch.uint8
    assert data.train.labels.dtype == torch.int64
    assert data.fingerprint == DATASETS["mnist"].fingerprint


@pytest.mark.parametrize("suffix", [".png", ".webp"])
@pytest.mark.parametrize("reverse", [False, True])
def test_cifar10_is_the_same_from_a_folder_and_from_batches(tmp_path, monkeypatch, suffix, reverse):
    parts = random_parts(*CIFAR)
    canonical = tuple(readers.by_content(*pair) for pair in parts)
    expect(monkeypatch, "cifar10", canonical)
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir(), other.mkdir()
    write_folder(one, parts, suffix, reverse)
    write_batches(other, parts, monkeypatch)
    assert same(mcnn.data.load("cifar10", root=one), canonical)
    assert same(mcnn.data.load("cifar10", root=other), canonical)


def test_by_content_keeps_pairs_and_forgets_order():
    images, labels = random_parts((50, 1))[0]
    shuffle = torch.randperm(50, generator=torch.Generator().manual_seed(3))
    a, b = readers.by_content(images, labels), readers.by_content(images[shuffle], labels[shuffle])
    assert torch.equal(a[0], b[0])
    assert torch.equal(a[1], b[1])
    assert not torch.equal(a[0], images)
    pairs = {(x.numpy().tobytes(), int(y)) for x, y in zip(images, labels, strict=True)}
    assert {(x.numpy().tobytes(), int(y)) for x, y in zip(*a, strict=True)} == pairs


def test_fingerprint_sees_a_bit_a_label_and_the_order():
    marks = set()
    for change in range(5):
        parts = random_parts()
        (images, labels), (test_images, _) = parts
        if change == 1:
            images[2, 0, 3, 4] ^= 1
        elif change == 2:
            labels[1] = (labels[1] + 1) % 10
        elif change == 3:
            images[[0, 1]] = images[[1, 0]]
        elif change == 4:
            parts = (parts[0], (test_images[:-1], parts[1][1][:-1]))
        marks.add(readers.fingerprint(parts))
    assert len(marks) == 5


# --- what is missing or damaged ------------------------------------------------------------------


def refused(name, root, *words):
    """The set is refused in one line that contains all the words, and ``status`` says the same."""
    with pytest.raises(DataError) as caught:
        mcnn.data.load(name, root=root)
    text = str(caught.value)
    assert "\n" not in text
    for word in words:
        assert str(word) in text
    now = mcnn.data.status(name, root)
    assert now.detail == text
    return now.state


def test_missing_names_the_places_and_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setenv("MCNN_DATA", str(tmp_path / "here"))
    words = (tmp_path / "here", tmp_path / "cache", "mcnn data mnist --download", "MCNN_DATA")
    assert refused("mnist", None, *words) == "missing"
    assert refused("ilsvrc12", None, "image-net.org", "registration", "ilsvrc12/") == "missing"


def test_empty_folders_of_a_failed_download_do_not_count(tmp_path):
    (tmp_path / "MNIST" / "raw").mkdir(parents=True)
    assert refused("mnist", tmp_path, "--download") == "missing"


def test_the_variable_comes_before_the_cache_and_root_before_both(mnist, tmp_path, monkeypatch):
    _, parts = mnist
    write_mnist(tmp_path / "cache", parts)
    assert mcnn.data.status("mnist").folder == tmp_path / "cache" / "MNIST"
    monkeypatch.setenv("MCNN_DATA", str(tmp_path))
    assert mcnn.data.status("mnist").folder == tmp_path / "MNIST"
    write_mnist(tmp_path / "root", parts)
    assert mcnn.data.status("mnist", tmp_path / "root").folder == tmp_path / "root" / "MNIST"
    assert mcnn.data.status("mnist", tmp_path / "elsewhere").state == "missing"


def test_unknown_name_lists_the_known():
    with pytest.raises(UsageError, match=r"minst.*digits.*ilsvrc12"):
        mcnn.data.load("minst")


FILES = [f"{p}-{c}-ubyte" for p in ("train", "t10k") for c in ("images-idx3", "labels-idx1")]


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("keep", [0, 6, 10, -1])
def test_truncated_idx_file(mnist, tmp_path, file, keep):
    raw, _ = mnist
    (raw / file).write_bytes((raw / file).read_bytes()[:keep])
    assert refused("mnist", tmp_path, file, raw.parent, "--download") == "damaged"


@pytest.mark.parametrize("file", FILES)
def test_missing_idx_file(mnist, tmp_path, file):
    raw, _ = mnist
    (raw / file).unlink()
    assert refused("mnist", tmp_path, file, "--download") == "damaged"


def test_wrong_number_of_images(mnist, tmp_path):
    _, parts = mnist
    (images, labels), test = parts
    write_mnist(tmp_path, ((images[:5], labels[:5]), test))
    assert refused("mnist", tmp_path, "5 training images instead of 6") == "damaged"


def test_images_without_labels(mnist, tmp_path):
    _, parts = mnist
    (images, labels), test = parts
    write_mnist(tmp_path, ((images, labels[:5]), test))
    assert refused("mnist", tmp_path, "6 images but 5 labels") == "damaged"


def test_wrong_fingerprint(mnist, tmp_path):
    raw, _ = mnist
    content = bytearray((raw / FILES[0]).read_bytes())
    content[100] ^= 1
    (raw / FILES[0]).write_bytes(content)
    known = DATASETS["mnist"].fingerprint
    assert refused("mnist", tmp_path, "fingerprint", known, "--download") == "damaged"


def test_truncated_image_and_wrong_size(cifar10, tmp_path):
    folder, _ = cifar10
    file = next((folder / "test").rglob("*.png"))
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    assert refused("cifar10", tmp_path, file, "--download") == "damaged"
    Image.new("RGB", (16, 32)).save(file)
    assert refused("cifar10", tmp_path, file, "(3, 32, 16)") == "damaged"


def test_download_that_fails_says_where(tmp_path, monkeypatch):
    def fetch(place):
        raise OSError("no\nnetwork")

    monkeypatch.setitem(DATASETS, "mnist", replace(DATASETS["mnist"], fetch=fetch))
    with pytest.raises(DataError, match=rf"^[^\n]*{tmp_path}[^\n]*no network[^\n]*$"):
        mcnn.data.load("mnist", root=tmp_path, download=True)
    with pytest.raises(DataError, match=r"image-net\.org"):
        mcnn.data.download("ilsvrc12", tmp_path)


def test_download_fetches_once(tmp_path, monkeypatch):
    parts = random_parts()
    expect(monkeypatch, "mnist", parts)
    calls = []

    def fetch(place):
        calls.append(place)
        write_mnist(place, parts)

    monkeypatch.setitem(DATASETS, "mnist", replace(DATASETS["mnist"], fetch=fetch))
    assert same(mcnn.data.load("mnist", root=tmp_path / "new", download=True), parts)
    assert mcnn.data.download("mnist", tmp_path / "new") == tmp_path / "new" / "MNIST"
    assert calls == [tmp_path / "new"]


# --- the cache of decoded images -----------------------------------------------------------------


def test_images_are_decoded_once_and_again_when_the_cache_or_the_source_changes(
    cifar10, tmp_path, monkeypatch
):
    folder, parts = cifar10
    decoded = []
    original = torchvision.io.decode_image
    monkeypatch.setattr(
        torchvision.io, "decode_image", lambda *a: decoded.append(a) or original(*a)
    )
    n = sum(CIFAR[0])

    def load():
        decoded.clear()
        assert same(mcnn.data.load("cifar10", root=tmp_path), parts)
        return len(decoded)

    assert load() == n
    assert load() == 0
    (file,) = (tmp_path / "cache" / "decoded").iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[:-200])  # truncated
    assert load() == n
    image = parts[0][0][0].numpy().tobytes()
    file.write_bytes(whole.replace(image, bytes(len(image))))  # readable, but another image
    assert load() == n
    os.utime(next(folder.rglob("*.png")), (1, 1))  # a source file that may be another one
    assert load() == n
    assert load() == 0


def test_a_cache_that_cannot_be_written_is_done_without(cifar10, tmp_path):
    _, parts = cifar10
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.warns(UserWarning, match="not kept"):
        data = mcnn.data.load("cifar10", root=tmp_path)
    assert same(data, parts)


# --- splits --------------------------------------------------------------------------------------


def small_split(n=10):
    images = torch.arange(n, dtype=torch.uint8).view(n, 1, 1, 1).expand(n, 3, 2, 2).contiguous()
    return Split(images, torch.arange(n), (0.1, 0.2, 0.3), (0.5, 0.6, 0.7))


@settings(deadline=None)
@given(
    n=st.integers(0, 40),
    batch_size=st.integers(1, 12),
    seed=st.none() | st.integers(0, 9),
    drop_last=st.booleans(),
)
def test_batches_go_through_the_split_once(n, batch_size, seed, drop_last):
    split = small_split(n)
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    batches = list(split.batches(batch_size, generator, drop_last))
    sizes = [len(y) for _, y in batches]
    full, rest = divmod(n, batch_size)
    assert sizes == [batch_size] * full + [rest] * (rest > 0 and not drop_last)
    seen = torch.cat([y for _, y in batches]) if batches else torch.empty(0, dtype=torch.int64)
    assert len(seen.unique()) == len(seen)
    if seed is None:
        assert torch.equal(seen, torch.arange(len(seen)))
    for x, y in batches:  # images stay with their labels
        assert torch.equal((x[:, 0, 0, 0] * 255).round().long(), y)


# --- held out -------------------------------------------------------------------------------------


def rows(split):
    """Each image with its label, as bytes."""
    pairs = zip(split.images, split.labels.tolist(), strict=True)
    return [image.numpy().tobytes() + bytes([label]) for image, label in pairs]


@settings(max_examples=25, deadline=None)
@given(images=st.integers(1, 1436))
def test_what_is_held_out_and_what_stays_make_the_whole(images):
    whole, parted = mcnn.data.load("digits"), mcnn.data.load("digits", validation=images)
    assert whole.validation is None
    assert len(parted.validation) == images
    stays, held = rows(parted.train), rows(parted.validation)
    assert sorted(stays + held) == sorted(rows(whole.train))
    left = set(stays)
    assert stays == [row for row in rows(whole.train) if row in left], "they keep their order"
    assert torch.equal(parted.test.images, whole.test.images)
    assert (parted.mean, parted.std) == (whole.mean, whole.std)
    assert (parted.validation.mean, parted.train.std) == (whole.mean, whole.std)
    assert parted.fingerprint == whole.fingerprint


def test_the_same_images_are_held_out_for_everybody():
    """Whatever the generators, the device, and how many: fewer are among more."""
    torch.manual_seed(1)
    few = mcnn.data.load("digits", validation=3)
    torch.manual_seed(2)
    more = mcnn.data.load("digits").hold_out(300)
    assert set(rows(few.validation)) <= set(rows(more.validation))
    train = rows(mcnn.data.load("digits").train)
    held = sorted(train.index(row) for row in rows(few.validation))
    assert held == [706, 938, 1107], "another set would make choices of before incomparable"


def test_classes_are_held_out_by_chance_not_from_one_end():
    held = mcnn.data.load("digits", validation=500).validation
    counts = torch.bincount(held.labels, minlength=10).double()
    assert len(counts) == 10
    assert ((counts - 50).abs() < 4 * 50**0.5).all()


@pytest.mark.parametrize("images", [-1, 1437, 5000])
def test_impossible_numbers_to_hold_out(images):
    with pytest.raises(UsageError, match=rf"validation must be 1 ... 1436 .* got {images}"):
        mcnn.data.load("digits", validation=images)


def test_holding_out_twice_or_from_nothing():
    digits = mcnn.data.load("digits", validation=10)
    with pytest.raises(UsageError, match="10 images of digits are held out already"):
        digits.hold_out(10)
    with pytest.raises(UsageError, match="digits has no training images"):
        replace(digits, train=None, validation=None).hold_out(10)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("index", [slice(2, 5), torch.tensor([7, 2, 2])])
def test_a_part_of_a_split(index, device):
    split = mcnn.data.load("digits", device=device).train
    part = split.part(index)
    assert torch.equal(part.images, split.images[index])
    assert torch.equal(part.labels, split.labels[index])
    torch.testing.assert_close(part.inputs(scale="standard"), split.inputs(index, "standard"))


@pytest.mark.parametrize("device", DEVICES)
def test_order_depends_on_the_generator_alone(device):
    split = small_split(100).to(device)

    def labels(generator):
        return torch.cat([y for _, y in split.batches(7, generator)]).tolist()

    state = torch.get_rng_state()
    generator = torch.Generator().manual_seed(5)
    first, second = labels(generator), labels(generator)
    assert first == torch.randperm(100, generator=torch.Generator().manual_seed(5)).tolist()
    assert first != second
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("device", DEVICES)
def test_inputs_are_torchvisions_to_tensor_and_normalize(device):
    (images, labels), _ = random_parts((8, 1), (3, 5, 6))
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
    split = Split(images, labels, mean, std).to(device)
    unit = torch.stack([TF.to_tensor(x.movedim(0, -1).numpy()) for x in images])
    assert torch.equal(split.inputs().cpu(), unit)
    index = torch.tensor([3, 1, 1], device=device)
    wanted = TF.normalize(unit, mean, std)[[3, 1, 1]]
    torch.testing.assert_close(split.inputs(index, scale="standard").cpu(), wanted)
    assert torch.equal(split.images.cpu(), images)  # converting changes nothing in place


def test_bad_requests_are_named():
    split = small_split()
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        next(split.batches(0))
    with pytest.raises(ValueError, match="no scale 'Unit'; there are: unit, standard"):
        split.inputs(scale="Unit")


# --- ILSVRC12 ------------------------------------------------------------------------------------


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Three validation photographs of two classes, laid out as torchvision unpacks them."""
    folder = tmp_path / "ilsvrc12"
    names = {"n01440764": ("tench", "Tinca tinca"), "n01443537": ("goldfish",)}
    rng = np.random.default_rng(2)
    for wnid, count in zip(names, (2, 1), strict=True):
        (folder / "val" / wnid).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 256, (300, 280, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "val" / wnid / f"{i}.JPEG")
    torch.save((names, ["n01440764", "n01440764", "n01443537"]), folder / "meta.bin")
    known = replace(DATASETS["ilsvrc12"], sizes=(0, 3))
    monkeypatch.setitem(DATASETS, "ilsvrc12", known)
    return folder


def test_ilsvrc12_decodes_when_asked(photos, tmp_path):
    data = mcnn.data.load("ilsvrc12", root=tmp_path)
    assert data.train is None
    assert data.classes == ("tench", "goldfish")
    assert data.shape == (3, 224, 224)
    assert data.test.labels.tolist() == [0, 0, 1]
    unit = data.test.inputs()
    assert unit.shape == (3, 3, 224, 224)
    assert unit.min() >= 0
    assert unit.max() <= 1
    standard = data.test.inputs(torch.tensor([2, 0]), scale="standard")
    torch.testing.assert_close(standard, TF.normalize(unit[[2, 0]], data.mean, data.std))
    batches = list(data.test.batches(2))
    assert torch.equal(torch.cat([x for x, _ in batches]), unit)
    assert [y.tolist() for _, y in batches] == [[0, 0], [1]]
    for index in (slice(1, 3), torch.tensor([1, 2])):
        part = data.test.part(index)
        assert part.labels.tolist() == [0, 1]
        assert torch.equal(part.inputs(), unit[1:])
    assert len(data.test) == 3
    with pytest.raises(UsageError, match="ilsvrc12 has no training images"):
        data.hold_out(1)


def test_ilsvrc12_damaged(photos, tmp_path):
    data = mcnn.data.load("ilsvrc12", root=tmp_path)
    file = photos / "val" / "n01443537" / "0.JPEG"
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(DataError, match=r"0\.JPEG is no readable image"):
        data.test.inputs()
    before = data.fingerprint
    file.rename(file.with_stem("1"))
    assert mcnn.data.load("ilsvrc12", root=tmp_path).fingerprint != before
    file.with_stem("1").unlink()
    Image.new("RGB", (4, 4)).save(photos / "val" / "n01440764" / "9.JPEG")
    Image.new("RGB", (4, 4)).save(photos / "val" / "n01440764" / "8.JPEG")
    file.with_name("2.JPEG").write_bytes(b"")
    assert refused("ilsvrc12", tmp_path, "5 test images instead of 3") == "damaged"
    (photos / "meta.bin").unlink()
    assert refused("ilsvrc12", tmp_path, "devkit", "image-net.org") == "damaged"


# --- the published files -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["digits", "mnist", "fashion-mnist", "cifar10"])
def test_published_set(name, monkeypatch):
    monkeypatch.undo()  # the user's own cache
    try:
        data = mcnn.data.load(name)  # checks sizes and fingerprint
    except DataError as error:
        if mcnn.data.status(name).state == "missing":
            pytest.skip(str(error))
        raise
    assert [len(data.train), len(data.test)] == list(DATASETS[name].sizes)
    pixels = data.train.images.flatten(2)  # [n, c, h w]
    counts = [torch.bincount(pixels[:, c].flatten(), minlength=256) for c in range(len(data.mean))]
    grey = torch.arange(256) / 255
    for count, mean, std in zip(counts, data.mean, data.std, strict=True):
        share = count / count.sum()
        assert float(share @ grey) == pytest.approx(mean, abs=6e-5)
        assert float(share @ (grey - mean) ** 2) ** 0.5 == pytest.approx(std, abs=6e-5)
    assert len(data.classes) == len(data.train.labels.unique()) == 10
