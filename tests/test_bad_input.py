"""Whatever is in a file that is handed in: one line, no hang, bounded memory, nothing written elsewhere."""

import gzip
import io
import json
import resource
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import ROOT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from inputs import DEFAULTS
from PIL import Image
from test_wrong_images import IDX, complaint, npz, png, write

from genmodels.artifacts import load_tensors, read_json
from genmodels.data.idx import read_idx
from genmodels.data.npz import read_npy, read_npz
from genmodels.data.prepare import prepare_dataset
from genmodels.errors import InputError
from genmodels.placement.trees import dumps, loads
from pipelines import params

QUICK = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
LONG = settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
GOOD = (ROOT / "params.yaml").read_text()
MiB = 2**20


def survives(read: Callable[[], object]) -> bool:
    """Return whether it was read; what is not ends in one line."""
    try:
        read()
    except InputError as error:
        assert "\n" not in str(error)  # noqa: PT017 - either of the two may happen
        assert len(str(error)) < 1000  # noqa: PT017
        return False
    return True


def damaged(whole: bytes) -> st.SearchStrategy[bytes]:
    """Return files like this one with other bytes somewhere, cut off or not."""

    def change(place: int, other: bytes, end: int) -> bytes:
        return (whole[:place] + other + whole[place + len(other) :])[:end]

    places = st.integers(0, len(whole))
    return st.builds(change, places, st.binary(max_size=12), places | st.just(len(whole)))


# params.yaml

ODD = st.sampled_from([
    "!!int ''", "!!int x", "!!float x", "!!bool x", "!!timestamp x", "!!binary x", "!!set {a}",
    "!!omap [a: 1]", "!!null x", "2001-13-45", "2001-01-01", "9" * 5000, "-" + "9" * 400, "1e400", ".inf",
    ".nan", "0x", "1:99:99", "*nowhere", "&a [*a]", "&a {b: *a}", "{? [1, 2] : 3}", "{{a: 1}: 2}", "{<<: 3}",
    "{<<: [{a: 1}]}", "[" * 500, "{" * 500, "~", "''", '"\\ud800"', '"\\0"', "'a\n\nb'", "- 1", "? x", "|",
    "%TAG", "\t", "@", "`", "<<", "!unknown x", "!!python/name:os.system", "[[[[[[[[[[1]]]]]]]]]]",
    "{a: {b: {c: {d: 1}}}}",
])  # fmt: skip
KEYS = [line.split("#")[0].rstrip() for line in GOOD.splitlines() if ": " in line.split("#")[0]]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


def settings_survive(folder: Path, text: str | bytes) -> bool:
    path = folder / "params.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    return survives(lambda: params.read(path))


def with_text(line: str, value: str) -> str:
    return GOOD.replace(line, f"{line.split(':')[0]}: {value}", 1)


def with_value(keys: list[str], value: Any) -> str:
    values = block = yaml.safe_load(GOOD)
    for key in keys[:-1]:
        block = block[key]
    block[keys[-1]] = value
    return yaml.safe_dump(values, allow_unicode=True)


def paths(block: Any, prefix: tuple[str, ...] = ()) -> list[list[str]]:
    inner = [paths(value, (*prefix, key)) for key, value in block.items() if isinstance(value, dict)]
    return [[*prefix, key] for key in block] + [path for found in inner for path in found]


ANY_SETTINGS = (
    st.builds(with_text, st.sampled_from(KEYS), ODD)
    | st.builds(with_value, st.sampled_from(paths(yaml.safe_load(GOOD))), VALUES)
    | damaged(GOOD.encode())
    | st.text(max_size=60)
    | st.binary(max_size=60)
)


@QUICK
@given(ANY_SETTINGS)
def test_any_settings_are_taken_or_refused_in_one_line(tmp_path: Path, text: str | bytes) -> None:
    settings_survive(tmp_path, text)


