"""A pretrained Transformer that turns prompts into the states that a picture's blocks attend to."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from torch import Tensor

from genmodels.data.captions import clean
from genmodels.errors import InputError
from genmodels.networks import emphasis, pretrained

_BATCH = 64  # prompts of one length
_ENDLESS = 100_000  # what tokenizers without a limit say is beyond this
# What a folder written by somebody else can raise is up to transformers.
_UNLOADABLE = (
    AttributeError,
    ImportError,
    LookupError,
    OSError,
    RuntimeError,
    SafetensorError,
    TypeError,
    ValueError,
)


class Texts(NamedTuple):
    """The states of some prompts, padded with zeros to the longest."""

    states: Tensor  # (prompt, token, width), float32
    mask: Tensor  # (prompt, token), bool: which tokens are there

    def select(self, index: Tensor) -> "Texts":
        """Return the prompts with these numbers  # (row,)."""
        return Texts(self.states[index], self.mask[index])

    def to(self, device: torch.device | str) -> "Texts":
        """Return the same on another device."""
        return Texts(self.states.to(device), self.mask.to(device))


def stacked(states: Sequence[Tensor]) -> Texts:
    """Return prompts of several lengths as one  # (token, width) each."""
    padded: Tensor = torch.nn.utils.rnn.pad_sequence(list(states), batch_first=True)
    lengths = torch.tensor([len(it) for it in states])
    return Texts(padded, torch.arange(padded.shape[1]) < lengths[:, None])


class TextEncoder:
    """Last hidden states of a Transformer and its tokenizer, loaded when they are first needed.

    Rombach et al. 2022, section 3.3. No code of the encoder's folder is ever run.

    Attributes:
        name: "minilm", which is installed with this package; a folder; or a name on the Hugging Face hub.
        max_tokens: What of a prompt goes beyond is cut off.
        padded: Whether shorter prompts are filled up to max_tokens with the tokenizer's padding, and its
            states count as a prompt's own: so diffusers' StableDiffusionPipeline does it.
        digest: SHA-256 of the encoder's files.

    Raises:
        InputError: no such encoder.
    """

    def __init__(self, name: str = pretrained.MINILM, max_tokens: int = 64, padded: bool = False) -> None:
        """Find the encoder and check its files."""
        if max_tokens < 4:
            raise InputError(f"max_tokens: {max_tokens} tokens say nothing, give at least 4")
        self.name, self.max_tokens, self.padded = name, max_tokens, padded
        self.folder = pretrained.folder_of(name)
        self.digest = pretrained.digest(self.folder)
        self._loaded: tuple[Any, Any] | None = None

    @classmethod
    def known(cls, description: dict[str, Any]) -> "TextEncoder":
        """Return the encoder that a model was trained with, by its `description`.

        Raises:
            InputError: what has its name now is another one.
        """
        encoder = cls(description["name"], description["max_tokens"], description.get("padded", False))
        if encoder.digest != description["digest"]:
            raise InputError(
                f"text encoder {encoder.name}: not the one that the model was trained with, by its digest "
                f"{encoder.digest[:12]} in place of {description['digest'][:12]}"
            )
        return encoder

    def description(self) -> dict[str, Any]:
        """Return what `known` finds it again by, JSON-ready."""
        return {
            "name": self.name,
            "digest": self.digest,
            "max_tokens": self.max_tokens,
            "padded": self.padded,
        }

    @property
    def width(self) -> int:
        """Return the number of entries of a state."""
        _, model = self.parts()
        return int(model.config.hidden_size)

    def encode(self, prompts: Sequence[str], emphasised: bool = False) -> Texts:
        """Return the states of prompts, each as if it were alone.

        Args:
            prompts: Texts in any script; spaces and control characters count as one space.
            emphasised: Whether brackets are weights, by which a token's states are multiplied.

        Raises:
            InputError: no prompt, a weight beyond ±10, states that are not finite, or a tokenizer without
                padding where prompts are to be padded.
        """
        if not prompts:
            raise InputError("prompts: there is none, give at least an empty one")
        tokens = [self._tokens(prompt, emphasised) for prompt in prompts]
        by_length: dict[int, list[int]] = {}
        for row, it in enumerate(tokens):
            by_length.setdefault(len(it.ids), []).append(row)
        states: dict[int, Tensor] = {}
        for rows in by_length.values():
            for start in range(0, len(rows), _BATCH):
                some = rows[start : start + _BATCH]
                found = self._states([tokens[row].ids for row in some])
                weights = torch.tensor([tokens[row].weights for row in some])
                n_more = found.shape[1] - weights.shape[1]
                found *= torch.nn.functional.pad(weights, (0, n_more), value=1.0)[..., None]
                states |= dict(zip(some, found, strict=True))
        texts = stacked([states[row] for row in range(len(tokens))])
        if not bool(texts.states.isfinite().all()):
            raise InputError(f"text encoder {self.name}: its states are not finite; give another encoder")
        return texts

    def cut_off(self, prompt: str, emphasised: bool = False) -> str:
        """Return the end of a prompt that goes beyond `max_tokens`, "" if all of it counts."""
        return self._tokens(prompt, emphasised).rest

    def words(self, prompt: str, emphasised: bool = False) -> list[tuple[str, list[int]]]:
        """Return the words of a prompt that are read, and the numbers of the tokens of each.

        What spaces part is a word; tokens of the tokenizer's own, as at both ends, are of none.
        """
        text, ends = self._tokens(prompt, emphasised)[2:4]
        found: list[tuple[str, list[int]]] = []
        start = 0
        for word in text.split():
            start = text.index(word, start)
            tokens = [k for k, end in enumerate(ends) if start < end <= start + len(word)]
            start += len(word)
            if tokens:
                found.append((word, tokens))
        return found

    def _tokens(self, prompt: str, emphasised: bool) -> "_Tokens":
        tokenizer, _ = self.parts()
        text, weights = clean(prompt), [1.0] * len(clean(prompt))
        if emphasised:
            text, weights = emphasis.parse(text)
        most = self.most
        found = tokenizer(text, truncation=True, max_length=most, padding=False, return_offsets_mapping=True)
        ends = [end if end > start else 0 for start, end in found["offset_mapping"]]  # 0: of the tokenizer
        rest = text[max(ends, default=0) :].strip() if len(ends) >= most else ""
        ids = list(found["input_ids"]) or [_filler(tokenizer)]
        return _Tokens(ids, [weights[end - 1] if end else 1.0 for end in ends] or [1.0], text, ends, rest)

    @property
    def most(self) -> int:
        """Return how many tokens of a prompt are read."""
        tokenizer, model = self.parts()
        n: int = min(self.max_tokens, tokenizer.model_max_length, _positions(model.config))
        return n

    @torch.no_grad()
    def _states(self, ids: list[list[int]]) -> Tensor:  # (prompt, token) -> (prompt, token, width)
        tokenizer, model = self.parts()
        rows = torch.tensor(ids)
        mask = torch.ones_like(rows)
        if self.padded:
            if tokenizer.pad_token_id is None or tokenizer.padding_side != "right":
                raise InputError(f"text encoder {self.name}: has no padding to the right; give padded: false")
            n_more = self.most - rows.shape[1]
            rows = torch.nn.functional.pad(rows, (0, n_more), value=tokenizer.pad_token_id)
            mask = torch.nn.functional.pad(mask, (0, n_more))
        output: Tensor = model(input_ids=rows, attention_mask=mask).last_hidden_state
        return output.float()

    def parts(self) -> tuple[Any, Any]:
        """Return the tokenizer and the model."""
        if self._loaded is None:
            self._loaded = _load(self.name, self.folder)
        return self._loaded


