"""A folder of pictures with captions in the form of Hugging Face's `imagefolder`."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from genmodels.data.captioned_sources import CaptionedMaterial, CaptionedPart, CaptionRequest
from genmodels.data.captions import clean
from genmodels.data.picture_file import open_picture, require_size, rgb
from genmodels.errors import InputError

_TABLES = ("metadata.jsonl", "metadata.csv")
_FILE, _TEXT = "file_name", "text"
_SPLITS = {  # the folders' names that the hub knows
    "train": "train", "training": "train",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
    "test": "test", "testing": "test", "eval": "test",
}  # fmt: skip


class _Row(NamedTuple):
    place: str  # file and line, for messages
    file: Path
    caption: str


def imagefolder(request: CaptionRequest) -> CaptionedMaterial:
    """Return the pictures that a table lists, in colours, with its captions.

    `metadata.jsonl` or `metadata.csv` with `file_name` and `text` lies in the folder, or one in each of its
    folders `train`, `validation` and `test`. A picture may have several captions, a row each. Transparent
    pixels lie on white; all pictures have one size, or are cut to the shape of `size` about their middle and
    resized (Lanczos).

    Raises:
        InputError: no table, a row without file or text, a path that leaves the folder, an unreadable
            picture, or one of another size than the first.
    """
    path = request.path
    if path is None:
        raise InputError("prepare_captions.path = null: 'imagefolder' needs the folder of your pictures")
    if not path.is_dir():
        what = "a file" if path.exists() else "no such folder"
        raise InputError(f"{path}: {what}; expected a folder with {' or '.join(_TABLES)}")
    if request.size is not None:
        require_size("prepare_captions.size", request.size)
    parts = {split: list(_rows(table)) for split, table in _tables(path).items()}
    first: tuple[Path, tuple[int, ...]] | None = None
    read: dict[str, CaptionedPart] = {}
    number: dict[Path, int] = {}
    for split, rows in parts.items():
        levels = []
        for row in rows:
            picture = _picture(row, request.size)
            first = first or (row.file, picture.shape)
            if picture.shape != first[1]:
                one, other = ("×".join(map(str, shape[:2])) for shape in (picture.shape, first[1]))
                raise InputError(
                    f"{row.file}: {one} pixels, but {first[0]} has {other}; "
                    "prepare_captions.size = [height, width] resizes all"
                )
            levels.append(picture.ravel())
        groups = np.array([number.setdefault(row.file, len(number)) for row in rows], dtype=np.int64)
        read[split] = CaptionedPart(np.stack(levels), [row.caption for row in rows], groups)
    assert first is not None  # no table is empty
    height, width = first[1][:2]
    return CaptionedMaterial(read, (height, width, 3), 256, "folder of captioned pictures")


def _tables(path: Path) -> dict[str, Path]:
    """Return the table of each split."""
    here = _table(path)
    if here is not None:
        return {"train": here}
    found: dict[str, Path] = {}
    for folder in sorted(it for it in path.iterdir() if it.is_dir() and it.name.lower() in _SPLITS):
        split, table = _SPLITS[folder.name.lower()], _table(folder)
        if table is not None and split in found:
            raise InputError(f"{folder}: {found[split].parent.name} is the {split} split, too; keep one")
        if table is not None:
            found[split] = table
    if "train" not in found:
        raise InputError(
            f"{path}: no {' or '.join(_TABLES)} in it or in a folder 'train'; "
            f"list the pictures there, with {_FILE} and {_TEXT}"
        )
    return found


def _table(folder: Path) -> Path | None:
    found = [folder / name for name in _TABLES if (folder / name).is_file()]
    if len(found) > 1:
        raise InputError(f"{folder}: has both {' and '.join(_TABLES)}; keep one")
    return found[0] if found else None


def _rows(table: Path) -> Iterator[_Row]:
    n_rows = 0
    root = table.parent.resolve()
    for line, values in _jsonl(table) if table.suffix == ".jsonl" else _csv(table):
        place = f"{table}: line {line}"
        for key in (_FILE, _TEXT):
            if not isinstance(values.get(key), str):
                raise InputError(f"{place} has no text as '{key}'; give {_FILE} and {_TEXT} in every row")
        n_rows += 1
        yield _Row(place, _inside(root, table.parent, values[_FILE], place), clean(values[_TEXT]))
    if not n_rows:
        raise InputError(f"{table}: lists no picture; expected rows with {_FILE} and {_TEXT}")


def _jsonl(table: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for line, text in enumerate(_text(table).split("\n"), start=1):
        if not text.strip():
            continue
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{table}: line {line} is not JSON ({error})") from error
        if not isinstance(values, dict):
            raise InputError(f"{table}: line {line} is {type(values).__name__}, expected {{'{_FILE}': …}}")
        yield line, values


def _csv(table: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(_text(table).splitlines(keepends=True), strict=True)
    try:
        for values in reader:
            yield reader.line_num, values
    except csv.Error as error:
        raise InputError(f"{table}: line {reader.line_num + 1} is not CSV ({error})") from error


def _text(table: Path) -> str:
    try:
        return table.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{table}: not UTF-8 text ({error.reason} at byte {error.start})") from error


def _inside(root: Path, folder: Path, name: str, place: str) -> Path:
    """Return the path of a listed file, which no part of its name and no link may lead out of the folder."""
    file = folder / name
    try:
        inside, there = file.resolve().is_relative_to(root), file.is_file()
    except (OSError, RuntimeError, ValueError) as error:  # too long, links in a circle, a zero byte
        raise InputError(f"{place}: {_FILE} = {name[:60]!r} is no path ({error})") from error
    if not inside:
        raise InputError(f"{place}: {_FILE} = {name!r} is not below {folder}; keep the pictures there")
    if not there:
        raise InputError(f"{place}: {_FILE} = {name!r}: no such file in {folder}")
    return file


def _picture(row: _Row, size: tuple[int, int] | None) -> np.ndarray:  # -> (row, column, 3)
    image = rgb(open_picture(row.file))
    if size is None:
        return np.asarray(image)
    height, width = size
    wide, tall = image.size
    scale = min(wide / width, tall / height)  # what is kept has the wanted shape
    left, above = (wide - scale * width) / 2, (tall - scale * height) / 2
    box = (left, above, wide - left, tall - above)
    return np.asarray(image.resize((width, height), Image.Resampling.LANCZOS, box=box))
