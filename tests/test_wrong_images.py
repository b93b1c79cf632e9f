"""Whatever is wrong with the pictures handed in, one line says what, where, and what was expected."""

import gzip
import io
import json
import random
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from inputs import DEFAULTS
from PIL import Image

from genmodels.data import images
from genmodels.data.idx import read_idx
from genmodels.data.npz import read_npz
from genmodels.data.prepare import prepare_dataset
from genmodels.errors import InputError

IDX = {
    "train-images-idx3-ubyte": struct.pack(">BBBBIII", 0, 0, 8, 3, 8, 2, 3) + bytes(range(48)),
    "train-labels-idx1-ubyte": struct.pack(">BBBBI", 0, 0, 8, 1, 8) + bytes([0, 1] * 4),
    "t10k-images-idx3-ubyte": struct.pack(">BBBBIII", 0, 0, 8, 3, 2, 2, 3) + bytes(range(12)),
    "t10k-labels-idx1-ubyte": struct.pack(">BBBBI", 0, 0, 8, 1, 2) + bytes([0, 1]),
}


def complaint(call: Callable[[], object]) -> str:
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    return message


def png(height: int, width: int, level: int = 100) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(level).integers(0, 256, (height, width), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def bomb(side: int) -> bytes:
    """Return a PNG that announces side × side pixels."""
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b"")]
    chunks = [struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def write(folder: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def nan_at(index: tuple[int, ...]) -> np.ndarray:
    array = np.zeros((4, 2, 3))
    array[index] = np.nan
    return array


GOOD = {f"{k}.png": png(4, 6, k) for k in range(5)}
BITS = np.zeros((4, 784), dtype=np.uint8)


@pytest.mark.parametrize(
    ("files", "options", "words"),
    [
        ({}, {}, ["no picture in it", ".png"]),
        ({"notes.txt": b"no picture"}, {}, ["no picture in it"]),
        (GOOD | {"x.png": png(4, 7)}, {}, ["x.png", "4×7", "4×6", "data.size"]),
        (GOOD | {"x.png": png(4, 6)[:-40]}, {}, ["x.png", "not a readable picture"]),
        (GOOD | {"x.png": png(4, 6)[:10]}, {}, ["x.png", "not a readable picture"]),
        (GOOD | {"x.png": b""}, {}, ["x.png", "not a readable picture"]),
        (GOOD | {"x.jpg": b"hello"}, {}, ["x.jpg", "not a readable picture"]),
        (GOOD | {"x.png": bomb(10000)}, {}, ["x.png", "not a readable picture", "100000000 pixels"]),
        (GOOD | {"x.png": bomb(60000)}, {}, ["x.png", "not a readable picture", "3600000000 pixels"]),
        ({"x.npy": npy(nan_at((2, 1, 0)))}, {}, ["x.npy", "image 2, row 1, column 0 is nan", "0 to 1"]),
        ({"x.npy": npy(np.full((4, 2, 3), 1.5))}, {}, ["x.npy", "image 0, row 0, column 0 is 1.5", "0 to 1"]),
        ({"x.npy": npy(np.full((2, 3), 256))}, {}, ["x.npy", "is 256", "0 to 255"]),
        ({"x.npy": npy(np.full((2, 3), -1))}, {}, ["x.npy", "is -1", "0 to 255"]),
        ({"x.npy": npy(np.zeros(5))}, {}, ["x.npy", "shape (5,)", "(row, column)"]),
        ({"x.npy": npy(np.zeros((0, 2, 3)))}, {}, ["x.npy", "shape (0, 2, 3)"]),
        ({"x.npy": npy(np.zeros((2, 3), dtype=complex))}, {}, ["x.npy", "complex"]),
        ({"x.npy": npy(np.zeros((3, 4)))[:-8]}, {}, ["x.npy", "cut off"]),
        (
            {"x.npy": npy(np.array([{}], dtype=object))},
            {},
            ["x.npy", "Python objects, which are never loaded"],
        ),
        ({"a.png": png(4, 6), "b.png": png(4, 6)}, {}, ["2 images are too few"]),
        (GOOD, {"limit": 2}, ["2 images are too few", "data.limit"]),
    ],
)
def test_wrong_folders(
    tmp_path: Path, files: dict[str, bytes], options: dict[str, Any], words: list[str]
) -> None:
    write(tmp_path, files)
    message = complaint(lambda: prepare_dataset("folder", **DEFAULTS | {"path": str(tmp_path)} | options))
    assert [word for word in words if word not in message] == [], message


@pytest.mark.parametrize("name", ["folder", "mnist", "binarized_mnist"])
def test_a_path_that_leads_nowhere(tmp_path: Path, name: str) -> None:
    path = tmp_path / "nothing"
    message = complaint(lambda: prepare_dataset(name, **DEFAULTS | {"path": str(path)}))
    assert message.startswith(f"{path}: no such f")


@pytest.mark.parametrize("name", ["folder", "mnist"])
def test_a_file_where_a_folder_was_expected(tmp_path: Path, name: str) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(png(4, 6))
    message = complaint(lambda: prepare_dataset(name, **DEFAULTS | {"path": str(path)}))
    assert message.startswith(f"{path}: a file; expected ")


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("train-images-idx3-ubyte", lambda b: b[:10], ["ends within its header", "10 bytes"]),
        ("train-images-idx3-ubyte", lambda b: b"", ["begins with the bytes (none)"]),
        ("train-images-idx3-ubyte", lambda b: b[:-1], ["announces 48 bytes", "only 47"]),
        ("t10k-images-idx3-ubyte", lambda b: b + b"\0", ["announces 12 bytes", "more follow"]),
        ("t10k-labels-idx1-ubyte", lambda b: b"PK\3\4" + b[4:], ["504b0304", "expected 00000801"]),
        ("train-labels-idx1-ubyte", lambda b: b[:7] + b"\7" + b[8:-1], ["8 images but 7 labels", "train"]),
        ("t10k-images-idx3-ubyte", lambda b: b[:11] + b"\3\0\0\0\2" + b[16:], ["2×3", "3×2"]),
        ("train-images-idx3-ubyte", lambda b: b[:4] + b"\xff" * 12 + b[16:], ["train-images"]),
        ("train-labels-idx1-ubyte", lambda b: None, ["no file train-labels-idx1-ubyte"]),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_wrong_idx_files(
    tmp_path: Path, name: str, change: Callable[[bytes], bytes | None], words: list[str], packed: bool
) -> None:
    files = {key: change(data) if key == name else data for key, data in IDX.items()}
    for key, data in files.items():
        if data is not None:
            path = tmp_path / (key + ".gz" * packed)
            path.write_bytes(gzip.compress(data) if packed else data)
    message = complaint(lambda: prepare_dataset("mnist", **DEFAULTS | {"path": str(tmp_path)}))
    assert str(tmp_path) in message
    assert [word for word in words if word not in message] == [], message


def test_the_files_above_are_right_before_they_are_changed(tmp_path: Path) -> None:
    write(tmp_path, IDX)
    prepared, _ = prepare_dataset("mnist", **DEFAULTS | {"path": str(tmp_path)})
    assert prepared.shape == (2, 3, 1)
    write(tmp_path / "pictures", GOOD)
    prepared, _ = prepare_dataset("folder", **DEFAULTS | {"path": str(tmp_path / "pictures")})
    assert prepared.shape == (4, 6, 1)
    (tmp_path / "bits.npz").write_bytes(npz(x_train=BITS, x_valid=BITS, x_test=BITS))
    prepared, _ = prepare_dataset("binarized_mnist", **DEFAULTS | {"path": str(tmp_path / "bits.npz")})
    assert prepared.shape == (28, 28, 1)


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-12], lambda b: b"\x1f\x8c" + b[2:], lambda b: b[:20] + b"\xff\xff" + b[22:]]
)
def test_damaged_gzip(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "a.gz"
    path.write_bytes(damage(gzip.compress(IDX["train-images-idx3-ubyte"])))
    message = complaint(lambda: read_idx(path, 3))
    assert message.startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (npz(x_train=BITS, x_test=BITS), ["no array 'x_valid'", "'x_train', 'x_test'"]),
        (npz(x_train=BITS, x_valid=BITS, x_test=BITS)[:-30], ["cut off"]),
        (b"no archive", ["not a file of numpy arrays"]),
        (npz(x_train=np.array([{}, []], dtype=object), x_valid=BITS, x_test=BITS), ["Python objects"]),
        (npz(x_train=BITS, x_valid=BITS + 2, x_test=BITS), ["x_valid, image 0, pixel 0 is 2", "0 or 1"]),
        (npz(x_train=BITS, x_valid=BITS, x_test=BITS * np.nan), ["x_test, image 0, pixel 0 is nan"]),
        (
            npz(x_train=BITS[:, :100], x_valid=BITS, x_test=BITS),
            ["x_train", "(4, 100)", "(n, 784)", "(n, 98)"],
        ),
        (npz(x_train=BITS[:, :98] * 1.0, x_valid=BITS, x_test=BITS), ["x_train", "float64"]),
        (npz(x_train=BITS, x_valid=BITS[:0], x_test=BITS), ["the validation split is empty"]),
    ],
)
def test_wrong_binarised_files(tmp_path: Path, data: bytes, words: list[str]) -> None:
    path = tmp_path / "b.npz"
    path.write_bytes(data)
    message = complaint(lambda: prepare_dataset("binarized_mnist", **DEFAULTS | {"path": str(path)}))
    assert [word for word in words if word not in message] == [], message


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("ising", {"size": (5, 5)}, ["data.size = [5, 5]", "20 sites", "25"]),
        ("ising", {"size": None}, ["data.size = null", "[4, 4]"]),
        ("ising", {"size": (2, 2), "n_samples": 2}, ["2 images are too few"]),
        ("bars_and_stripes", {"size": None}, ["data.size = null", "[4, 4]"]),
        ("bars_and_stripes", {"size": (13, 2)}, ["data.size = [13, 2]", "12"]),
        ("bars_and_stripes", {"size": (4, 4), "limit": 10}, ["data.limit = 10", "30", "null"]),
        ("folder", {}, ["data.path = null"]),
        ("digits", {"limit": 2}, ["2 images are too few", "data.limit"]),
        (
            "digits",
            {"limit": 10, "validation": 0.5, "test": 0.49},
            ["too few", "5 for test", "5 for validation"],
        ),
        ("digts", {}, ["digts", "did you mean 'digits'"]),
    ],
)
def test_wrong_parameters(name: str, options: dict[str, Any], words: list[str]) -> None:
    message = complaint(lambda: prepare_dataset(name, **DEFAULTS | options))
    assert [word for word in words if word not in message] == [], message


