"""Models in folders: the same bytes, whole or not at all, and one line for whatever is damaged."""

import json
import math
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from genmodels.artifacts import (
    load_model,
    load_tensors,
    new_file,
    new_folder,
    read_config,
    read_json,
    read_log_z,
    save_model,
    save_tensors,
    sha256,
    write_json,
)
from genmodels.errors import InputError
from genmodels.estimate import of_scalar
from genmodels.models.gaussian_mixture import GaussianMixture
from genmodels.models.rbm import RBM
from genmodels.streams import Key

DATA = {"name": "digits", "shape": [2, 2, 1], "levels": 2, "binarisation": "fixed-stochastic"}


def random_rbm() -> RBM:
    rbm = RBM(4, 3)
    generator = Key(51, "artifacts").torch()
    with torch.no_grad():
        for parameter in rbm.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return rbm


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_model(tmp_path / "rbm", "rbm", random_rbm(), DATA)
    return tmp_path / "rbm"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def change(folder: Path, **entries: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | entries))


def refusal(folder: Path) -> str:
    """Return the message with which `load_model` refuses; anything but an InputError of one line fails."""
    with pytest.raises(InputError) as caught:
        load_model(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert str(folder) in message
    return message


def test_a_model_comes_back_as_it_was(folder: Path) -> None:
    saved, loaded = random_rbm(), load_model(folder)
    assert isinstance(loaded, RBM)
    assert loaded.args() == saved.args()
    assert not loaded.training
    for name, tensor in saved.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
    assert read_config(folder)["data"] == DATA


def test_doubles_stay_doubles(tmp_path: Path) -> None:
    model = GaussianMixture(3, 2)
    model.means.fill_(math.pi)
    save_model(tmp_path / "mixture", "gaussian_mixture", model, DATA)
    assert load_model(tmp_path / "mixture").means.dtype == torch.float64
    assert float(load_model(tmp_path / "mixture").means[1, 2]) == math.pi


def test_equal_models_give_equal_bytes(folder: Path, tmp_path: Path) -> None:
    save_model(tmp_path / "again", "rbm", random_rbm(), dict(reversed(DATA.items())))
    assert contents(tmp_path / "again") == contents(folder)
    assert set(contents(folder)) == {"config.json", "model.safetensors"}
    other = random_rbm()
    with torch.no_grad():
        other.b[2] += 1e-6
    save_model(tmp_path / "other", "rbm", other, DATA)
    assert sha256(tmp_path / "other/model.safetensors") != sha256(folder / "model.safetensors")


def test_another_process_writes_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    program = f"""
import sys, torch
from pathlib import Path
from genmodels.artifacts import load_tensors, save_tensors
tensors = load_tensors(Path({str(folder / "model.safetensors")!r}))
save_tensors(Path({str(tmp_path / "copy.safetensors")!r}), dict(reversed(tensors.items())))
"""
    environment = os.environ | {"PYTHONHASHSEED": "7"}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)
    assert (tmp_path / "copy.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


def test_views_and_shared_tensors_are_written_whole(tmp_path: Path) -> None:
    wide = torch.arange(12.0).reshape(3, 4)
    save_tensors(tmp_path / "t.safetensors", {"a": wide.T, "b": wide, "c": wide[:, 1].requires_grad_()})
    loaded = load_tensors(tmp_path / "t.safetensors")
    assert torch.equal(loaded["a"], wide.T)
    assert loaded["c"].tolist() == [1.0, 5.0, 9.0]


def test_files_can_be_read_by_others_than_their_owner(folder: Path) -> None:
    assert folder.stat().st_mode & 0o777 == 0o755
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o644}


# What is wrong, and a piece of what the message has to say about it.
def truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-5])


def empty(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"")


def flip_a_bit(folder: Path) -> None:
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "model.safetensors").write_bytes(content)


def exchange(folder: Path) -> None:
    save_tensors(folder / "model.safetensors", RBM(4, 3).state_dict())


