"""Machine code: kept beside its source until that changes, told of once, and not in anybody's way."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTICE = "genmodels: compiling loops for this machine, once: half a minute\n"
# Loops that call a function of another file, which calls one of a third.
DEEP = """
from genmodels.compiled.loop import inlined


@inlined
def one(x):
    return x + 1
"""
INNER = """
from genmodels.compiled.deep import one
from genmodels.compiled.loop import compiled


@compiled
def two(x):
    return 2 * one(x)
"""
OUTER = """
from genmodels.compiled.inner import two
from genmodels.compiled.loop import Loop


@Loop
def outer(x):
    return two(x) + 10


@Loop
def other(x):
    return two(x)
"""
PROGRAM = "from genmodels.compiled.outer import outer, other; print(outer(3), other(4))"


class Copy:
    """A copy of the loops' folder, with small ones in it, and a home of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.home = folder / "genmodels" / "compiled", folder / "home"
        self.home.mkdir(parents=True)
        self.folder.mkdir(parents=True)
        (self.folder.parent / "__init__.py").touch()
        for name in ("__init__", "loop"):
            shutil.copy(ROOT / "genmodels" / "compiled" / f"{name}.py", self.folder)
        for name, source in {"deep": DEEP, "inner": INNER, "outer": OUTER}.items():
            self.write(name, source)

    def write(self, name: str, source: str) -> None:
        (self.folder / f"{name}.py").write_text(source)

    def start(self, *before: str, **more: str) -> "subprocess.Popen[str]":
        """Start the program, by another command if one is given."""
        path = str(self.folder.parents[1])
        # Python's own cache of byte code knows files by their times alone.
        own = {"HOME": str(self.home), "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
        return subprocess.Popen(
            [*before, sys.executable, "-c", PROGRAM], cwd="/", env={"PATH": os.environ["PATH"]} | own | more,
            text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def run(self, *before: str, **more: str) -> tuple[str, str]:
        process = self.start(*before, **more)
        out, error = process.communicate()
        assert process.returncode == 0, error
        return out, error

    def kept(self, folder: Path | None = None) -> list[str]:
        """Return the names of the files with machine code."""
        return sorted(path.name for path in (folder or self.folder).rglob("*.nb[ci]"))


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    return Copy(tmp_path)


def test_the_first_call_says_that_it_compiles_and_no_other_does(copy: Copy) -> None:
    assert copy.run() == ("18 10\n", NOTICE)
    kept = copy.kept()
    assert [name.split("_")[0] for name in kept] == ["outer.other"] * 2 + ["outer.outer"] * 2
    assert copy.run() == ("18 10\n", "")
    assert copy.kept() == kept


@pytest.mark.parametrize("old", [False, True], ids=["newer", "as old as the last version"])
def test_machine_code_goes_with_any_change_in_the_folder(copy: Copy, old: bool) -> None:
    copy.run()
    kept, file = copy.kept(), copy.folder / "deep.py"
    times = file.stat()
    for change, expected in {"x + 2": "20 12\n", "x - 1": "14 6\n"}.items():
        # Of the same length, and perhaps, as from an archive, of the same time.
        copy.write("deep", DEEP.replace("x + 1", change))
        if old:
            os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
        assert copy.run() == (expected, NOTICE)
        assert len(copy.kept()) == 4  # none of the version before
        assert not set(copy.kept()) & set(kept)
    copy.write("outer", OUTER.replace("10", "20"))
    assert copy.run() == ("24 6\n", NOTICE)
    copy.write("unrelated", "x = 1\n")
    assert copy.run() == ("24 6\n", NOTICE)
    assert copy.run() == ("24 6\n", "")


def test_plain_caching_would_keep_what_is_out_of_date(copy: Copy) -> None:
    plain = "Loop = compiled = njit(cache=True)\ninlined = njit(inline='always')\n"
    copy.write("loop", f"from numba import njit\n{plain}")
    assert copy.run() == ("18 10\n", "")
    copy.write("deep", DEEP.replace("x + 1", "x + 2"))
    assert copy.run() == ("18 10\n", "")


def test_processes_that_compile_at_once_do_not_disturb_each_other(copy: Copy) -> None:
    processes = [copy.start() for _ in range(3)]
    for process in processes:
        out, error = process.communicate()
        assert (process.returncode, out) == (0, "18 10\n"), error
        assert error in ("", NOTICE)
    assert copy.run() == ("18 10\n", "")
    assert len(copy.kept()) == 4


def test_a_folder_of_the_users_choice(copy: Copy, tmp_path: Path) -> None:
    chosen = tmp_path / "chosen"
    assert copy.run(NUMBA_CACHE_DIR=str(chosen)) == ("18 10\n", NOTICE)
    assert (len(copy.kept(chosen)), copy.kept()) == (4, [])
    assert copy.run(NUMBA_CACHE_DIR=str(chosen)) == ("18 10\n", "")


def closed(*folders: Path) -> list[str]:
    """Return a command that runs another with folders that it cannot write to."""
    if os.geteuid() != 0:
        for folder in folders:
            folder.chmod(0o555)
        return []
    # Root may write to any folder, but not to a file system that is read-only.
    mounts = [f"mount --bind '{f}' '{f}' && mount -o remount,ro,bind '{f}' '{f}'" for f in folders]
    command = ["unshare", "-m", "sh", "-c", f'{" && ".join(mounts)} && exec "$@"', "sh"]
    if subprocess.run([*command, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("no folder can be made read-only here")
    return command


@pytest.mark.parametrize("home", [True, False], ids=["home", "no home"])
def test_a_folder_that_cannot_be_written_to(copy: Copy, home: bool) -> None:
    folders = [copy.folder] if home else [copy.folder, copy.home]
    command = closed(*folders)
    for notice in (NOTICE, "" if home else NOTICE):
        assert copy.run(*command) == ("18 10\n", notice)
    assert copy.kept() == []
    assert len(copy.kept(copy.home)) == (4 if home else 0)
    for folder in folders:
        folder.chmod(0o755)