def test_a_limit_that_empties_a_given_split(tmp_path: Path) -> None:
    write(tmp_path, IDX)
    message = complaint(lambda: prepare_dataset("mnist", **DEFAULTS | {"path": str(tmp_path), "limit": 1}))
    assert message.startswith("data.limit = 1: leaves the test split without an image")


class Trap:
    """Whoever unpickles this, fails the test."""

    def __reduce__(self) -> tuple[Any, ...]:
        return pytest.fail, ("the file was unpickled",)


def test_nothing_is_ever_unpickled(tmp_path: Path) -> None:
    (tmp_path / "x.npy").write_bytes(npy(np.array([Trap()], dtype=object)))
    assert "never loaded" in complaint(
        lambda: prepare_dataset("folder", **DEFAULTS | {"path": str(tmp_path)})
    )
    (tmp_path / "x.npz").write_bytes(npz(states=np.array([Trap()], dtype=object)))
    assert "never loaded" in complaint(lambda: read_npz(tmp_path / "x.npz", ("states",)))
    with pytest.raises(pytest.fail.Exception, match="unpickled"):
        np.load(tmp_path / "x.npy", allow_pickle=True)


def prepared_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    prepared, target = prepare_dataset("ising", **DEFAULTS | {"size": (2, 2), "n_samples": 20})
    images.save(folder, prepared, target)
    assert images.load(folder).shape == (2, 2, 1)
    return folder


