"""The page over HTTP, in this process: gradio's client, seeds, errors, the queue's end, files."""

import base64
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from pages import Words, entries, models, running

from genmodels.networks.sketches import finished
from genmodels.web.guard import Guard
from genmodels.web.studio import Studio
from genmodels.web.wish import wish

gradio = pytest.importorskip("gradio", reason="requirements-web.lock is not installed: make web")
from genmodels.web.page import MOST_WAITING  # noqa: E402
from genmodels.web.server import application  # noqa: E402


class Page:
    """The page with its address and a client."""

    def __init__(self, studio: Studio, address: str) -> None:
        from gradio_client import Client

        self.studio, self.address = studio, address
        self.client = Client(address, verbose=False)

    def error(self, endpoint: str, **asked: Any) -> str:
        from gradio_client.exceptions import AppError

        with pytest.raises(AppError) as refused:
            self.client.predict(api_name=endpoint, **asked)
        return str(refused.value)

    def get(self, path: str, body: bytes | None = None) -> tuple[int, str]:
        request = urllib.request.Request(f"{self.address}{path}", body, {"content-type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    folder = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("genmodels.web.studio.encoder_of", lambda model: Words())
        studio = Studio(entries(models(folder / "tiny")), folder / "cache")
        with running(Guard(application(studio))) as address:
            yield Page(studio, address)


def test_a_client_gets_the_pictures_of_the_seed(page: Page) -> None:
    assert {it["kind"] for it in page.client.predict(api_name="/models")} == {
        "text", "denoising", "particles", "draws",
    }  # fmt: skip
    assert page.client.predict(api_name="/table") == []
    asked: dict[str, Any] = {"seed": 5, "n": 2, "steps": 6}
    answer = page.client.predict(prompt="a b", api_name="/paint", **asked)
    found = [base64.b64decode(it["png"]) for it in answer["pictures"]]
    drawn = finished(page.studio.draw("tiny/latent_diffusion", wish(prompt="a b", **asked))).pictures
    assert found == [it.png for it in drawn]
    assert [it["settings"] for it in answer["pictures"]] == [it.settings for it in drawn]
    answer = page.client.predict("tiny/rbm", seed=5, sweeps=10, api_name="/sample")
    drawn = finished(page.studio.draw("tiny/rbm", wish(seed=5, n=1, sweeps=10))).pictures
    assert base64.b64decode(answer["pictures"][0]["png"]) == drawn[0].png


def test_what_is_wrong_comes_back_as_a_line(page: Page) -> None:
    assert page.error("/paint", prompt="x" * 10_000) == "prompt: 10000 characters, give at most 1000"
    assert page.error("/paint", prompt=" ").startswith("prompt: it is empty")
    assert page.error("/paint", prompt="a\x00").startswith("prompt: a control character")
    assert page.error("/paint", prompt="a", n=1e12).startswith("number: 1000000000000.0")
    assert page.error("/paint", prompt="a", steps=21).startswith("steps: 21")
    assert page.error("/sample", model="../../etc").startswith("model: '../../etc' is none of tiny/")
    assert page.error("/sample", model={"path": "/etc/passwd", "meta": {}}).startswith("model: ")


def test_numbers_that_are_none_and_files_from_outside_are_refused(page: Page) -> None:
    # Python's JSON has NaN, which gradio's client does not send.
    raw = b'{"data": ["a", "", 1, 5, NaN, 1, null]}'
    status, body = page.get("/gradio_api/call/paint", raw)
    if status == 200:
        _, body = page.get(f"/gradio_api/call/paint/{json.loads(body)['event_id']}")
        assert "event: error" in body
        assert "guidance: nan" in body
    else:
        assert 400 <= status < 500
    for path in ("file=/etc/passwd", "file=http://127.0.0.1/", "proxy=http://127.0.0.1/", "run/paint"):
        assert page.get(f"/gradio_api/{path}")[0] in (404, 405)
    assert page.get("/gradio_api/upload", b"x")[0] == 404
    status, shown = page.get("/")
    assert status == 200
    assert "fonts.googleapis.com" not in shown


def test_when_the_queue_is_full_that_is_said_and_the_others_get_their_pictures(
    page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, draw = threading.Event(), page.studio.draw

    def waiting(*asked: Any) -> Any:
        go.wait(60)
        return draw(*asked)

    monkeypatch.setattr(page.studio, "draw", waiting)
    n = 1 + MOST_WAITING + 8
    jobs = [page.client.submit(prompt="a", seed=k, steps=2, api_name="/paint") for k in range(n)]
    while sum(job.done() for job in jobs) < 8:
        time.sleep(0.05)
    go.set()
    ends = [job.exception(timeout=120) for job in jobs]
    busy = [str(end) for end in ends if end is not None]
    assert len(busy) in (8, 9), "the first one may not have left the queue when the others came"
    assert all("Queue is full" in end for end in busy)
    seeds = [job.result()["seed"] for job, end in zip(jobs, ends, strict=True) if end is None]
    assert len(set(seeds)) == n - len(busy)
    assert page.client.predict(prompt="a", seed=1, steps=2, api_name="/paint")["seed"] == 1