@pytest.mark.slow
@LONG
@given(ANY_SETTINGS)
def test_many_settings(tmp_path: Path, text: str | bytes) -> None:
    settings_survive(tmp_path, text)


@pytest.mark.parametrize("odd", [
    "!!int ''", "!!bool x", "!!timestamp x", "2001-13-45", "9" * 5000, "{? [1, 2] : 3}", "[" * 500,
    "&a [*a]",
])  # fmt: skip
def test_odd_values_are_refused(odd: str, tmp_path: Path) -> None:
    assert not settings_survive(tmp_path, GOOD.replace("seed: 2026", f"seed: {odd}", 1))


@pytest.mark.parametrize("merge", [False, True])
def test_aliases_of_aliases_take_no_memory(merge: bool, tmp_path: Path) -> None:
    lines = ["a0: &a0 {x: 1, y: 2}"]
    for k in range(1, 12):
        many = ", ".join([f"*a{k - 1}"] * 9)
        lines.append(f"a{k}: &a{k} " + (f"{{<<: [{many}]}}" if merge else f"[{many}]"))
    assert not settings_survive(tmp_path, "\n".join([*lines, GOOD]))


# pictures


def encoded(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=format, **options)
    return buffer.getvalue()


def noise(mode: str, side: int = 6) -> Image.Image:
    shape = (side, side, len(Image.new(mode, (1, 1)).getbands()))
    pixels = np.random.default_rng(5).integers(0, 256, shape, dtype=np.uint8)
    return Image.frombytes(mode, (side, side), pixels.tobytes())


def animated() -> bytes:
    frames = [Image.new("L", (6, 6), level) for level in (10, 120, 240)]
    return encoded(frames[0], "PNG", save_all=True, append_images=frames[1:], duration=20)


SIXTEEN = Image.fromarray(np.arange(36, dtype=np.uint16).reshape(6, 6) * 1800)
READ = {
    "CMYK": ("x.jpg", encoded(noise("CMYK"), "JPEG")),
    "YCbCr": ("x.jpeg", encoded(noise("YCbCr"), "JPEG")),
    "16 bits": ("x.png", encoded(SIXTEEN, "PNG")),
    "palette": ("x.png", encoded(noise("RGB").convert("P"), "PNG")),
    "transparent palette": ("x.png", encoded(noise("RGB").convert("P"), "PNG", transparency=3)),
    "grey with opacity": ("x.png", encoded(noise("LA"), "PNG")),
    "one bit": ("x.png", encoded(noise("L").convert("1"), "PNG")),
    "animated, of which the first is taken": ("x.png", animated()),
    "a photograph that is called PNG": ("x.png", encoded(noise("RGB"), "JPEG")),
}
REFUSED = {
    "text": ("x.png", b"a renamed text\n" * 50),
    "HTML": ("x.jpg", b"<!doctype html><title>404</title>"),
    "GIF": ("x.png", encoded(noise("L"), "GIF")),
    "BMP": ("x.png", encoded(noise("L"), "BMP")),
    "TIFF": ("x.jpg", encoded(noise("L"), "TIFF")),
    "PostScript": ("x.png", encoded(noise("L"), "EPS")),
    "PDF": ("x.jpg", b"%PDF-1.4\n%%EOF"),
}


def of_folder(folder: Path, **options: Any) -> Any:
    return prepare_dataset("folder", **DEFAULTS | {"path": str(folder)} | options)[0]


@pytest.mark.parametrize("kind", READ)
def test_kinds_of_pictures_that_are_read(kind: str, tmp_path: Path) -> None:
    name, data = READ[kind]
    write(tmp_path, {f"{k}.png": png(6, 6, k) for k in range(4)} | {name: data})
    made = of_folder(tmp_path)
    assert (made.shape, made.levels) == ((6, 6, 1), 256)
    assert sum(len(split.labels) for split in made.splits.values()) == 5


