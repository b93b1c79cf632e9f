"""gradio, which only the page needs: loaded when it is asked for, and kept from calling home."""

import importlib.util
import os

from genmodels.errors import InputError


def require_gradio() -> None:
    """Have gradio imported without its telemetry.

    Raises:
        InputError: it is not installed.
    """
    if importlib.util.find_spec("gradio") is None:
        raise InputError("the page needs gradio: run 'make web', or pip install 'genmodels[web]'")
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    import gradio  # noqa: F401
