"""The page on loopback, until it is stopped."""

import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from genmodels.errors import InputError
from genmodels.web.guard import Guard
from genmodels.web.installed import require_gradio
from genmodels.web.shelf import shelf
from genmodels.web.studio import Studio

HOST = "127.0.0.1"
_PATIENCE = 2  # seconds for what is under way, once it is to stop


def serve(given: Sequence[Path], port: int, said: Callable[[str], None] = print) -> None:
    """Serve the models in these folders, or all that are here, until an interrupt.

    Args:
        given: Folders of models, or of pipelines.
        port: Where to listen; 0 for any that is free.
        said: Called with the address, once it answers.

    Raises:
        InputError: gradio is not installed, no model, or the port is taken.
    """
    require_gradio()
    import uvicorn

    entries = shelf(given)
    with listening(port) as listener, tempfile.TemporaryDirectory(prefix="genmodels-") as cache:
        app = Guard(application(Studio(entries, Path(cache))))
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=_PATIENCE,
        )
        names = ", ".join(entries)
        said(f"genmodels: http://{HOST}:{listener.getsockname()[1]} serves {names}; Ctrl-C stops it")
        uvicorn.Server(config).run(sockets=[listener])


def application(studio: Studio) -> Any:
    """Return the page as an ASGI application."""
    import fastapi
    import gradio as gr

    from genmodels.web.page import STYLE, page, theme

    app = fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    settings = {"footer_links": ["api"], "show_error": False, "ssr_mode": False, "mcp_server": False}
    looks = {"theme": theme(), "css_paths": [STYLE]}
    gr.mount_gradio_app(app, page(studio), "", server_name=HOST, **settings, **looks)
    return app


@contextmanager
def listening(port: int) -> Iterator[socket.socket]:
    """Yield a socket that listens on loopback.

    Raises:
        InputError: the port is taken.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
        except OSError as error:
            raise InputError(f"--port {port}: {error.strerror}, give another one") from error
        listener.listen(128)
        yield listener
