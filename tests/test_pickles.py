"""At every door through which a file comes in lies a pickle, in turn, and none is ever opened."""

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import ROOT
from inputs import DEFAULTS
from test_wrong_images import IDX, png, write
from traps import forms, spring

from genmodels.artifacts import load_model, load_tensors, read_json, read_log_z, save_model
from genmodels.data import captions, coupling_files, images
from genmodels.data.npz import read_npy, read_npz
from genmodels.data.prepare import prepare_dataset
from genmodels.data.prepare_captions import prepare_captions
from genmodels.errors import InputError
from genmodels.models.rbm import RBM
from genmodels.networks import pretrained
from genmodels.placement.local import LocalPlacement
from genmodels.placement.resumable import Resumable
from genmodels.placement.trees import dumps, loads
from genmodels.text_states import text_states
from pipelines import params

FORMS = ("protocol 0", "protocol 5", "npy", "npz", "torch")
CAPTIONS: dict[str, Any] = {
    "limit": None, "size": None, "variants": False, "recoloured": True, "held_out": [], "validation": 0.1,
    "test": 0.1, "seed": 3,
}  # fmt: skip
Door = Callable[[Path, bytes], object]


def pictures(name: str) -> Door:
    def door(folder: Path, trap: bytes) -> object:
        write(folder, {f"{k}.png": png(4, 6, k) for k in range(5)} | {name: trap})
        return prepare_dataset("folder", **DEFAULTS | {"path": str(folder)})

    return door


def idx(name: str) -> Door:
    def door(folder: Path, trap: bytes) -> object:
        write(folder, IDX | {name: trap})
        return prepare_dataset("mnist", **DEFAULTS | {"path": str(folder)})

    return door


def binarized(folder: Path, trap: bytes) -> object:
    write(folder, {"b.npz": trap})
    return prepare_dataset("binarized_mnist", **DEFAULTS | {"path": str(folder / "b.npz")})


def prepared(name: str) -> Door:
    def door(folder: Path, trap: bytes) -> object:
        made, target = prepare_dataset("ising", **DEFAULTS | {"size": (2, 2), "n_samples": 20})
        images.save(folder, made, target)
        (folder / name).write_bytes(trap)
        return images.load(folder), images.load_target(folder)

    return door


def captioned(name: str) -> Door:
    def door(folder: Path, trap: bytes) -> object:
        rows = [json.dumps({"file_name": f"{k}.png", "text": f"picture {k}"}) for k in range(30)]
        write(folder, {f"{k}.png": png(4, 4, k) for k in range(30)})
        write(folder, {"metadata.jsonl": "\n".join(rows).encode()} | {name: trap})
        return prepare_captions("imagefolder", path=str(folder), **CAPTIONS)

    return door


def kept_captions(folder: Path, trap: bytes) -> object:
    made = captioned("notes.txt")(folder / "pictures", b"")
    (folder / "kept").mkdir()
    captions.save(folder / "kept", made)  # type: ignore[arg-type]
    for path in (folder / "kept").iterdir():
        before = path.read_bytes()
        path.write_bytes(trap)
        with suppress(InputError):
            captions.load(folder / "kept")
        path.write_bytes(before)
    raise InputError("all files were tried")


def model_folder(folder: Path) -> Path:
    data = {"name": "digits", "shape": [2, 2, 1], "levels": 2, "binarisation": "fixed-stochastic"}
    save_model(folder / "train" / "rbm", "rbm", RBM(4, 3), data)
    return folder / "train" / "rbm"


def model(name: str) -> Door:
    def door(folder: Path, trap: bytes) -> object:
        path = model_folder(folder)
        (path / name).write_bytes(trap)
        return load_model(path), read_log_z(path)

    return door


def served(name: str) -> Door:
    def door(folder: Path, trap: bytes) -> object:
        from types import SimpleNamespace

        from pipelines.served_model import Pictures

        path = model_folder(folder)
        (path / name).write_bytes(trap)
        here = Pictures()
        here.load_context(SimpleNamespace(artifacts={"model": str(path)}))
        return here.predict(None, {"seed": [1]})

    return door


def couplings(suffix: str) -> Door:
    def door(folder: Path, trap: bytes) -> object:
        (folder / f"c{suffix}").write_bytes(trap)
        return coupling_files.read(folder / f"c{suffix}")

    return door


def resumed(which: str) -> Door:
    """A checkpoint of samplers whose files are traps, with digests that are right."""

    def door(folder: Path, trap: bytes) -> object:
        import hashlib

        entry = {"name": "states-000001", "sha256": hashlib.sha256(trap).hexdigest()}
        head = {"format": 1, "run": "a run", "results": [entry], "states": entry}
        (folder / "states-000001").write_bytes(trap)
        (folder / "snapshot-000001.json").write_bytes(trap if which == "head" else json.dumps(head).encode())
        return Resumable(LocalPlacement(), str(folder), "a run")

    return door


def tree(folder: Path, trap: bytes) -> object:
    head = json.dumps({"tensor": "0"}).encode()
    with suppress(Exception):  # its caller takes any for damage
        loads(trap)
    with suppress(Exception):
        loads(len(head).to_bytes(8, "little") + head + trap)
    with suppress(Exception):
        loads(len(trap).to_bytes(8, "little") + trap + dumps([])[10:])
    raise InputError("all of them were tried")


def training(folder: Path, trap: bytes) -> object:
    (folder / "learner.safetensors").write_bytes(trap)
    return load_tensors(folder / "learner.safetensors")


