"""What travels: a checkout to the cluster as a zip, results back as lines of the job's log.

The log needs no shared file system and no connection but the one that the job was submitted through, and
text is decoded without running anything in it, as a pickle would.
"""

import base64
import fnmatch
import glob
import hashlib
import os
import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from genmodels.errors import InputError

WANTED = ("out/*", ".dvc/cache/*", "dvc.lock", "pipelines/*/dvc.lock")
RUNS = ".cluster/runs"  # what MLflow knows of the job
_CHUNK = 45_000  # bytes in a line; the job API sends at most ten lines in a message of at most 4 MiB
_NOT_SENT = {"mlartifacts", "data", "build", "dist", "site"}


def belongings(root: Path) -> list[Path]:
    """Return the files of a checkout, relative to it: what git has or would add, with .dvc/config alone.

    What is ignored stays: environments, caches, data, the token, and DVC's config.local with its secrets.
    """
    if (root / ".git").exists():
        command = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(command, capture_output=True, check=True).stdout
        names = [Path(os.fsdecode(name)) for name in listed.split(b"\0") if name]
    else:
        names = [path.relative_to(root) for path in root.rglob("*") if _is_source(path.relative_to(root))]
    sent = [name for name in names if name.parts[0] != ".dvc" and (root / name).is_file()]
    return sorted({*sent, Path(".dvc/config")})


def _is_source(path: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.parts) and path.name != ".dvcignore"
    made = path.parts[0] in _NOT_SENT or path.name.startswith("mlflow.db") or "__pycache__" in path.parts
    return not (hidden or made)


def inputs(root: Path, command: list[str]) -> tuple[list[str], dict[str, Path]]:
    """Return the command as the job is to run it, and the files that its words name, by their place there.

    A file or folder within the checkout keeps its place even if git ignores it; a file elsewhere gets one.
    """
    words: list[str] = []
    files: dict[str, Path] = {}
    for i, word in enumerate(command):
        path = Path(word)
        if i == 0 or command[i - 1] == "--out" or not path.exists() or path.resolve() == root:
            words.append(word)
        elif path.resolve().is_relative_to(root):
            found = [one for one in path.rglob("*") if one.is_file()] if path.is_dir() else [path]
            files |= {str(one.resolve().relative_to(root)): one for one in found}
            words.append(str(path.resolve().relative_to(root)))
        elif path.is_file():
            words.append(f".cluster/inputs/{i}/{path.name}")
            files[words[-1]] = path
        else:
            raise InputError(f"{word}: a folder outside the checkout is not sent; name its files, or move it")
    return words, files


def zipped(root: Path, more: dict[str, Path], target: Path, job: str) -> None:
    """Write a checkout and further files to the zip `target`; the job's name in it makes it its own."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as file:
        places = {str(name): root / name for name in belongings(root)} | more
        for place, path in sorted(places.items()):
            file.write(path, place)
        # Ray gives equal packages one folder: a job would find what another one left there.
        file.writestr(".cluster/job", job)


def wanted(root: Path, command: list[str], more: Iterable[str]) -> list[str]:
    """Return the patterns of the files that may come back: the pipelines' results, and what --out names.

    Raises:
        InputError: a place outside the checkout, which the job could not write to.
    """
    given = [command[i + 1] for i, word in enumerate(command[:-1]) if word == "--out"]
    given += [word.removeprefix("--out=") for word in command if word.startswith("--out=")]
    patterns = [*WANTED]
    for name in [*given, *more]:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or not (path.parts and is_free(path)):
            raise InputError(f"{name}: results come back into {root}: give a path relative to it")
        patterns += [glob.escape(str(path)), f"{glob.escape(str(path))}/*"]
    return patterns


def is_free(path: PurePosixPath) -> bool:
    """Return whether results may be at a path: not among what git or DVC run and obey."""
    return path.parts[0] not in (".git", ".dvc", ".venv") or path.parts[:2] == (".dvc", "cache")


def state(patterns: list[str]) -> dict[str, tuple[int, int]]:
    """Return size and time of the files in this folder that match, by name."""
    names = (name for name in _walk(Path()) if any(fnmatch.fnmatchcase(name, one) for one in patterns))
    found = {name: os.stat(name) for name in names}
    return {name: (entry.st_size, entry.st_mtime_ns) for name, entry in found.items()}


def _walk(folder: Path) -> Iterator[str]:
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in (".git", ".venv", "__pycache__")]
        yield from (str(Path(place) / name) for name in files)


def lines(parcel: Path, mark: str) -> Iterator[str]:
    """Yield a file as lines of text that begin with `mark`, the last one with its digest."""
    digest = hashlib.sha256()
    with open(parcel, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            yield f"{mark} {base64.b64encode(chunk).decode()}\n"
    yield f"{mark} end {digest.hexdigest()}\n"


def pack(names: Iterable[str], parcel: Path) -> None:
    """Write files of this folder to the archive `parcel`."""
    with tarfile.open(parcel, "w:gz") as tar:
        for name in sorted(names):
            tar.add(Path(name).resolve(), name, recursive=False)


def unpack(parcel: Path, patterns: list[str], folder: Path, root: Path) -> list[str]:
    """Write an archive's files to a new folder, and return their names.

    Raises:
        InputError: something in it is no plain file, was not asked for, or would end up outside `root`.
    """
    names = []
    with tarfile.open(parcel, "r:gz") as tar:
        for member in tar:
            path = PurePosixPath(member.name)
            asked = any(fnmatch.fnmatchcase(member.name, one) for one in [*patterns, f"{RUNS}/*"])
            inside = not path.is_absolute() and ".." not in path.parts and is_free(path)
            if not (member.isreg() and asked and inside) or _leads_out(root, path):
                raise InputError(f"the job sent '{member.name}', which was not asked for: nothing was taken")
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            source = tar.extractfile(member)
            assert source is not None  # of a plain file there is one
            with source, open(target, "xb") as file:
                shutil.copyfileobj(source, file)
            names.append(member.name)
    return names


def _leads_out(root: Path, path: PurePosixPath) -> bool:
    """Return whether a link in the checkout leads a path elsewhere."""
    return not (root / path.parent).resolve().is_relative_to(root.resolve())


def settle(source: Path, target: Path) -> None:
    """Move what is in one folder into another: each file at once, new folders whole, a dvc.lock last."""
    for path in sorted(source.iterdir(), key=lambda one: (one.name == "dvc.lock", one.name)):
        place = target / path.name
        if path.is_dir() and place.is_dir():
            settle(path, place)
        else:
            os.replace(path, place)
