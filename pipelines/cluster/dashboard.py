"""Ray's job API, which its dashboard serves: connect, send a job, follow it, stop it."""

import asyncio
import contextlib
import logging
import os
import secrets
import shlex
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from genmodels.errors import InputError
from pipelines.cluster import token
from pipelines.cluster.log import Log

_ATTEMPTS = 60  # to find a lost connection again, a second apart
_STOPPING = 15.0  # seconds; Ray kills after 3 what does not end by itself


class Dashboard:
    """The job API at an address such as http://127.0.0.1:8265."""

    def __init__(self, address: str, certificates: str | None = None) -> None:
        """Connect, with the project's token.

        Raises:
            InputError: no cluster answers there, or it does not take the token.
        """
        self.address = address
        url = urlsplit(address if "://" in address else f"http://{address}")
        if url.scheme not in ("http", "https") or not url.hostname:
            raise InputError(f"--address {address}: give Ray's dashboard, such as http://127.0.0.1:8265")
        token.use()
        with self._one_line():
            # Ray would wait for minutes where nobody answers.
            port = url.port or (443 if url.scheme == "https" else 80)
            socket.create_connection((url.hostname, port), timeout=10).close()
            self._client = _client(url.geturl(), certificates)

    @contextlib.contextmanager
    def _one_line(self) -> Iterator[None]:
        from ray.exceptions import RayError

        try:
            yield
        except (OSError, RuntimeError, RayError) as error:
            reason = str(error).strip().split("\n")[0].rstrip(".:") or type(error).__name__
            raise InputError(
                f"{self.address}: no Ray cluster takes jobs there ({reason}); start one with "
                "`ray start --head`, give another --address, or its token (pipelines/cluster/README.md)"
            ) from error

    def submit(self, package: Path, command: list[str], environment: dict[str, str]) -> str:
        """Start a command in the folder that a zip unpacks to, and return the job's name."""
        with self._one_line():
            answer = self._client.submit_job(
                entrypoint=shlex.join(command),
                submission_id=f"genmodels-{secrets.token_hex(6)}",
                runtime_env={"working_dir": str(package), "env_vars": environment},
            )
        return str(answer)

    def follow(self, job: str, log: Log) -> Any:
        """Feed a job's log until it has ended, and return how it ended.

        Raises:
            InputError: the connection was lost and did not come back; the job goes on.
        """
        return asyncio.run(self._follow(job, log))

    async def _follow(self, job: str, log: Log) -> Any:
        import aiohttp

        for _ in range(_ATTEMPTS):
            with contextlib.suppress(OSError, RuntimeError, aiohttp.ClientError):
                log.rewind()
                async for text in self._client.tail_job_logs(job):
                    log.feed(text)
                details = self._client.get_job_info(job)
                if details.status.is_terminal():
                    log.close()
                    return details
            await asyncio.sleep(1)
        raise InputError(f"{self.address}: the connection is lost; {job} goes on: see `ray job logs {job}`")

    def stop(self, job: str) -> bool:
        """End a job and return whether it has ended."""
        with self._one_line():
            self._client.stop_job(job)
            deadline = time.monotonic() + _STOPPING
            while not (ended := self._client.get_job_status(job).is_terminal()):
                if time.monotonic() > deadline:
                    break
                time.sleep(0.2)
        return bool(ended)


def _client(address: str, certificates: str | None) -> Any:
    """Return Ray's client, which these variables would send elsewhere than `address`."""
    try:
        import aiohttp_cors  # noqa: F401 - a part of the extra that Ray's own check does not ask for
        from ray.job_submission import JobSubmissionClient
    except ImportError as error:
        raise InputError(f"{error.name} is missing: pip install -r requirements-cluster.lock") from error
    for module in ("dashboard_sdk", "job.sdk"):
        logging.getLogger(f"ray.dashboard.modules.{module}").setLevel(logging.ERROR)
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        os.environ.pop(name, None)
    return JobSubmissionClient(address, verify=certificates or True)
