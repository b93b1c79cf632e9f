"""A stage in several processes on this machine, which torch's elastic launcher starts, as torchrun has it do.

They meet through files, and talk over loopback: nobody else can reach them. What a process got wrong it
leaves in a file that the launcher names, so that it is said once, in one line.
"""

import json
import logging
import os
import signal
import socket
import sys
import tempfile
import uuid
from pathlib import Path

import psutil

_FILE = "TORCHELASTIC_ERROR_FILE"


def launch(n_processes: int, arguments: list[str]) -> None:
    """Run Python with these arguments in so many processes; return when all are done.

    Raises:
        ChildProcessError: what a process got wrong, in its words; or it was killed.
        SystemExit: a process failed, and has told how.
    """
    from torch.distributed.elastic.agent.server.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    from genmodels.learners.gradient import RENDEZVOUS

    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("GLOO_SOCKET_IFNAME", _loopback())
    os.environ.setdefault("NCCL_SOCKET_IFNAME", os.environ["GLOO_SOCKET_IFNAME"])
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"  # which would listen on all interfaces
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    try:
        with tempfile.TemporaryDirectory() as folder:
            os.environ[RENDEZVOUS] = f"{folder}/processes"
            config = LaunchConfig(
                1, 1, n_processes, run_id=str(uuid.uuid4()), rdzv_backend="c10d",
                rdzv_endpoint=f"{folder}/launcher", rdzv_configs={"store_type": "file"}, max_restarts=0,
            )  # fmt: skip
            elastic_launch(config, sys.executable)(*arguments)
    except SignalException as error:
        if error.sigval == signal.SIGINT:
            raise KeyboardInterrupt from error
        sys.exit(128 + error.sigval)
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        if failure.exitcode < 0:
            raise ChildProcessError(
                f"one of {n_processes} processes was ended by {failure.signal_name()}; "
                "start the stage again, and it goes on from its checkpoint"
            ) from error
        if "message" in failure.error_file_data and failure.exitcode == 2:
            raise ChildProcessError(failure.message) from error
        sys.exit(failure.exitcode)


def _loopback() -> str:
    """Return the name of the interface whose address is 127.0.0.1: "lo" on Linux."""
    interfaces = psutil.net_if_addrs().items()
    return next(
        name
        for name, addresses in interfaces
        if any(each.family == socket.AF_INET and each.address == "127.0.0.1" for each in addresses)
    )


def left(message: str) -> bool:
    """Leave a message to the launcher, if there is one; return whether."""
    if _FILE not in os.environ:
        return False
    Path(os.environ[_FILE]).write_text(json.dumps({"message": message}))
    return True