def encoder(name: str) -> Door:
    def door(folder: Path, trap: bytes) -> object:
        from genmodels.networks.text_encoder import TextEncoder

        write(folder, {"config.json": b'{"model_type": "bert"}', "tokenizer.json": b"{}"} | {name: trap})
        pretrained.folder_of(str(folder))
        return TextEncoder(str(folder)).encode(["a prompt"])

    return door


def kept_states(folder: Path, trap: bytes) -> object:
    """A file of states that is a trap is written anew."""
    from genmodels.networks.text_encoder import Texts

    class Encoder:
        digest, max_tokens, padded = "0", 4, False

        def encode(self, prompts: list[str], emphasised: bool) -> Texts:
            n = len(prompts)
            made = {name: torch.ones(n, 1, 1) for name in Texts._fields}
            return Texts(**made)

    text_states(Encoder(), ["a"], folder)  # type: ignore[arg-type]
    (path,) = folder.iterdir()
    path.write_bytes(trap)
    text_states(Encoder(), ["a"], folder)  # type: ignore[arg-type]
    assert path.read_bytes() != trap
    raise InputError("written anew")


def settings(folder: Path, trap: bytes) -> object:
    (folder / "params.yaml").write_bytes(trap)
    return params.read(folder / "params.yaml")


def tagged(folder: Path, trap: bytes) -> object:
    sprung = str(folder.parent / "sprung")
    text = (ROOT / "params.yaml").read_text()
    for tag in (
        f"!!python/object/apply:os.makedirs ['{sprung}']",
        f"!!python/object/new:os.makedirs ['{sprung}']",
    ):
        (folder / "params.yaml").write_text(text.replace("seed: 2026", f"seed: {tag}"))
        with pytest.raises(InputError):
            params.read(folder / "params.yaml")
    raise InputError("both were tried")


DOORS: dict[str, Door] = {
    "a picture": pictures("x.png"),
    "a photograph": pictures("x.jpg"),
    "an array among pictures": pictures("x.npy"),
    "images of MNIST": idx("train-images-idx3-ubyte"),
    "labels of MNIST": idx("t10k-labels-idx1-ubyte"),
    "binarised MNIST": binarized,
    "an archive": lambda folder, trap: (write(folder, {"x": trap}), read_npz(folder / "x", ("x_train",))),
    "an array": lambda folder, trap: (write(folder, {"x": trap}), read_npy(folder / "x")),
    "prepared images": prepared("images.npz"),
    "what is said of them": prepared("meta.json"),
    "their distribution": prepared("target.npz"),
    "a table of captions": captioned("metadata.jsonl"),
    "a picture with a caption": captioned("3.png"),
    "kept captions": kept_captions,
    "a model's weights": model("model.safetensors"),
    "a model's config": model("config.json"),
    "a model's log Z": model("log_z.json"),
    "a served model's weights": served("model.safetensors"),
    "a served model's config": served("config.json"),
    "couplings, rudy": couplings(".rud"),
    "couplings, COO": couplings(".coo"),
    "couplings, dimod": couplings(".bqm"),
    "couplings, JSON": couplings(".json"),
    "a checkpoint's list": resumed("head"),
    "a checkpoint's states": resumed("states"),
    "states in a checkpoint": tree,
    "a training's checkpoint": training,
    "an encoder's weights": encoder("model.safetensors"),
    "an encoder's old weights": encoder("pytorch_model.bin"),
    "an encoder's config": encoder("config.json"),
    "an encoder's tokenizer": encoder("tokenizer.json"),
    "states of prompts": kept_states,
    "params.yaml": settings,
    "a tag in params.yaml": tagged,
    "a table": lambda folder, trap: (write(folder, {"t.json": trap}), read_json(folder / "t.json")),
}
HARMLESS = {"a checkpoint's list", "a checkpoint's states"}  # they start anew and say so


@pytest.mark.parametrize("door", DOORS)
def test_what_lies_at_a_door_is_refused_unopened(door: str, tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    for number, data in enumerate(forms(sprung).values()):
        folder = tmp_path / str(number)
        folder.mkdir()
        if door in HARMLESS:
            DOORS[door](folder, data)
        else:
            with pytest.raises(InputError) as caught:
                DOORS[door](folder, data)
            assert "\n" not in str(caught.value)
        assert not sprung.exists(), door


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pkl", "pipeline/weights.bin"])
def test_a_pickle_beside_a_models_files_is_left_alone(name: str, tmp_path: Path) -> None:
    path = model_folder(tmp_path)
    (path / name).parent.mkdir(exist_ok=True)
    (path / name).write_bytes(forms(tmp_path / "sprung")["torch"])
    assert load_model(path).n_hidden == 3
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("form", FORMS)
def test_a_careless_reader_is_found_out(form: str, tmp_path: Path) -> None:
    spring(form, forms(tmp_path / "sprung")[form])
    assert (tmp_path / "sprung").exists()


def test_no_code_of_the_project_names_what_unpickles() -> None:
    """Calls that open a pickle, or may: none in the library, the pipelines and the stages."""
    words = (
        "pickle.load",
        "torch.load(",
        "joblib.load",
        "allow_pickle=True",
        "weights_only=False",
        "yaml.unsafe",
    )
    for package in ("genmodels", "pipelines", "stages"):
        for path in (ROOT / package).rglob("*.py"):
            assert not [word for word in words if word in path.read_text()], path


def test_settings_are_read_by_a_safe_loader() -> None:
    assert issubclass(params._UniqueKeys, yaml.SafeLoader)
