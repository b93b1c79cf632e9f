"""What the page's handlers do, without a browser: limits, pictures by seeds, errors as text."""

import asyncio
import json
import math
import re
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from encoders import all_images
from pages import Words, entries, models, rbm
from PIL import Image

from genmodels import cli
from genmodels.artifacts import load_model, write_json
from genmodels.errors import InputError
from genmodels.generate import generate
from genmodels.networks.sketches import finished
from genmodels.placement.local import LocalPlacement
from genmodels.prompts import paint
from genmodels.streams import Key
from genmodels.web import cards, installed, limits
from genmodels.web.desk import Desk
from genmodels.web.guard import MOST_BYTES, Guard
from genmodels.web.likelihoods import likelihoods
from genmodels.web.particles import particles
from genmodels.web.shelf import shelf
from genmodels.web.studio import Studio
from genmodels.web.wish import Wish, wish

KINDS = {
    "rbm": "particles",
    "vae": "draws",
    "diffusion": "denoising",
    "latent_diffusion": "text",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def studio(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Studio:
    monkeypatch.setattr("genmodels.web.studio.encoder_of", lambda model: Words())
    return Studio(entries(place), tmp_path / "cache")


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"prompt": "x" * 10_000}, "prompt: 10000 characters, give at most 1000"),
        ({"prompt": "a\x00b"}, "prompt: a control character, U+0000, at place 2"),
        ({"prompt": "a\ud800"}, "prompt: a control character, U+D800"),
        ({"prompt": None}, "prompt: None is no text"),
        ({"negative": ["a"]}, "negative prompt: list is no text"),
        ({"n": 0}, "number: 0, give a number from 1 to 16"),
        ({"n": 10**400}, "number: "),
        ({"n": 2.5}, "number: 2.5 is no whole number"),
        ({"n": True}, "number: True is no number"),
        ({"steps": math.nan}, "steps: nan, give a number from 1 to 250"),
        ({"steps": 251}, "steps: 251"),
        ({"guidance": math.inf}, "guidance: inf, give a number from 0.0 to 20.0"),
        ({"guidance": "3"}, "guidance: '3' is no number"),
        ({"sweeps": 10**9}, "sweeps: 1000000000"),
        ({"beta": -0.1}, "beta: -0.1"),
        ({"seed": -1}, "seed: -1"),
        ({"seed": 2**53}, "seed: 9007199254740992"),
        ({"seed": "3; drop"}, "seed: '3; drop' is no whole number"),
        ({"seed": "9" * 10_000}, "seed: "),
        ({"shown": "everything"}, "show: 'everything' is none of"),
    ],
)
def test_what_is_beyond_the_limits_is_said_in_a_line(asked: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=f"^{re.escape(words)}") as refused:
        wish(**{"seed": 1, "n": 1} | asked)
    assert len(str(refused.value)) < 200
    assert "\n" not in str(refused.value)


def test_what_is_within_the_limits_passes() -> None:
    longest = "ж" * limits.MOST_CHARACTERS
    most = wish(prompt=longest, seed=2**53 - 1, n=16.0, steps=250, guidance=20)
    assert most == Wish(2**53 - 1, 16, longest, "", 250, 20.0)
    assert wish(seed=" 7 ", n=1).seed == 7
    assert wish(prompt=" a \n 心👩‍🚀\t", seed=0, n=1).prompt == "a 心👩‍🚀"
    assert wish(seed="", n=1).seed != wish(seed=None, n=1).seed


def test_models_are_found_below_a_folder_and_have_short_names(place: Path, tmp_path: Path) -> None:
    found = entries(place)
    assert {name: entry.kind for name, entry in found.items()} == {f"tiny/{k}": v for k, v in KINDS.items()}
    one = shelf([place / "train" / "rbm"])["tiny/rbm"]
    assert (one.shape, one.kind) == ((4, 4, 1), "particles")
    with pytest.raises(InputError, match="no such folder"):
        shelf([tmp_path / "nowhere"])
    with pytest.raises(InputError, match="no model to draw from"):
        shelf([tmp_path])