def change_meta(folder: Path, **entries: Any) -> None:
    path = folder / "meta.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def change_array(folder: Path, **arrays: np.ndarray) -> None:
    with np.load(folder / "images.npz") as archive:
        np.savez(folder / "images.npz", **dict(archive) | arrays)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: (f / "meta.json").unlink(), ["meta.json", "not a folder of prepared images"]),
        (lambda f: (f / "meta.json").write_text("{"), ["meta.json", "not a JSON file"]),
        (lambda f: (f / "meta.json").write_bytes(b"\xff"), ["meta.json", "not a JSON file"]),
        (lambda f: (f / "meta.json").write_text("[]"), ["meta.json", "a mapping"]),
        (lambda f: change_meta(f, levels="2"), ["meta.json", "levels is not of type int"]),
        (lambda f: change_meta(f, format=9), ["meta.json", "format is 9"]),
        (lambda f: change_meta(f, shape=[2, 2]), ["meta.json", "height, width, channels"]),
        (lambda f: change_meta(f, shape=[2, 3, 1]), ["images.npz", "'train'", "[2, 3, 1]"]),
        (lambda f: (f / "images.npz").unlink(), ["images.npz", "no such file"]),
        (
            lambda f: (f / "images.npz").write_bytes((f / "images.npz").read_bytes()[:99]),
            ["images.npz", "cut off"],
        ),
        (lambda f: change_array(f, test_binary=np.zeros((3, 4), np.uint8)), ["images.npz", "'test'"]),
        (lambda f: change_array(f, train_grey=np.zeros((14, 4))), ["images.npz", "'train'", "uint8"]),
        (lambda f: change_array(f, train_grey=np.full((14, 4), 2, np.uint8)), ["'train'", "2 levels"]),
    ],
)
def test_damaged_folders_of_images(
    tmp_path: Path, change: Callable[[Path], object], words: list[str]
) -> None:
    folder = prepared_folder(tmp_path)
    change(folder)
    message = complaint(lambda: images.load(folder))
    assert [word for word in words if word not in message] == [], message


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", ["target.npz", "not a file of numpy arrays"]),
        (npz(states=BITS), ["target.npz", "no array 'log_p'"]),
        (npz(states=BITS, log_p=np.zeros(5), full_support=True), ["target.npz", "do not fit"]),
    ],
)
def test_damaged_targets(tmp_path: Path, data: bytes, words: list[str]) -> None:
    folder = prepared_folder(tmp_path)
    (folder / "target.npz").write_bytes(data)
    message = complaint(lambda: images.load_target(folder))
    assert [word for word in words if word not in message] == [], message


