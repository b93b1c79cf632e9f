"""Tiny models for the page, a text encoder that needs no weights, and the page running in this process."""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from genmodels.artifacts import save_model
from genmodels.models.diffusion import Diffusion
from genmodels.models.latent_diffusion import LatentDiffusion
from genmodels.models.rbm import RBM
from genmodels.models.vae import VAE
from genmodels.networks.text_encoder import Texts, stacked
from genmodels.streams import Key
from genmodels.web.shelf import Entry, shelf

DATA = {"name": "any", "shape": [4, 4, 1], "levels": 2, "binarisation": "native"}
WORDS = {"name": "words", "digest": "d" * 64, "max_tokens": 6}


class Words:
    """Encodes a prompt as the lengths of its words."""

    max_tokens, digest, padded = 6, "d" * 64, False

    def encode(self, prompts: Sequence[str], emphasised: bool) -> Texts:
        counts = [[len(word) for word in prompt.split()] or [0] for prompt in prompts]
        return stacked([torch.tensor(it).float()[:, None].expand(-1, 4) for it in counts])

    def cut_off(self, prompt: str, emphasised: bool) -> str:
        return " ".join(prompt.split()[self.max_tokens :])


def rbm(n_visible: int = 16, n_hidden: int = 3, scale: float = 0.4) -> RBM:
    model, generator = RBM(n_visible, n_hidden), Key(1, "rbm").torch()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    return model


def reader(text_width: int = 4, T: int = 20, **known: Any) -> LatentDiffusion:
    """Return a model that draws from text, its output not 0 as it is before training."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = LatentDiffusion(
            (8, 8, 3), (8, 8), 2, channels=(8, 8), T=T, text_width=text_width, text_encoder=WORDS | known
        )
        for parameter in model.prior.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    model.diffusers_pipeline = lambda: None  # which would have a text encoder in it
    return model


def models(place: Path, text: LatentDiffusion | None = None, T: int = 20) -> Path:
    """Write a pipeline's folder with a model of each kind."""
    with torch.random.fork_rng():
        torch.manual_seed(4)
        made = {
            "rbm": rbm(),
            "vae": VAE((4, 4), 3, (8,)),
            "diffusion": Diffusion((4, 4), (8, 8), T=T),
            "latent_diffusion": text or reader(),
        }
    for name, model in made.items():
        data = DATA | ({"shape": [8, 8, 3], "levels": 256} if name == "latent_diffusion" else {})
        save_model(place / "train" / name, name, model, data)
    return place


def entries(place: Path) -> dict[str, Entry]:
    return shelf([place])


@contextmanager
def running(app: Any) -> Iterator[str]:
    """Serve an application on a thread of this process, and yield its address."""
    import uvicorn

    from genmodels.web.server import listening

    with listening(0) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
        server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.05)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join(20)