@pytest.mark.parametrize("name", sorted(KINDS))
def test_a_seed_is_a_picture(name: str, studio: Studio) -> None:
    asked: dict[str, Any] = {"n": 3, "prompt": "a word", "steps": 6, "sweeps": 20}
    first, again, other = (
        finished(studio.draw(f"tiny/{name}", wish(seed=seed, **asked))).pictures for seed in (5, 5, 6)
    )
    assert [it.png for it in first] == [it.png for it in again]
    assert [it.png for it in first] != [it.png for it in other]
    for number, picture in enumerate(first):
        image: Any = Image.open(BytesIO(picture.png))
        assert json.loads(image.text["genmodels"]) == picture.settings
        assert (picture.settings["seed"], picture.settings["picture"]) == (5, number)
    if name != "rbm":
        alone = finished(studio.draw(f"tiny/{name}", wish(seed=5, **asked | {"n": 1}))).pictures[0]
        assert np.abs(pixels(alone.png) - pixels(first[0].png)).max() <= 1


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(png)), dtype=int)


def test_they_are_the_pictures_of_the_library(place: Path, studio: Studio, tmp_path: Path) -> None:
    key, here = Key(5, "sample"), LocalPlacement()
    shown = {
        "vae": generate(load_model(place / "train/vae"), 2, key, here).shown()[-1],
        "diffusion": generate(load_model(place / "train/diffusion"), 2, key, here, steps=6).shown()[-1],
        "latent_diffusion": paint(
            load_model(place / "train/latent_diffusion"), ["a b"] * 2, key, tmp_path, "c", 2.0, 6, "dpm",
            encoder=Words(),  # type: ignore[arg-type]
        )[1].numpy(),
    }  # fmt: skip
    asked = wish(seed=5, n=2, prompt="a b", negative="c", guidance=2.0, steps=6)
    for name, expected in shown.items():
        drawn = finished(studio.draw(f"tiny/{name}", asked)).pictures
        found = np.stack([pixels(it.png).ravel() for it in drawn]) / 255
        assert np.abs(found - expected).max() <= 0.5001 / 255


def test_particles_are_those_of_the_model() -> None:
    model, n = rbm(3, 2, 0.8), 4000
    x = 2.0 * all_images(5) - 1.0
    weights = torch.softmax(-model.energy(x).double(), 0).view(4, 8).sum(0).detach()

    def chi_square(beta: float) -> float:
        *_, (done, seen, _) = particles(model, n, Key(2, "particles"), beta, 60)
        assert done == 60
        counts = torch.bincount((seen.long() * torch.tensor([1, 2, 4])).sum(1), minlength=8)
        return float(((counts - n * weights) ** 2 / (n * weights)).sum())

    assert (chi_square(1.0) - 7) / math.sqrt(14) < 4.0
    assert (chi_square(0.3) - 7) / math.sqrt(14) > 40.0


def last(frames: Iterator[Any]) -> Any:
    *_, found = frames
    return found


def test_pictures_stream_and_earlier_ones_are_kept(studio: Studio) -> None:
    desk = Desk(studio)
    hostile = '<script>alert("1")</script>'
    frames = list(desk.paint([], "tiny/latent_diffusion", hostile, "", "3", 12, 2.0, 2))
    under_way = [shown for _, shown, _, _ in frames if shown and "<img" in shown]
    assert len(under_way) == 13
    assert len(set(under_way)) == 13
    said, now, before, kept = frames[-1]
    assert "2 pictures of seed 3" in said
    assert now.count("download=") == len(kept) == 2
    assert "<script" not in now
    assert "&lt;script&gt;" in now
    _, _, before, more = last(desk.paint(kept * 30, "tiny/latent_diffusion", "b", "", "4", 4, 2.0, 1))
    assert before.count("download=") == 60
    assert len(more) == 48


@pytest.mark.parametrize("prompt", ["", "  ", "x" * 10_000, "a\x1b[31m", None])
def test_an_error_is_one_that_can_be_read(prompt: Any, studio: Studio) -> None:
    (shown,) = Desk(studio).paint([], "tiny/latent_diffusion", prompt, "", "3", 4, 2.0, 1)
    assert 'role="alert">prompt: ' in shown[0]
    assert shown[1:] == (None, None, None)


def test_models_stand_side_by_side_and_one_that_fails_says_so(studio: Studio) -> None:
    names = ["tiny/rbm", "tiny/diffusion", "tiny/vae", "tiny/latent_diffusion"]
    said, rows = last(Desk(studio).compare(names, "a word", "3", 2, 20, 2.0, "probabilities"))
    assert "4 models at seed 3" in said
    assert rows.count("<section") == 4
    assert rows.count("download=") == 8
    _, rows = last(Desk(studio).compare(names, "a word", "3", 2, 21, 2.0, "samples"))
    assert rows.count("download=") == 4
    assert rows.count('role="alert">steps: 21') == 2
    for wrong in ([], ["tiny/rbm"] * 9, ["../secret"], "tiny/rbm", None):
        said, rows = last(Desk(studio).compare(wrong, "", "3", 2, 20, 2.0, "samples"))
        assert 'role="alert">models: ' in said
        assert rows == ""