@pytest.mark.parametrize("kind", REFUSED)
def test_kinds_of_files_that_are_refused(kind: str, tmp_path: Path) -> None:
    name, data = REFUSED[kind]
    write(tmp_path, {f"{k}.png": png(6, 6, k) for k in range(4)} | {name: data})
    assert f"{name}: not a readable picture" in complaint(lambda: of_folder(tmp_path))


def test_pictures_of_one_pixel(tmp_path: Path) -> None:
    write(tmp_path, {f"{k}.png": png(1, 1, k) for k in range(9)})
    assert of_folder(tmp_path).shape == (1, 1, 1)


def test_pictures_that_would_be_resized_beyond_all_bounds(tmp_path: Path) -> None:
    write(tmp_path, {f"{k}.png": png(6, 6, k) for k in range(9)})
    assert "data.size = [100000, 100000]" in complaint(lambda: of_folder(tmp_path, size=(100000, 100000)))


def real_bomb(side: int) -> bytes:
    """Return a PNG of side × side black pixels, all of which are there."""
    packer, rows = zlib.compressobj(9), bytes(side + 1) * 100
    data = b"".join(packer.compress(rows) for _ in range(side // 100)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", data), (b"IEND", b"")]
    chunks = [struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


# arrays


def header(shape: tuple[int, ...], kind: str = "<f8") -> bytes:
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


HUGE = {
    "an array that announces 8 TB": lambda p: read_npy(written(p / "x.npy", header((10**12,)) + bytes(80))),
    "an array that announces 80 GB": lambda p: read_npy(written(p / "x.npy", header((10**10,)) + bytes(80))),
    "an array of negative length": lambda p: read_npy(written(p / "x.npy", header((-1, -5)) + bytes(80))),
    "an archive that unpacks to 512 MB": lambda p: read_npz(zipped(p / "x.npz", 512), ("a",)),
    "IDX that announces 16 EB": lambda p: read_idx(written(p / "x", IDX_HEAD + b"\xff" * 12 + bytes(80)), 3),
    "IDX that announces 4 GB": lambda p: read_idx(
        written(p / "x", IDX_HEAD + struct.pack(">III", 4096, 1024, 1024) + bytes(80)), 3
    ),
    "packed IDX that unpacks to 512 MB": lambda p: read_idx(packed(p / "x.gz", 512), 3),
    "a picture of 20,000 × 20,000": lambda p: of_folder(written(p / "x.png", real_bomb(20000)).parent),
    "safetensors of 8 EB": lambda p: load_tensors(written(p / "x", b"\xff" * 7 + b"\x7f" + bytes(80))),
    "brackets without end": lambda p: read_json(written(p / "x.json", b"[" * 10**6)),
    "a number without end": lambda p: read_json(written(p / "x.json", b"9" * 10**6)),
}  # fmt: skip
IDX_HEAD = bytes([0, 0, 8, 3])


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def zipped(path: Path, n_mib: int) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a.npy", "w") as file:
        file.write(header((n_mib * MiB,), "|u1"))
        for _ in range(n_mib):
            file.write(bytes(MiB))
    return path


def packed(path: Path, n_mib: int) -> Path:
    with gzip.open(path, "wb") as file:
        file.write(IDX_HEAD + struct.pack(">III", n_mib, 1024, 1024))
        for _ in range(n_mib):
            file.write(bytes(MiB))
    return path


@pytest.mark.parametrize("what", HUGE)
@pytest.mark.slow
def test_nothing_small_fills_the_memory(what: str, tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "\n" not in complaint(lambda: HUGE[what](tmp_path))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before  # KiB
    assert grown < 200 * 1024


def test_ordinary_files_are_packed_far_less_than_what_is_refused(tmp_path: Path) -> None:
    labels = np.full(200_000, -1, dtype=np.int64)
    np.savez_compressed(tmp_path / "x.npz", labels=labels, bits=np.zeros((10_000, 784), np.uint8))
    np.testing.assert_array_equal(read_npz(tmp_path / "x.npz", ("labels", "bits"))["labels"], labels)


ARCHIVE = npz(a=np.arange(6.0).reshape(2, 3), b=np.arange(4, dtype=np.uint8))
ARRAY = header((2, 3)) + np.arange(6.0).tobytes()
TENSORS = (lambda head: struct.pack("<Q", len(head)) + head + bytes(24))(
    json.dumps({"a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}).encode()
)
TREE = dumps({"a": [1, 2.5, (None, "x")], "b": np.arange(3)})
IMAGES = IDX["train-images-idx3-ubyte"]
HEADERS = st.dictionaries(
    st.text(max_size=3) | st.just("__metadata__"),
    st.fixed_dictionaries({
        "dtype": st.sampled_from(["F32", "F64", "BOOL", "F4", "object", ""]) | st.integers(),
        "shape": st.lists(st.integers(-3, 2**64), max_size=3) | st.none(),
        "data_offsets": st.lists(st.integers(-3, 2**65), min_size=1, max_size=3),
    }) | VALUES,
    max_size=2,
)  # fmt: skip


def tensors_of(entries: Any, length: int | None = None) -> bytes:
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + bytes(24)


def tree_survives(data: bytes) -> None:
    """Damaged checkpoints are a ValueError, which makes their reader take the one before."""
    try:
        loads(data)
    except ValueError:
        return


def files_survive(folder: Path, kind: str, data: bytes) -> None:
    path = folder / ("x.gz" if kind == "packed IDX" else "x")
    path.write_bytes(data)
    reads: dict[str, Callable[[], object]] = {
        "npz": lambda: read_npz(path, ("a", "b")),
        "npy": lambda: read_npy(path),
        "IDX": lambda: read_idx(path, 3),
        "packed IDX": lambda: read_idx(path, 3),
        "safetensors": lambda: load_tensors(path),
        "JSON": lambda: read_json(path),
    }
    if kind == "checkpoint":
        tree_survives(data)
    else:
        survives(reads[kind])
    assert [one.name for one in folder.iterdir()] == [path.name]
    path.unlink()


def of_kind(kind: str, *files: st.SearchStrategy[bytes]) -> st.SearchStrategy[tuple[str, bytes]]:
    return st.tuples(st.just(kind), st.one_of(*files, st.binary(max_size=80)))


LENGTHS = st.none() | st.integers(0, 2**64 - 1)
ANY_FILE = st.one_of(
    of_kind("npz", damaged(ARCHIVE)),
    of_kind("npy", damaged(ARRAY)),
    of_kind("IDX", damaged(IMAGES)),
    of_kind("packed IDX", damaged(gzip.compress(IMAGES, mtime=0)), damaged(IMAGES).map(gzip.compress)),
    of_kind("safetensors", damaged(TENSORS), st.builds(tensors_of, HEADERS, LENGTHS)),
    of_kind("checkpoint", damaged(TREE)),
    of_kind("JSON", VALUES.map(lambda value: json.dumps(value).encode()), damaged(b'{"a": [1, 2.5, null]}')),
)  # fmt: skip


@settings(QUICK, max_examples=150)
@given(ANY_FILE)
def test_any_file_is_read_or_refused_in_one_line(tmp_path: Path, file: tuple[str, bytes]) -> None:
    files_survive(tmp_path, *file)


@pytest.mark.slow
@settings(LONG, max_examples=3000)
@given(ANY_FILE)
def test_many_files(tmp_path: Path, file: tuple[str, bytes]) -> None:
    files_survive(tmp_path, *file)


def test_the_files_that_are_damaged_are_right_before() -> None:
    assert loads(TREE)["a"] == [1, 2.5, (None, "x")]
    assert params.read(ROOT / "params.yaml").seed == 2026


def test_a_stage_without_memory_says_so_in_one_line(tmp_path: Path) -> None:
    code = "from pipelines.stage import one_line_errors\nwith one_line_errors():\n    raise MemoryError\n"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "genmodels: error: not enough memory\n")
