"""The same over HTTP: endpoints with names, JSON in and out."""

import base64
from typing import Any

import gradio as gr

from genmodels.errors import InputError
from genmodels.networks.sketches import finished
from genmodels.web import limits
from genmodels.web.likelihoods import Line
from genmodels.web.studio import Studio
from genmodels.web.wish import spoken, wish


class Endpoints:
    """What the page can do, for programs."""

    def __init__(self, studio: Studio, lines: list[Line]) -> None:
        """Work with the models of a studio and their likelihoods."""
        self.studio, self.lines = studio, lines

    def models(self) -> list[dict[str, Any]]:
        """Return the models: name, kind, shape of pictures, and the start of their weights' SHA-256."""
        return [
            {"name": it.name, "kind": it.kind, "shape": list(it.shape), "weights": it.digest}
            for it in self.studio.entries.values()
        ]

    def table(self) -> list[dict[str, Any]]:
        """Return the likelihoods: the fields of an Estimate, the model, and of which images."""
        return [line.row | {"model": line.model, "images": line.title} for line in self.lines]

    def paint(
        self,
        prompt: str,
        negative: str = "",
        seed: int | None = None,
        steps: int = 30,
        guidance: float = 3.0,
        n: int = 1,
        model: str | None = None,
    ) -> dict[str, Any]:
        """Return pictures of a prompt as PNG in base64, each with its settings."""
        named = model if model is not None else next(iter(self.studio.names("text")), None)
        asked = {"prompt": prompt, "negative": negative, "steps": steps, "guidance": guidance}
        return self._answer(named, self.studio.names("text"), asked | {"seed": seed, "n": n})

    def sample(
        self,
        model: str,
        seed: int | None = None,
        n: int = 1,
        steps: int = 30,
        sweeps: int = 400,
        beta: float = 1.0,
        shown: str = "probabilities",
    ) -> dict[str, Any]:
        """Return pictures of any model as PNG in base64, each with its settings."""
        asked = {"steps": steps, "sweeps": sweeps, "beta": beta, "shown": shown}
        return self._answer(model, self.studio.names(), asked | {"seed": seed, "n": n})

    def _answer(self, model: Any, known: list[str], asked: dict[str, Any]) -> dict[str, Any]:
        try:
            if not known:
                raise InputError("model: none that draws from text is served here")
            name = limits.one_of("model", model, known)
            wanted = spoken(wish(**asked)) if "prompt" in asked else wish(**asked)
            drawn = finished(self.studio.draw(name, wanted))
        except (InputError, FloatingPointError) as error:
            raise gr.Error(str(error), print_exception=False) from error
        told = [
            {"png": base64.b64encode(it.png).decode("ascii"), "settings": it.settings}
            for it in drawn.pictures
        ]
        return {"seed": wanted.seed, "pictures": told, "notes": drawn.notes}
