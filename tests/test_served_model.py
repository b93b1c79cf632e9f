"""What `mlflow models serve` serves: pictures by seeds and, where the model reads, by prompts."""

import json
import os
import signal
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow.tracking import MlflowClient
from pages import Words, models, reader
from test_bad_requests import ODD

from genmodels.artifacts import load_model
from genmodels.networks.text_encoder import TextEncoder
from genmodels.prompts import paint
from genmodels.streams import Key
from pipelines import served_model, tracking


def test_prompts_and_seeds_come_back_as_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genmodels.prompts.encoder_of", lambda model: Words())
    folder = models(tmp_path / "tiny") / "train" / "latent_diffusion"
    served = served_model.Pictures()
    served.load_context(type("Context", (), {"artifacts": {"model": str(folder)}}))
    rows = pandas.DataFrame({"prompt": ["a heart", "a b c", "a heart"], "seed": [3, 3, 4]})
    given = {"negative": "ugly", "guidance": 2.0, "steps": 4, "method": "ddim"}
    drawn = served.predict(None, rows, given)
    assert drawn.shape == (3, 192)
    expected = paint(
        load_model(folder), ["a heart"], Key(3, "sample"), tmp_path, "ugly", 2.0, 4, encoder=Words()
    )[1]  # type: ignore[arg-type]
    assert np.abs(drawn[0] - expected[0].numpy()).max() <= 1 / 255
    assert np.abs(drawn[0] - drawn[1]).max() > 1 / 255
    assert np.abs(drawn[0] - drawn[2]).max() > 1 / 255
    assert np.array_equal(served.predict(None, rows, given), drawn)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_mlflow_serves_a_model_that_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from test_services import free_port, wait_for

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    encoder = TextEncoder("minilm", 16)
    place = models(tmp_path / "tiny", reader(encoder.width, **encoder.description()))
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    mlflow.set_tracking_uri(uri)
    client = MlflowClient(uri)
    run = client.create_run(client.create_experiment("genmodels", artifact_location=str(tmp_path / "kept")))
    tracking.register(client, run.info.run_id, place / "train" / "latent_diffusion", "latent_diffusion")
    port, log = free_port(), tmp_path / "log"
    command = ["mlflow", "models", "serve", "-m", "models:/latent_diffusion/1", "--env-manager", "local"]
    with log.open("w") as file:
        server = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)], stdout=file, stderr=file, text=True,
            env=dict(os.environ) | {"MLFLOW_TRACKING_URI": uri}, start_new_session=True,
        )  # fmt: skip
    try:
        wait_for(lambda: _alive(port), server, log)
        rows = [{"prompt": "a heart", "seed": 3}, {"prompt": "a star", "seed": 3}]
        first = _ask(port, rows, {"guidance": 2.0, "steps": 4})
        _ask_anything(port)
        again = _ask(port, rows, {"guidance": 2.0, "steps": 4})
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(60)
    assert np.array_equal(first, again)
    assert first.shape == (2, 192)
    assert np.abs(first[0] - first[1]).max() > 1 / 255
    model = load_model(place / "train" / "latent_diffusion")
    expected = paint(model, ["a heart"], Key(3, "sample"), tmp_path, "", 2.0, 4, "dpm")[1]
    assert np.abs(first[0] - expected[0].numpy()).max() <= 1 / 255


def _ask_anything(port: int) -> None:
    """Send bodies of any form: each is answered, by what is no server's error."""
    cells = st.dictionaries(st.sampled_from(["seed", "prompt", "pixels", "other"]), ODD, max_size=3)
    forms = st.sampled_from(["dataframe_records", "dataframe_split", "inputs", "instances", "other"])
    bodies = st.dictionaries(forms | st.just("params"), ODD | cells | st.lists(cells, max_size=2), max_size=2)

    @settings(max_examples=150, deadline=None, database=None)
    @given(bodies.map(json.dumps).map(str.encode) | st.binary(max_size=40))
    def ask(body: bytes) -> None:
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/invocations", body, {"content-type": "application/json"}
        )
        try:
            status = urllib.request.urlopen(request, timeout=60).status
        except urllib.error.HTTPError as error:
            status = error.code
        assert status < 500

    ask()


def _alive(port: int) -> bool:
    try:
        return bool(urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=5).status == 200)
    except OSError:
        return False


def _ask(port: int, rows: list[dict[str, Any]], params: dict[str, Any]) -> np.ndarray:
    body = json.dumps({"dataframe_records": rows, "params": params}).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/invocations", body, {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=300) as answer:
        return np.array(json.load(answer)["predictions"])
