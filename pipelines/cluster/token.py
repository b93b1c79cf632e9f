"""A token for the project's Ray: `eval "$(python -m pipelines.cluster.token)"` makes it and uses it."""

import os
import secrets
import shlex
import sys
from pathlib import Path

from genmodels.errors import InputError
from pipelines.stage import one_line_errors

FILE = Path(".ray-token")  # ignored by git, and never part of what is sent


def make(path: Path = FILE) -> Path:
    """Write a new token that only this user may read, unless there is one, and return its absolute path.

    Raises:
        InputError: there is one that others may read, or it is empty.
    """
    if not path.exists():
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w") as file:
            file.write(secrets.token_hex(32))
    if path.stat().st_mode & 0o077:
        raise InputError(f"{path}: others may read this token; run `rm {path}`, and make a new one")
    if not path.read_text().strip():
        raise InputError(f"{path}: an empty token; run `rm {path}`, and make a new one")
    return path.resolve()


def use() -> None:
    """Have Ray in this process show the project's token, unless the environment names another one."""
    named = os.environ.keys() & {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"}
    if FILE.exists() and not named:
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(make())}


if __name__ == "__main__":
    with one_line_errors():
        print(f"export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH={shlex.quote(str(make()))}")
        if sys.stdout.isatty():
            print('# To use it in this shell: eval "$(python -m pipelines.cluster.token)"')