def test_a_flipped_bit_in_an_array_is_noticed(tmp_path: Path) -> None:
    folder = prepared_folder(tmp_path)
    data = bytearray((folder / "images.npz").read_bytes())
    with np.load(folder / "images.npz") as archive:
        data[data.index(archive["train_binary"].tobytes())] ^= 1
    (folder / "images.npz").write_bytes(data)
    assert "CRC" in complaint(lambda: images.load(folder))


@pytest.mark.parametrize(
    ("name", "data"),
    [("x.png", png(9, 13)), ("x.npy", npy(np.arange(12, dtype=np.uint8).reshape(3, 4)))],
)
def test_random_damage_is_an_input_error_or_a_picture(tmp_path: Path, name: str, data: bytes) -> None:
    source = random.Random(12)
    outcomes = {"picture": 0, "complaint": 0}
    path = tmp_path / name
    for _ in range(300):
        damaged = bytearray(data[: source.choice([len(data), source.randrange(len(data))])])
        for _ in range(source.choice([1, 4])):
            if damaged:
                damaged[source.randrange(len(damaged))] = source.randrange(256)
        path.write_bytes(damaged)
        message = ""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                prepare_dataset("folder", **DEFAULTS | {"path": str(tmp_path)})
        except InputError as error:
            message = str(error)
        assert "\n" not in message
        readable = not message or "too few" in message  # one picture is no data set
        outcomes["picture" if readable else "complaint"] += 1
    assert min(outcomes.values()) > 0, outcomes
