"""Whatever is asked for: prompts of any letters, requests to the page and to a served model of any form."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pages import Words, entries, models
from test_bad_input import survives
from test_web import answer

from genmodels.networks.emphasis import parse
from genmodels.networks.text_encoder import TextEncoder
from genmodels.web.desk import Desk
from genmodels.web.guard import MOST_BYTES
from genmodels.web.studio import Studio
from genmodels.web.wish import wish
from pipelines.served_model import Pictures

QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

# Any character, surrogates and controls too; brackets and weights of emphasis; and very long ones.
PROMPTS = (
    st.text(st.characters(exclude_categories=()), max_size=80)
    | st.text(st.sampled_from("()[]:\\.-0123456789ae \n\x00\u0301é心\ud800"), max_size=60)
    | st.builds(
        lambda part, n: part * n, st.sampled_from(["(", "[", "a", "\u202e", "👩🏿‍🚀", "(a:9)"]), st.just(2000)
    )
)
NUMBERS = st.integers() | st.floats() | st.just(10**400)
ODD = st.recursive(
    st.none() | st.booleans() | NUMBERS | PROMPTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models(tmp_path_factory.mktemp("models") / "tiny")


# Prompts


@pytest.fixture(scope="module")
def minilm() -> TextEncoder:
    return TextEncoder("minilm", 16)


@QUICK
@given(PROMPTS)
def test_any_prompt_is_read_or_refused_in_one_line(minilm: TextEncoder, prompt: str) -> None:
    def read() -> None:
        texts = minilm.encode([prompt], emphasised=True)
        assert texts.states.shape[2] == minilm.width
        assert bool(texts.states.isfinite().all())
        assert len(texts.states[0]) <= 16
        assert len(parse(prompt).text) == len(parse(prompt).weights)
        minilm.cut_off(prompt, emphasised=True)

    survives(read)


# The page


@pytest.fixture
def desk(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.setattr("genmodels.web.studio.encoder_of", lambda model: Words())
    return Desk(Studio(entries(place), tmp_path / "cache"))


@QUICK
@given(
    st.sampled_from(["seed", "n", "prompt", "negative", "steps", "guidance", "sweeps", "beta", "shown"]), ODD
)
def test_any_wish_is_taken_or_refused_in_one_line(name: str, value: Any) -> None:
    survives(lambda: wish(**{"seed": 1, "n": 1} | {name: value}))


@QUICK
@given(st.data())
def test_handlers_of_the_page_say_what_is_wrong(desk: Desk, data: st.DataObject) -> None:
    text = st.just("tiny/latent_diffusion") | ODD
    asked = {"model": text, "prompt": st.just("a word") | PROMPTS, "negative": st.just("") | ODD}
    asked |= {"seed": st.just("3") | ODD, "steps": st.just(3) | ODD, "guidance": st.just(2.0) | ODD}
    given_ = {name: data.draw(values) for name, values in asked.items()}
    shown = list(desk.paint([], **given_, n=1))
    assert re.search(r'role="(alert|status)"', shown[-1][0])
    names = data.draw(st.just(["tiny/rbm"]) | ODD)
    n, beta = data.draw(st.just(1) | ODD), data.draw(st.just("samples") | ODD)
    said, _ = list(desk.compare(names, "a", given_["seed"], n, given_["steps"], 2.0, beta))[-1]
    assert "role=" in said
    assert "role=" in list(desk.particles("tiny/rbm", n, given_["seed"], given_["guidance"], 10, beta))[-1][0]


SEGMENTS = st.sampled_from(
    ["..", "%2e%2e", "file=", "etc", "passwd", "gradio_api", "call", "queue", "join", "", "."]
)
PATHS = st.builds("/".join, st.lists(SEGMENTS | st.text(max_size=6), max_size=6)) | st.just("/config")
HEADERS = st.dictionaries(
    st.sampled_from(["host", "origin", "content-length", "cookie", "range"]),
    st.text(st.characters(max_codepoint=126, min_codepoint=32), max_size=20) | st.just("127.0.0.1:7860"),
)


@QUICK
@given(PATHS, st.binary(max_size=50), st.sampled_from(["GET", "POST", "PUT", "TRACE", ""]), HEADERS)
def test_requests_pass_or_are_refused(path: str, body: bytes, method: str, headers: dict[str, str]) -> None:
    status, _ = answer(f"/{path}", body if method == "POST" else b"", method, **headers)
    assert status in (200, 400, 403, 404, 405, 413)
    if status == 200:
        assert ".." not in path.split("/")
        assert not re.search("file=|passwd", path) or re.match("/*(assets|static|svelte)/", path)
        assert re.match(r"127\.|localhost|\[::1\]", headers.get("host", "127.0.0.1"))
    assert answer("/config", b"x" * (MOST_BYTES + 1), "POST")[0] == 413


# A served model


@pytest.fixture(scope="module")
def served(place: Path) -> dict[str, Pictures]:
    def loaded(name: str) -> Pictures:
        pictures, patch = Pictures(), pytest.MonkeyPatch()
        with patch.context() as one:
            one.setattr("genmodels.prompts.encoder_of", lambda model: Words())
            pictures.load_context(type("Context", (), {"artifacts": {"model": str(place / "train" / name)}}))
        return pictures

    return {name: loaded(name) for name in ("vae", "rbm", "latent_diffusion")}


CELLS = ODD | st.just([0.0] * 16) | st.lists(NUMBERS, min_size=16, max_size=16) | st.integers(0, 9)
OPTIONS = st.dictionaries(
    st.sampled_from(["negative", "guidance", "steps", "method", "encoder"]), ODD, max_size=2
)


@QUICK
@given(
    st.sampled_from(["vae", "rbm", "latent_diffusion"]),
    st.dictionaries(st.sampled_from(["seed", "pixels", "prompt", "other"]), CELLS, max_size=3),
    OPTIONS,
)
def test_a_served_model_answers_or_refuses_in_one_line(
    served: dict[str, Pictures], name: str, row: dict[str, Any], options: dict[str, Any]
) -> None:
    rows = pandas.DataFrame({column: pandas.Series([cell], dtype=object) for column, cell in row.items()})

    def ask() -> None:
        answered = served[name].predict(None, rows, options)
        assert len(answered) == 1
        if isinstance(answered, np.ndarray):
            assert 0.0 <= answered.min() <= answered.max() <= 1.0

    survives(ask)