def test_the_table_is_that_of_the_pipeline(place: Path) -> None:
    row = {
        "model": "rbm", "name": "log_likelihood", "value": -3.25, "stderr": 0.125, "kind": "lower",
        "method": "a < b", "reason": "", "unit": "nats per image",
    }  # fmt: skip
    rows = [row, row | {"name": "log_likelihood.other"}, row | {"name": "log_z"}]
    write_json(place / "report" / "table.json", {"data": {"name": "any"}, "rows": rows})
    (line,) = likelihoods(entries(place).values())
    shown = cards.table([line])
    assert "−3.25 ± 0.12" in shown
    assert "a &lt; b" in shown
    assert "any, nats per image, larger is better" in shown
    odd = [3, row | {"name": 3}, row | {"value": "many"}, row]
    write_json(place / "report" / "table.json", {"data": "none", "rows": odd})
    (line,) = likelihoods(entries(place).values())
    assert line.title.startswith("pictures with captions, nats per image")


def test_without_gradio_a_line_says_how_to_have_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(installed.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr("sys.argv", ["genmodels", "serve"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    said = "genmodels: error: the page needs gradio: run 'make web', or pip install 'genmodels[web]'\n"
    assert capsys.readouterr().err == said


def answer(
    path: str = "/config", body: bytes = b"", method: str = "GET", **headers: str
) -> tuple[int, bytes]:
    """Return the status and the headers with which a guarded application answers."""
    sent: list[dict[str, Any]] = []
    parts = [body[i : i + 60_000] for i in range(0, len(body), 60_000)] or [b""]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert (await receive())["body"] == body
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}

    async def send(message: Any) -> None:
        sent.append(message)

    given = {"host": "127.0.0.1:7860"} | headers
    pairs = [(name.encode(), value.encode()) for name, value in given.items()]
    asyncio.run(Guard(app)({"type": "http", "method": method, "path": path, "headers": pairs}, receive, send))
    return sent[0]["status"], b"\n".join(b": ".join(pair) for pair in sent[0]["headers"])


def test_only_what_the_page_needs_passes() -> None:
    status, headers = answer()
    assert status == 200
    assert b"default-src 'self'" in headers
    post = {"method": "POST", "path": "/gradio_api/queue/join"}
    assert answer(**post, body=b" " * (MOST_BYTES - 2) + b"{}", origin="http://127.0.0.1:7860")[0] == 200
    for odd in (b"\x80", b"{", b"[" * 9000, b"\xff\xfe"):
        assert answer(**post, body=odd)[0] == 400
    assert answer(**post, body=b"x" * (MOST_BYTES + 1))[0] == 413
    assert answer(**post, origin="https://example.org")[0] == 403
    assert answer(host="example.org")[0] == 403
    assert answer(host="127.0.0.1.example.org:7860")[0] == 403
    for path in ("file=/etc/passwd", "upload", "proxy=http://a", "run/paint", "stream/a", "../etc/passwd"):
        assert answer(f"/gradio_api/{path}")[0] == 404
    assert answer("/monitoring")[0] == 404
    assert answer(method="DELETE")[0] == 405


@pytest.mark.parametrize("begun", [0, 1, 2, 3])
def test_a_request_that_fails_ends_in_a_line(begun: int, capsys: pytest.CaptureFixture[str]) -> None:
    sent: list[dict[str, Any]] = []
    messages: list[dict[str, Any]] = [
        {"type": "http.response.start", "status": 200, "headers": []},
        {"type": "http.response.body", "body": b"some", "more_body": True},
        {"type": "http.response.body", "body": b"all"},
    ]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in messages[:begun]:
            await send(message)
        raise RuntimeError("no such event\nand more")

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/config", "headers": [(b"host", b"localhost")]}
    asyncio.run(Guard(app)(scope, None, send))  # type: ignore[arg-type]
    assert sent[0]["status"] == (500 if begun == 0 else 200)
    bodies = [message for message in sent if message["type"] == "http.response.body"]
    assert [it.get("more_body", False) for it in bodies] == [True] * (begun >= 2) + [False]
    assert capsys.readouterr().err == "genmodels: GET '/config': no such event\n"
