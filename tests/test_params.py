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
GLASS = (ROOT / "pipelines/spin_glass/params.yaml").read_text()
MNIST = (ROOT / "pipelines/mnist/params.yaml").read_text()


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
    assert params.read(ROOT / "pipelines/spin_glass/params.yaml").pipeline == "spin_glass"
    assert params.read(ROOT / "pipelines/mnist/params.yaml").data.name == "binarized_mnist"


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
        ("train.diffusion.gamma_min", "low", ("train.diffusion.gamma_min = 'low': could not convert",)),
        ("train.diffusion.gamma_min", [-3, "low"], ("train.diffusion.gamma_min.1 = 'low': could",)),
        ("fit_baselines.gaussian_mixture.components", 0, ("gaussian_mixture.components = 0: input",)),
        ("fit_baselines.gaussian_mixture.components", [2, 0], ("gaussian_mixture.components.1 = 0: input",)),
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
    ("key", "value", "words"),
    [
        ("pipeline", "spinglass", ("pipeline = 'spinglass'", "known are digits, learning")),
        ("pipeline", ["spin_glass"], ("pipeline = ", "known are digits, learning")),
        ("prepare_couplings", {}, ("prepare_couplings", "at least 1")),
        ("prepare_couplings.gaussian_3d.kind", "normal", ("prepare_couplings.gaussian_3d.kind", "'normal'")),
        ("prepare_couplings.gaussian_3d.size", [6, 2, 6], ("prepare_couplings.gaussian_3d", "[6, 2, 6]")),
        ("prepare_couplings.gaussian_3d.size", None, ("prepare_couplings.gaussian_3d", "size", "None")),
        ("prepare_couplings.gaussian_3d.path", "a.rud", ("prepare_couplings.gaussian_3d", "path", "null")),
        ("prepare_couplings.gaussian_3d.kind", "file", ("prepare_couplings.gaussian_3d", "path", "name")),
        ("prepare_couplings.gaussian_3d.beta_max", 0, ("gaussian_3d.beta_max = 0", "greater than 0")),
        ("prepare_couplings.sherrington_kirkpatrick.size", [8, 8], ("number of spins", "[8, 8]")),
        ("sample_couplings.budget", 10, ("sample_couplings.budget = 10", "greater than or equal to")),
        ("sample_couplings.kernel", "langevin", ("sample_couplings.kernel = 'langevin'", "'heat_bath'")),
        ("sample_couplings.replica_exchange.burn_in", 1.0, ("replica_exchange.burn_in", "less than 1")),
    ],
)
def test_another_pipeline_has_its_own_schema(
    tmp_path: Path, key: str, value: Any, words: tuple[str, ...]
) -> None:
    message = refusal(tmp_path, changed(GLASS, {key: value}))
    assert all(word in message for word in words), message


def test_an_unknown_key_below_a_name_of_the_users_own_is_found(tmp_path: Path) -> None:
    text = GLASS.replace("gaussian_3d: {kind: gaussian, size", "mine: {kind: gaussian, sizes")
    message = refusal(tmp_path, text)
    assert "prepare_couplings.mine.sizes" in message
    assert "did you mean 'size'" in message
    message = refusal(tmp_path, GLASS.replace("gaussian_3d:", "../mine:"))
    assert "prepare_couplings.../mine = '../mine': " in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (GOOD.replace("latent:", "latents:", 1), ("train.vae.latents", "did you mean 'latent'")),
        (GOOD.replace("seed:", "sede:"), ("sede", "did you mean 'seed'")),
        (GLASS.replace("pipeline: spin_glass\n", ""), ("prepare_couplings", "unknown key")),
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


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("components: 10\n", "component: 10\n", ("mixture_10.component = 10: unknown", "'components'")),
        ("components: 10\n", "components: 0\n", ("fit_baselines.mixture_10.components = 0", "greater")),
        (
            "    model: gaussian\n",
            "    model: gausian\n",
            ("fit_baselines.gaussian: ", "'gausian'", "'gaussian'"),
        ),
        ("[500, 1000]", "[500]", ("train.dbm.hidden = [500]", "at least 2")),
        ("      steps:", "      step:", ("train.dbm.pretraining.step = ", "did you mean 'steps'")),
        ("  dbm:\n", "  Dbm 2:\n", ("train.Dbm 2", "pattern")),
        (
            "again: []",
            "again: [{learning_rate: 0, weight_decay: 0, steps: 1}]",
            ("rbm.again.0.learning_rate = 0",),
        ),
        (
            "again: []",
            "again: [{learning_rat: 1, weight_decay: 0, steps: 1}]",
            ("rbm.again.0.", "'learning_rate'"),
        ),
    ],
)
def test_models_of_one_kind_have_names_of_their_own(
    tmp_path: Path, old: str, new: str, words: tuple[str, ...]
) -> None:
    assert old in MNIST
    message = refusal(tmp_path, MNIST.replace(old, new, 1))
    assert all(word in message for word in words), message
    assert "bernoulli_mixture.comp" not in message  # what tells blocks apart is no key


def test_what_pyyaml_takes_for_text_is_still_a_number(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(GOOD.replace("learning_rate: 2.0e-3", "learning_rate: 2e-3"))
    assert yaml.safe_load(path.read_text())["train"]["vae"]["learning_rate"] == "2e-3"
    assert params.read(path).train.vae.learning_rate == 0.002


def test_every_key_counts_in_a_stage() -> None:
    """No stage reads a parameter that dvc.yaml does not list: each block belongs to the stage of its name."""
    owners = {"prepare": "data", "judge_samples": "sample"}
    others = ("digits", "learning_rules", "mnist", "spin_glass", "text_to_image")
    for file in ("dvc.yaml", *(f"pipelines/{name}/dvc.yaml" for name in others)):
        stages = yaml.safe_load((ROOT / file).read_text())["stages"]
        for name, stage in stages.items():
            block = owners.get(name, name)
            listed = (stage.get("do", stage)).get("params", [])
            if listed and isinstance(listed[0], dict):
                listed = listed[0][str(Path(file).with_name("params.yaml"))]
            without = ("publish", "recognise", "report", "track", "compare_rules", "compare_samplers")
            without += ("publish_captions", "recognise_captions", "report_captions")
            assert name in without or any(key.split(".")[0] == block for key in listed), name


def test_the_check_from_the_shell_has_exit_status_2(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("seed: x\n")
    command = [sys.executable, "-m", "pipelines.params", str(tmp_path / "params.yaml")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("genmodels: error: ")
    assert len(done.stderr.splitlines()) == 1
