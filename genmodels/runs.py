"""Where runs are kept: the experiment and the address that MLflow knows them by."""

import os
from pathlib import Path

EXPERIMENT = "genmodels"


def root() -> Path:
    """Return the main checkout, also from the temporary checkout of a queued experiment."""
    return Path(os.environ.get("DVC_ROOT", ".")).resolve()


def database() -> Path:
    """Return the file that holds the runs where no server does."""
    return root() / "mlflow.db"


def server() -> str | None:
    """Return MLFLOW_TRACKING_URI, if it is set."""
    return os.environ.get("MLFLOW_TRACKING_URI") or None


def uri() -> str:
    """Return the tracking URI: that of the server, or of the database in the main checkout."""
    return server() or f"sqlite:///{database()}"
