"""A stage in several processes on this machine, which torch's elastic launcher starts, as torchrun has it do.

What a process got wrong it leaves in a file that the launcher names, so that it is said once, in one line.
"""

import json
import logging
import os
import signal
import sys
import uuid
from pathlib import Path

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

    os.environ.setdefault("OMP_NUM_THREADS", "1")
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    config = LaunchConfig(
        1, 1, n_processes, run_id=str(uuid.uuid4()), rdzv_backend="c10d", rdzv_endpoint="localhost:0",
        max_restarts=0,
    )  # fmt: skip
    try:
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


def left(message: str) -> bool:
    """Leave a message to the launcher, if there is one; return whether."""
    if _FILE not in os.environ:
        return False
    Path(os.environ[_FILE]).write_text(json.dumps({"message": message}))
    return True