class _Tokens(NamedTuple):
    ids: list[int]
    weights: list[float]
    text: str  # without brackets
    ends: list[int]  # of each token in it; 0 of those that stand for nothing there
    rest: str


def _load(name: str, folder: Path) -> tuple[Any, Any]:
    """Return tokenizer and model."""
    import transformers

    options = {"trust_remote_code": False, "local_files_only": True}
    try:
        with _without_progress():
            config = transformers.AutoConfig.from_pretrained(folder, **options)
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **options)
            kind: Any = transformers.AutoModel
            if config.model_type == "clip":  # of which only the half that reads is wanted
                kind, options = transformers.CLIPTextModel, {"local_files_only": True}
            elif config.is_encoder_decoder:
                kind = transformers.AutoModelForTextEncoding
            model = kind.from_pretrained(folder, use_safetensors=True, dtype=torch.float32, **options)
    except _UNLOADABLE as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"text encoder {name}: cannot be loaded from {folder} ({reason})") from error
    if not tokenizer.is_fast:
        raise InputError(f"text encoder {name}: its tokenizer has no tokenizer.json; convert it to that form")
    return tokenizer, model.eval()


@contextmanager
def _without_progress() -> Iterator[None]:
    from transformers.utils import logging as its_logging

    logging: Any = its_logging
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _positions(config: Any) -> int:
    """Return how many tokens a model has positions for."""
    n: int = getattr(config, "max_position_embeddings", None) or _ENDLESS
    # RoBERTa and its kin count positions from the padding's number.
    return n - config.pad_token_id - 1 if config.model_type in ("roberta", "xlm-roberta", "camembert") else n


def _filler(tokenizer: Any) -> int:
    """Return what stands for an empty prompt where the tokenizer adds no token of its own."""
    known = (tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.pad_token_id)
    return next((int(it) for it in known if it is not None), 0)
