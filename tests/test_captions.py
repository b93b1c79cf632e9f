"""Pictures with captions: where they come from, what is held out, and how they are split and kept."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_wrong_images import complaint, png

from genmodels.data import captioned_digits, captions
from genmodels.data.captioned_sources import CAPTIONED, CaptionRequest
from genmodels.data.captions import SPLITS, CaptionedImages, clean
from genmodels.data.emoji import emoji
from genmodels.data.emoji_names import name_of, name_of_sequence
from genmodels.data.imagefolder import imagefolder
from genmodels.data.prepare_captions import prepare_captions
from genmodels.data.recolour import TINTS, Tint, named, recoloured, tint
from genmodels.errors import InputError
from genmodels.registry import load

FEW = Path(__file__).with_name("emoji.ttf")  # a dozen of Noto Color Emoji's pictures
FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
SETTINGS: dict[str, Any] = {
    "path": None, "limit": None, "size": None, "variants": False, "recoloured": True, "held_out": [],
    "validation": 0.1, "test": 0.1, "seed": 3,
}  # fmt: skip
SHAPES, COLOURS = ("heart", "circle", "square", "star", "cube", "ring"), ("red", "green", "purple")


@pytest.fixture
def things(tmp_path: Path) -> Path:
    """A folder of six shapes in three colours."""
    rows = []
    for k, shape in enumerate(SHAPES):
        for j, colour in enumerate(COLOURS):
            name = f"{colour} {shape}.png"
            (tmp_path / name).write_bytes(png(6, 5, 10 * k + j))
            rows.append({"file_name": name, "text": f"a {colour}  {shape}"})
    (tmp_path / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def prepared(name: str, **changes: Any) -> CaptionedImages:
    return prepare_captions(name, **(SETTINGS | changes))


def shown(images: CaptionedImages, split: str) -> set[str]:
    return {images.captions[k] for k in images.splits[split].captions}


@pytest.mark.parametrize(
    ("code_point", "caption"),
    [
        (0x1F6B2, "a bicycle"),
        (0x1F9E1, "an orange heart"),
        (0x2764, "a red heart"),
        (0x1F5A4, "a black heart"),
        (0x2600, "a sun with rays"),
        (0x1F7E0, "an orange circle"),
        (0x2B1B, "a black square"),
        (0x1F984, "a unicorn face"),
        (0x231B, "an hourglass"),
        (0x1F347, "grapes"),
        (0x1F419, "an octopus"),
        (0x1F942, "clinking glasses"),
        (0x1F448, "a left pointing backhand index"),
    ],
)
def test_an_emoji_is_called_by_its_name_in_unicode(code_point: int, caption: str) -> None:
    name = name_of(code_point)
    assert name is not None
    assert name.caption() == caption


def test_a_name_has_a_colour_a_skin_and_a_gender() -> None:
    heart, runner = name_of(0x1F49C), name_of_sequence((0x1F3C3, 0x1F3FF, 0x200D, 0x2640))
    assert heart is not None
    assert runner is not None
    assert heart[:2] == ("heart", "purple")
    assert heart.caption("orange") == "an orange heart"
    assert runner.caption() == "a female runner with dark skin"
    assert name_of_sequence((0x1F44B, 0x1F3FB)).caption() == "a waving hand sign with light skin"
    assert name_of_sequence((0x1F468, 0x200D, 0x1F680)) is None, "a profession"
    assert name_of_sequence((0x1F1E9, 0x1F1EA)) is None, "a flag"
    assert [name_of(it) for it in (0x23, 0x1F1E9, 0x1F3FB, 0x1F9B0, 0x41, 0x10FFFF)] == [None] * 6


def test_a_colour_becomes_another_and_comes_back() -> None:
    rng = np.random.default_rng(1)
    red = np.concatenate([rng.integers((220, 50, 40), (245, 75, 60), (7, 9, 3)), np.full((7, 9, 1), 255)], 2)
    own = tint(red.astype(np.uint8))
    assert own is not None
    assert named(own) == "red"
    for name, wanted in TINTS.items():
        painted = tint(recoloured(red.astype(np.uint8), own, wanted))
        assert painted is not None
        if name in ("red", "green", "blue", "purple", "brown"):  # others are cut off at full brightness
            assert named(painted) == name
    back = recoloured(recoloured(red.astype(np.uint8), own, TINTS["purple"]), TINTS["purple"], own)
    assert np.abs(back[..., :3].astype(int) - red[..., :3]).max() <= 4
    many = red.astype(np.uint8).copy()
    many[:4, :, [0, 1, 2]] = many[:4, :, [2, 0, 1]]
    grey = np.full((3, 3, 4), 255, dtype=np.uint8)
    assert (tint(many), tint(grey), named(Tint(150.0, 0.5, 0.5))) == (None, None, None)


def test_emoji_are_drawn_in_colours_and_variants() -> None:
    material = emoji(CaptionRequest(path=FEW, size=(16, 16), variants=True))
    part = material.parts["train"]
    assert (material.shape, material.levels, part.levels.shape[1]) == ((16, 16, 3), 256, 768)
    at = {caption: k for k, caption in enumerate(part.captions)}
    assert len(at) == len(part.captions) == 21
    means = part.levels.reshape(len(at), 256, 3)[:, 6 * 16 + 6 : 6 * 16 + 10].mean(1)
    red, green, blue = means[at["a blue heart"]]
    assert blue > max(red, green)
    assert len({part.groups[at[f"{'an' if it == 'orange' else 'a'} {it} heart"]] for it in TINTS}) == 1
    assert np.array_equal(part.levels[at["a bicycle"]][:3], [255, 255, 255]), "no white corner"
    light, dark = (part.levels[at[f"a thumbs up sign with {tone} skin"]].mean() for tone in ("light", "dark"))
    assert dark < light - 15.0
    assert "a female runner with dark skin" in at
    plain = emoji(CaptionRequest(path=FEW, size=(16, 16), recoloured=False)).parts["train"]
    assert sorted(set(at) - set(plain.captions)) == sorted(
        [f"{'an' if it == 'orange' else 'a'} {it} heart" for it in TINTS if it not in ("red", "purple")]
        + [caption for caption in at if "skin" in caption or "female runner" in caption]
    )


@pytest.mark.slow
@pytest.mark.skipif(not FONT.is_file(), reason="Noto Color Emoji is not installed")
def test_the_whole_font_gives_more_than_a_thousand_things() -> None:
    material = emoji(CaptionRequest(size=(8, 8), variants=True))
    names = material.parts["train"].captions
    people = [name for name in names if name.endswith(" skin")]
    purple = [name for name in names if name.startswith("a purple ")]
    assert len(people) > 700
    assert 100 < len(purple) < 400
    assert not [name for name in purple if "runner" in name or "face" in name]
    assert len(set(names)) > 1000 + len(people) + 5 * len(purple)


def test_what_is_no_emoji_font_is_said(tmp_path: Path) -> None:
    import matplotlib

    (tmp_path / "x.ttf").write_bytes(b"\0\1\0\0" + b"x" * 60)
    text = Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"
    for path, words in [
        (tmp_path / "none.ttf", "no such file"),
        (tmp_path, "a folder"),
        (tmp_path / "x.ttf", "not a readable font"),
        (text, "without colour bitmaps"),
    ]:
        message = complaint(lambda path=path: emoji(CaptionRequest(path=path)))
        assert str(path) in message
        assert words in message
        assert "fonts-noto-color-emoji" in message


def test_digits_have_their_names_as_captions() -> None:
    images = prepared("digits", held_out=["a handwritten seven"])
    assert (images.shape, images.levels) == ((8, 8, 1), 17)
    assert images.captions[0] == ""
    wordings = {
        wording.format(name=name, number=k): k
        for k, name in enumerate(captioned_digits.NAMES)
        for wording in captioned_digits.WORDINGS
    }
    assert set(images.captions[1:]) == set(wordings)
    assert len(wordings) == 30
    assert shown(images, "held_out") == {"a handwritten seven"}
    assert all("a handwritten seven" not in shown(images, split) for split in SPLITS[:3])
    assert sum(len(split.captions) for split in images.splits.values()) == 1797
    from sklearn.datasets import load_digits

    bunch = load_digits()
    original = {row.tobytes(): label for row, label in zip(bunch.data.astype(np.uint8), bunch.target)}  # noqa: B905
    test = images.splits["test"]
    labels = [original[row.tobytes()] for row in test.levels]
    assert [wordings[images.captions[k]] for k in test.captions] == labels


def test_mnist_is_padded_all_round(tmp_path: Path) -> None:
    for part, n in (("train", 40), ("t10k", 20)):
        pixels = np.full((n, 28, 28), 9, dtype=np.uint8)
        header = struct.pack(">BBBBIII", 0, 0, 8, 3, *pixels.shape)
        (tmp_path / f"{part}-images-idx3-ubyte").write_bytes(header + pixels.tobytes())
        labels = struct.pack(">BBBBI", 0, 0, 8, 1, n) + bytes(k % 10 for k in range(n))
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(labels)
    images = prepared("mnist", path=tmp_path, limit=30)
    assert images.shape == (32, 32, 1)
    expected = np.pad(np.full((28, 28), 9), 2).ravel()
    assert all((split.levels == expected).all() for split in images.splits.values())
    assert {name: len(split.captions) for name, split in images.splits.items()} == {
        "train": 18, "validation": 2, "test": 10, "held_out": 0
    }  # fmt: skip


def test_held_out_pairs_are_seen_in_no_other_split_but_their_parts_are(things: Path) -> None:
    held_out = ["a purple heart", "a green circle"]
    images = prepared("imagefolder", path=things, held_out=held_out)
    assert shown(images, "held_out") == set(held_out)
    learnt = shown(images, "train") | shown(images, "validation") | shown(images, "test")
    assert learnt.isdisjoint(held_out)
    facts = captions.statistics(images)
    assert facts["n"]["held_out"] == 2
    assert facts["held_out"]["a purple heart"] == {"n": 1, "new_words": []}
    assert sum(facts["n"].values()) == len(SHAPES) * len(COLOURS)
    zebra = prepared("imagefolder", path=things, held_out=[f"a {colour} star" for colour in COLOURS])
    assert captions.statistics(zebra)["held_out"]["a red star"]["new_words"] == ["star"]


def test_a_thing_is_in_one_split(monkeypatch: pytest.MonkeyPatch, things: Path) -> None:
    material = imagefolder(CaptionRequest(path=things))
    part = material.parts["train"]
    groups = np.arange(len(part.groups)) // len(COLOURS)
    grouped = material._replace(parts={"train": part._replace(groups=groups)})
    monkeypatch.setattr("genmodels.data.imagefolder.imagefolder", lambda request: grouped)
    for seed in range(5):
        images = prepared("imagefolder", held_out=["a purple heart"], seed=seed)
        kinds = [{caption.split()[-1] for caption in shown(images, split)} for split in SPLITS]
        assert kinds[0] & kinds[1] == kinds[0] & kinds[2] == kinds[1] & kinds[2] == set()
        assert "heart" in kinds[0], "what is held out was to be learnt in other colours"
    alone = prepared("imagefolder", path=None, seed=0)
    assert not np.array_equal(
        alone.splits["train"].levels, prepared("imagefolder", seed=1).splits["train"].levels
    )


def test_equal_settings_give_equal_bytes_and_load_gives_all_back(things: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        captions.save(tmp_path / name, prepared("imagefolder", path=things, held_out=["a red ring"]))
    for file in ("images.npz", "meta.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    loaded, images = (
        captions.load(tmp_path / "one"),
        prepared("imagefolder", path=things, held_out=["a red ring"]),
    )
    assert loaded._replace(splits={}) == images._replace(splits={})
    for split in SPLITS:
        assert all(
            np.array_equal(a, b) for a, b in zip(loaded.splits[split], images.splits[split], strict=True)
        )


def test_a_damaged_folder_is_said(things: Path, tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    folder.mkdir()
    captions.save(folder, prepared("imagefolder", path=things))
    meta = json.loads((folder / "meta.json").read_text())
    for change, words in [
        ({"captions": ["", "only one"]}, "captions beyond"),
        ({"captions": ["x"]}, "first is empty"),
        ({"levels": 2}, "beyond its 2 levels"),
        ({"shape": [6, 5, 1]}, "do not fit"),
        ({"shape": [6, 5]}, "height, width, channels"),
        ({"format": 9}, "format is 9"),
        ({"origin": 3}, "origin is not of type str"),
    ]:
        (folder / "meta.json").write_text(json.dumps(meta | change))
        assert words in complaint(lambda: captions.load(folder))
    (folder / "meta.json").write_text("[" * 100_000)
    assert "not a JSON file" in complaint(lambda: captions.load(folder))
    (folder / "meta.json").unlink()
    assert "no such file" in complaint(lambda: captions.load(folder))


def test_splits_that_a_folder_has_are_kept_and_captions_may_be_many(tmp_path: Path) -> None:
    for split, texts in [("train", "abcdefghij"), ("valid", "kl")]:
        (tmp_path / split / "deep").mkdir(parents=True)
        (tmp_path / split / "deep" / "x.png").write_bytes(png(4, 4, 7))
        rows = "".join(f'deep/x.png,"{text}, or\nso",9\n' for text in texts)
        (tmp_path / split / "metadata.csv").write_text(
            "\ufefffile_name,text,other\n" + rows, encoding="utf-8"
        )
    material = imagefolder(CaptionRequest(path=tmp_path))
    assert {name: len(part.captions) for name, part in material.parts.items()} == {
        "train": 10,
        "validation": 2,
    }
    assert material.parts["train"].captions[0] == "a, or so"
    assert set(material.parts["train"].groups.tolist()) == {0}, "one picture is one thing"


def test_colours_and_resizing(tmp_path: Path) -> None:
    pixels = np.zeros((8, 4, 4), dtype=np.uint8)
    pixels[2:6] = (200, 30, 60, 255)  # else transparent
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(np.full((3, 6), 40000, dtype=np.uint16)).save(tmp_path / "b.png")
    (tmp_path / "metadata.csv").write_text("text,file_name\nred,a.png\ngrey,b.png\n")
    part = imagefolder(CaptionRequest(path=tmp_path, size=(4, 4))).parts["train"]
    assert np.array_equal(part.levels[0].reshape(-1, 3), [[200, 30, 60]] * 16), "cut about its middle"
    assert np.array_equal(part.levels[1], [156] * 48)
    assert "prepare_captions.size" in complaint(lambda: imagefolder(CaptionRequest(path=tmp_path)))


OUTSIDE = ["../x.png", "/etc/passwd", "a/../../x.png", "link.png", "away/x.png"]


@pytest.mark.parametrize("name", OUTSIDE)
def test_no_path_leaves_the_folder(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    (tmp_path / "x.png").write_bytes(png(4, 4))
    (folder / "link.png").symlink_to(tmp_path / "x.png")
    (folder / "away").symlink_to(tmp_path)
    (folder / "metadata.jsonl").write_text(json.dumps({"file_name": name, "text": "x"}))
    message = complaint(lambda: imagefolder(CaptionRequest(path=folder)))
    assert "line 1" in message
    assert "is not below" in message


@pytest.mark.parametrize(
    ("table", "text", "words"),
    [
        ("metadata.jsonl", "{", ["line 1", "not JSON"]),
        ("metadata.jsonl", "[1]", ["line 1", "list"]),
        ("metadata.jsonl", '\n{"file_name": "a.png"}', ["line 2", "'text'"]),
        ("metadata.jsonl", '{"file_name": 3, "text": "x"}', ["line 1", "'file_name'"]),
        ("metadata.jsonl", "", ["lists no picture"]),
        ("metadata.jsonl", '{"file_name": "no.png", "text": "x"}', ["no such file"]),
        ("metadata.jsonl", '{"file_name": "", "text": "x"}', ["no such file"]),
        ("metadata.jsonl", '{"file_name": "a\\u0000.png", "text": "x"}', ["is no path"]),
        ("metadata.jsonl", json.dumps({"file_name": "a" * 999, "text": "x"}), ["is no path"]),
        ("metadata.jsonl", '{"file_name": "bad.png", "text": "x"}', ["bad.png", "not a readable picture"]),
        ("metadata.jsonl", "[" * 100_000, ["line 1", "not JSON"]),
        ("metadata.csv", "file,text\na.png,x\n", ["line 2", "'file_name'"]),
        ("metadata.csv", "file_name,text\na.png\n", ["line 2", "'text'"]),
        ("metadata.csv", 'file_name,text\n"a.png"x,y\n', ["line", "not CSV"]),
        ("metadata.csv", "file_name,text\na.png," + "x" * 200_000, ["not CSV"]),
        ("metadata.csv", "", ["lists no picture"]),
        ("metadata.txt", "", ["metadata.jsonl or metadata.csv", "'train'"]),
    ],
)
def test_a_wrong_table_is_said_in_a_line(table: str, text: str, words: list[str], tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(4, 4))
    (tmp_path / "bad.png").write_bytes(png(4, 4)[:40])
    (tmp_path / table).write_text(text)
    message = complaint(lambda: imagefolder(CaptionRequest(path=tmp_path)))
    assert all(word in message for word in words), message


def test_folders_that_cannot_be_meant(tmp_path: Path) -> None:
    (tmp_path / "metadata.csv").write_bytes(b"file_name,text\n\xff\xff,x\n")
    assert "not UTF-8" in complaint(lambda: imagefolder(CaptionRequest(path=tmp_path)))
    (tmp_path / "metadata.jsonl").write_text("")
    assert "both" in complaint(lambda: imagefolder(CaptionRequest(path=tmp_path)))
    assert "needs the folder" in complaint(lambda: imagefolder(CaptionRequest()))
    assert "no such folder" in complaint(lambda: imagefolder(CaptionRequest(path=tmp_path / "none")))
    for name in ("train", "test", "eval"):
        (tmp_path / "x" / name).mkdir(parents=True)
        (tmp_path / "x" / name / "metadata.csv").write_text("")
    assert "test split, too" in complaint(lambda: imagefolder(CaptionRequest(path=tmp_path / "x")))


def test_settings_that_leave_nothing_are_said(things: Path) -> None:
    def message(**changes: Any) -> str:
        return complaint(lambda: prepared("imagefolder", path=things, **changes))

    assert "did you mean 'a purple heart'" in message(held_out=["a purple hart"])
    assert "too few for training" in message(limit=2)
    assert "without a picture" in message(limit=0)
    every = [f"a {colour} {shape}" for colour in COLOURS for shape in SHAPES]
    assert "too few for training" in message(held_out=every[:-1])
    assert "held_out: leaves the train split without a picture" in message(held_out=every)


def test_captions_are_cleaned_and_every_source_is_there() -> None:
    assert clean(" a\tred\n\n he\u0301art\0\ud800 ") == "a red héart"
    assert captions.words(["A red-hot chilli, please", "a rose"]) == {
        "a",
        "red",
        "hot",
        "chilli",
        "please",
        "rose",
    }
    assert all(callable(load(CAPTIONED, name)) for name in CAPTIONED)
    with pytest.raises(InputError, match="did you mean 'emoji'"):
        load(CAPTIONED, "emojis")