def remove_tensors(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def remove_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def torch_file(folder: Path) -> None:
    torch.save(random_rbm().state_dict(), folder / "model.safetensors")


def half_a_config(folder: Path) -> None:
    content = (folder / "config.json").read_bytes()
    (folder / "config.json").write_bytes(content[: len(content) // 2])


def no_text(folder: Path) -> None:
    (folder / "config.json").write_bytes(b"\xff\xfe\x00")


def a_list(folder: Path) -> None:
    (folder / "config.json").write_text("[1, 2]")


def no_args(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    del config["args"]
    (folder / "config.json").write_text(json.dumps(config))


DAMAGE: list[tuple[Callable[[Path], None], str]] = [
    (truncate, "not a whole safetensors file"),
    (empty, "not a whole safetensors file"),
    (torch_file, "not a whole safetensors file"),
    (flip_a_bit, "SHA-256"),
    (exchange, "SHA-256"),
    (remove_tensors, "model.safetensors: no such file"),
    (remove_config, "not a model folder"),
    (half_a_config, "not a JSON file"),
    (no_text, "not a JSON file"),
    (a_list, "needs the keys args, data, format, model, sha256"),
    (no_args, "needs the keys args"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGE, ids=[damage.__name__ for damage, _ in DAMAGE])
def test_a_damaged_folder_is_refused_in_one_line(
    damage: Callable[[Path], None], message: str, folder: Path
) -> None:
    damage(folder)
    assert message in refusal(folder)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"model": "rbn"}, "unknown name 'rbn': did you mean 'rbm'?"),
        ({"model": "zzz"}, "known are autoencoder, bernoulli_mixture, "),
        ({"model": ["rbm"]}, "model is a list, expected str"),
        ({"model": "os:system"}, "unknown name 'os:system'"),
        ({"format": 2}, "format is 2, this version reads 1"),
        ({"format": "1"}, "format is a str, expected int"),
        ({"args": {"n_visible": 5, "n_hidden": 3}}, "size mismatch for W"),
        ({"args": {"n_visible": 4}}, "n_hidden"),
        ({"args": {"n_visible": 4, "n_hidden": 3, "colour": 1}}, "colour"),
        ({"args": {"n_visible": -4, "n_hidden": 3}}, "must be non-negative"),
        ({"args": {"n_visible": "4", "n_hidden": 3}}, "no model 'rbm'"),
        ({"args": [4, 3]}, "args is a list, expected dict"),
        ({"model": "independent", "args": {"n_sites": 4}}, "probabilities"),
        ({"model": "diffusion", "args": {"shape": [4]}}, "[4] is not height"),
        ({"model": "vae", "args": {"shape": 4, "latent": 2, "hidden": 3}}, "no model 'vae'"),
        ({"sha256": {}}, "SHA-256"),
        ({"sha256": None}, "sha256 is a NoneType"),
    ],
)
def test_a_config_that_does_not_fit_is_refused_in_one_line(
    entries: dict[str, Any], message: str, folder: Path
) -> None:
    change(folder, **entries)
    assert message in refusal(folder)


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    assert "not a model folder" in refusal(tmp_path / "nothing")
    (tmp_path / "model.pt").write_bytes(b"x")
    assert "not a model folder" in refusal(tmp_path / "model.pt")


class Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (os.environ["TRAP"],)


def test_a_pickle_is_never_opened(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAP", str(tmp_path / "sprung"))
    for path in (folder / "model.safetensors", folder / "config.json"):
        before = path.read_bytes()
        for content in (pickle.dumps(Trap()), pickle.dumps(Trap(), protocol=0)):
            path.write_bytes(content)
            refusal(folder)
        path.write_bytes(before)
    assert not (tmp_path / "sprung").exists()
    pickle.loads(pickle.dumps(Trap()))
    assert (tmp_path / "sprung").exists()  # opened, it would have told


def test_a_new_folder_appears_whole(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "out"
    with new_folder(target) as temporary:
        (temporary / "a").write_text("new")
        assert not target.exists()
    assert contents(target) == {"a": b"new"}
    with new_folder(target) as temporary:
        (temporary / "b").write_text("newer")
        assert contents(target) == {"a": b"new"}
    assert contents(target) == {"b": b"newer"}  # replaced, not merged
    assert [path.name for path in target.parent.iterdir()] == ["out"]


def fill(folder: Path, text: str, error: type[BaseException] | None = None) -> None:
    with new_folder(folder) as temporary:
        (temporary / "a").write_text(text)
        if error is not None:
            raise error


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_a_failure_leaves_the_old_folder_and_nothing_else(error: type[BaseException], tmp_path: Path) -> None:
    target = tmp_path / "out"
    with pytest.raises(error):
        fill(target, "half", error)
    assert list(tmp_path.iterdir()) == []
    fill(target, "old")
    with pytest.raises(error):
        fill(target, "half", error)
    assert contents(target) == {"a": b"old"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("n_done", [0, 1])
def test_no_moment_without_the_old_or_the_new_content(
    n_done: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A kill at either renaming, as an exception that lets no later line run.
    fill(tmp_path / "out", "old")
    replace, done = os.replace, []

    def killed(source: Path, destination: Path) -> None:
        if len(done) == n_done:
            raise SystemExit
        done.append(destination)
        replace(source, destination)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(SystemExit):
        fill(tmp_path / "out", "new")
    assert b"old" in [(path / "a").read_bytes() for path in tmp_path.iterdir() if (path / "a").exists()]


def test_an_interrupt_between_the_renamings_puts_the_old_folder_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path / "out", "old")
    replace, outcomes = os.replace, [None, KeyboardInterrupt, None]

    def interrupted(source: Path, destination: Path) -> None:
        if (error := outcomes.pop(0)) is not None:
            raise error
        replace(source, destination)

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fill(tmp_path / "out", "new")
    assert outcomes == []
    assert contents(tmp_path / "out") == {"a": b"old"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_weights_that_are_no_numbers_or_too_large_for_their_precision_are_refused(tmp_path: Path) -> None:
    model = random_rbm()
    with torch.no_grad():
        model.b[0] = math.nan
    save_model(tmp_path / "rbm", "rbm", model, DATA)
    with pytest.raises(InputError, match="model.safetensors: b has entries that are no finite numbers"):
        load_model(tmp_path / "rbm")
    with torch.no_grad():
        model.b[0] = 1e6
    with pytest.raises(InputError, match=r"precision = half: cannot hold 1e\+06 of b"):
        save_model(tmp_path / "other", "rbm", model, DATA, "half")
    assert not (tmp_path / "other").exists()
    save_model(tmp_path / "rbm", "rbm", model, DATA)
    assert float(load_model(tmp_path / "rbm").b[0].detach()) == 1e6


def test_estimates_of_log_z_are_those_of_the_folders_own_weights(tmp_path: Path) -> None:
    folder = tmp_path / "train" / "rbm"
    save_model(folder, "rbm", random_rbm(), DATA)
    assert read_log_z(folder) == {}
    mine = of_scalar(3.0, stderr=0.1, kind="estimate", unit="nats", n=8, method="a sampler")
    of = {"mine": sha256(folder / "model.safetensors"), "another's": "0" * 64}
    answers = {name: mine.to_dict() | {"model_sha256": digest} for name, digest in of.items()}
    write_json(tmp_path / "estimate_log_z" / "rbm.json", answers)
    assert read_log_z(folder) == {"mine": mine}
    assert read_log_z(Path("/rbm")) == {}  # at the file system's root nothing is beside it
    write_json(folder / "log_z.json", {"inside": answers["mine"]})
    assert read_log_z(folder) == {"inside": mine}  # what came with the folder is nearer
    own = answers["mine"]
    for wrong in (
        [own],
        {"mine": 3.0},
        {"mine": {"model_sha256": of["mine"]}},
        {"mine": own | {"kind": "sure"}},
    ):
        write_json(folder / "log_z.json", wrong)
        with pytest.raises(InputError, match=r"log_z.json: no estimates of log Z in it"):
            read_log_z(folder)


@pytest.mark.parametrize(
    ("precision", "dtype"), [("half", torch.float16), ("single", torch.float32), ("double", torch.float64)]
)
def test_weights_are_written_in_the_precision_asked_for_and_read_in_the_models(
    tmp_path: Path, precision: str, dtype: torch.dtype
) -> None:
    model = random_rbm()
    save_model(tmp_path / "rbm", "rbm", model, DATA, precision)
    written = load_tensors(tmp_path / "rbm" / "model.safetensors")
    assert {tensor.dtype for tensor in written.values()} == {dtype}
    read = load_model(tmp_path / "rbm")
    assert read.W.dtype == model.W.dtype
    assert torch.equal(read.W, model.W.to(dtype).to(model.W.dtype))
    assert torch.equal(read.W, model.W) == (precision != "half")


def test_a_file_in_the_way_of_a_folder_stays(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(InputError, match="out: a file has this name"):
        fill(tmp_path / "out", "new", SystemExit)  # not even begun
    assert (tmp_path / "out").read_text() == "mine"


def test_a_new_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "x.json"

    def write(text: str, error: type[BaseException] | None = None) -> None:
        with new_file(target) as temporary:
            assert temporary.suffix == ".json"
            temporary.write_text(text)
            if error is not None:
                raise error

    with pytest.raises(KeyboardInterrupt):
        write("half", KeyboardInterrupt)
    assert list(target.parent.iterdir()) == []
    write("1")
    with pytest.raises(KeyboardInterrupt):
        write("half", KeyboardInterrupt)
    assert contents(target.parent) == {"x.json": b"1"}


def test_json_is_sorted_and_has_no_nan(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"b": [1.5, None], "a": "é"})
    assert path.read_bytes() == b'{\n  "a": "\\u00e9",\n  "b": [\n    1.5,\n    null\n  ]\n}\n'
    assert read_json(path) == {"b": [1.5, None], "a": "é"}
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, {"a": math.nan})
    assert read_json(path)["a"] == "é"
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.json"]
