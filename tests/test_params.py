"""params.yaml: what is wrong with it is said in one line, before anything runs."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT, changed

from genmodels.errors import InputError
from pipelines import params

GOOD = (ROOT / "params.yaml").read_text()


def refusal(tmp_path: Path, text: str) -> str:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        params.read(path)
    message = str(error.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


def without(text: str, key: str) -> str:
    values = yaml.safe_load(text)
    *path, last = key.split(".")
    block = values
    for part in path:
        block = block[part]
    del block[last]
    return yaml.safe_dump(values)


def test_the_shipped_file_is_right() -> None:
    assert params.read(ROOT / "params.yaml").data.name == "digits"


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("data.name", "digit", ("data", "'digit'", "did you mean 'digits'")),
        ("data.name", 3, ("data.name = 3", "string")),
        ("data.limit", -5, ("data.limit = -5", "greater than or equal to 1")),
        ("data.limit", 2.5, ("data.limit = 2.5", "integer")),
        ("data.limit", True, ("data.limit = True", "number")),
        ("data.size", [4], ("data.size",)),
        ("data.size", [0, 4], ("data.size.0 = 0", "greater")),
        ("data.validation", 0.9, ("data", "sum must be below 1")),
        ("data.test", 1.5, ("data.test = 1.5", "less than 1")),
        ("data.test", float("nan"), ("data.test", "finite")),
        ("seed", "abc", ("seed = 'abc'", "integer")),
        ("seed", -1, ("seed = -1", "greater than or equal to 0")),
        ("threads", 0, ("threads = 0",)),
        ("train.vae.latent", -1, ("train.vae.latent = -1", "greater than or equal to 1")),
        ("train.vae.latent", "eight", ("train.vae.latent = 'eight'", "integer")),
        ("train.vae.hidden", [], ("train.vae.hidden", "at least 1")),
        ("train.vae.hidden", [64, -2], ("train.vae.hidden.1 = -2",)),
        ("train.vae.track", "gray", ("train.vae.track = 'gray'", "'binary'")),
        ("train.rbm.learning_rate", float("inf"), ("train.rbm.learning_rate", "finite")),
        ("train.rbm.learning_rate", 0, ("train.rbm.learning_rate = 0", "greater than 0")),
        ("train.diffusion.ema", 1.0, ("train.diffusion.ema = 1.0", "less than 1")),
        ("fit_baselines.gaussian.eigenvalue_floor", 0.0, ("eigenvalue_floor = 0.0", "greater than 0")),
        ("train.diffusion.gamma_min", 9.0, ("gamma_min = 9.0", "below gamma_max")),
        ("evaluate.importance_samples", 1, ("evaluate.importance_samples = 1", "greater than or equal to 2")),
        ("estimate_log_z.rbm.replica_exchange.n_rounds", 3, ("n_rounds = 3", "greater than or equal to 4")),
        ("sample.n", None, ("sample.n = None", "integer")),
    ],
)
def test_a_wrong_value_is_named_with_its_key(
    tmp_path: Path, key: str, value: Any, words: tuple[str, ...]
) -> None:
    message = refusal(tmp_path, changed(GOOD, {key: value}))
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (GOOD.replace("latent:", "latents:"), ("train.vae.latents", "did you mean 'latent'")),
        (GOOD.replace("seed:", "sede:"), ("sede", "did you mean 'seed'")),
        (GOOD + "\nzzz: 1\n", ("zzz = 1: unknown key", "known here are")),
        (without(GOOD, "train.vae.latent"), ("train.vae.latent: missing",)),
        (without(GOOD, "sample"), ("sample: missing",)),
        (GOOD + "\nseed: 3\n", ("line", "'seed' is given twice")),
        ("a: [1, 2\n", ("line",)),
        ("just words", ("expected a mapping",)),
        ("", ("expected a mapping",)),
        ("seed: !!python/object/apply:os.system ['true']\n", ("could not determine a constructor",)),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, text: str, words: tuple[str, ...]) -> None:
    message = refusal(tmp_path, text)
    assert all(word in message for word in words), message


def test_a_missing_and_a_binary_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        params.read(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="UTF-8"):
        params.read(tmp_path / "params.yaml")


def test_what_pyyaml_takes_for_text_is_still_a_number(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(GOOD.replace("learning_rate: 2.0e-3", "learning_rate: 2e-3"))
    assert yaml.safe_load(path.read_text())["train"]["vae"]["learning_rate"] == "2e-3"
    assert params.read(path).train.vae.learning_rate == 0.002


def test_every_key_counts_in_a_stage() -> None:
    """No stage reads a parameter that dvc.yaml does not list: each block belongs to the stage of its name."""
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    owners = {"prepare": "data"}
    for name, stage in stages.items():
        block = owners.get(name, name)
        listed = (stage.get("do", stage)).get("params", [])
        assert name in ("report", "track") or any(key.split(".")[0] == block for key in listed), name


def test_the_check_from_the_shell_has_exit_status_2(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("seed: x\n")
    command = [sys.executable, "-m", "pipelines.params", str(tmp_path / "params.yaml")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("genmodels: error: ")
    assert len(done.stderr.splitlines()) == 1
