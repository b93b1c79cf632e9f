"""Files of couplings: what is read is what was written, and what is wrong is said in one line."""

import io
import json
import math
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genmodels.couplings import Couplings
from genmodels.data import lattices
from genmodels.data.bqm import read_bqm
from genmodels.data.coo import read_coo, write_coo
from genmodels.data.coupling_files import FORMATS, cut, read
from genmodels.data.rudy import read_rudy, write_rudy
from genmodels.errors import InputError
from genmodels.streams import Key

ROOT = Path(os.environ.get("GENMODELS_DATA") or "data") / "couplings"
needs_instances = pytest.mark.skipif(not ROOT.is_dir(), reason="no couplings/ under GENMODELS_DATA")
READERS: dict[str, Callable[[io.BytesIO, str], Any]] = {"rudy": read_rudy, "coo": read_coo, "bqm": read_bqm}


def rudy(text: str | bytes) -> Couplings:
    return read_rudy(io.BytesIO(text.encode() if isinstance(text, str) else text), "file")


def coo(text: str) -> Couplings:
    return read_coo(io.BytesIO(text.encode()), "file")


def serializable(**changes: Any) -> bytes:
    entries = {
        "type": "BinaryQuadraticModel", "version": {"bqm_schema": "3.0.0"}, "use_bytes": False,
        "variable_type": "BINARY", "offset": 0.5, "linear_biases": [1.5, -2, 0.25],
        "quadratic_biases": [3, -1.25], "quadratic_head": [0, 2], "quadratic_tail": [1, 1],
        "variable_labels": ["a", ["x", 2], 7],
    }  # fmt: skip
    return json.dumps(entries | changes).encode()


def all_states(n: int) -> np.ndarray:
    return np.array(np.meshgrid(*[[-1, 1]] * n, indexing="ij")).reshape(n, -1).T


def lopsided() -> Couplings:
    i, j = np.triu_indices(5, 1)
    rng = Key(7, "lopsided").numpy()
    return Couplings(5, i, j, rng.standard_normal(10), rng.standard_normal(5) + 0.3)


def equal(one: Couplings, other: Couplings) -> bool:
    parts = ("i", "j", "J", "h")
    same = all(np.array_equal(getattr(one, part), getattr(other, part)) for part in parts)
    return same and one.n_sites == other.n_sites and one.offset == other.offset


@pytest.mark.parametrize(
    "text",
    [
        "3 2\n1 2 3\n3 2 -4\n",
        "3 2 0\n1 2 3\n3 2 -4",  # a third number in the header, no final newline
        "\n 3\t2 what else\n\n1 2 3 \n\n3 2 -4\n\n\n",
        "3 2\r\n1 2 3\r\n3 2 -4\r\n",
        "# comment\n3 2 # more\n1 2 3.0 # one\n# two\n3 2 -4e0",
    ],
)
def test_rudy_files_as_they_occur(text: str) -> None:
    read = rudy(text)
    assert (read.n_sites, read.i.tolist(), read.j.tolist(), read.J.tolist()) == (3, [0, 1], [1, 2], [-3, 4])


def test_the_largest_cut_is_the_ground_state() -> None:
    couplings = rudy("5 6\n1 2 3\n2 3 1\n3 4 -2\n4 5 4\n1 5 2\n1 3 5\n")
    states = all_states(5)
    energies = couplings.energy(states)
    cuts = np.array([cut(couplings, x) for x in states])
    # cut = ½(Σ w − E), so that the lowest energy and the largest cut are the same states; J = +w is not.
    np.testing.assert_array_equal(cuts, 0.5 * (-couplings.J.sum() - energies))
    assert cuts[energies.argmin()] == cuts.max() == 12
    assert cuts[(-energies).argmin()] != cuts.max()


def test_coo_files() -> None:
    read = coo("# E = -sum J x x - sum h x\n0 1 0.5\n 3 0 -2 # swapped\n\n1 1 0.25\n3 3 -1")
    assert read.n_sites == 4
    assert (read.i.tolist(), read.j.tolist(), read.J.tolist()) == ([0, 0], [1, 3], [0.5, -2.0])
    assert read.h.tolist() == [0, 0.25, 0, -1]
    x = np.array([[1, -1, 1, -1]])
    assert read.energy(x).item() == -(0.5 * -1 - 2 * -1) - (0.25 * -1 - 1 * -1)


def test_dimods_coo_has_the_other_sign() -> None:
    with pytest.raises(InputError, match=r"dimod.*\+Σ"):
        coo("# vartype=SPIN\n0 1 1.0\n")


@pytest.mark.parametrize("vartype", ["SPIN", "BINARY"])
def test_every_state_of_a_binary_quadratic_model_has_its_energy(vartype: str) -> None:
    couplings = read_bqm(io.BytesIO(serializable(variable_type=vartype)), "file").couplings()
    x = all_states(3)
    v = x if vartype == "SPIN" else (1 + x) / 2
    a, c = np.array([1.5, -2, 0.25]), 0.5
    expected = v @ a + 3 * v[:, 0] * v[:, 1] - 1.25 * v[:, 1] * v[:, 2] + c
    np.testing.assert_array_equal(couplings.energy(x), expected)  # dyadic biases: exact


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("vartype", ["SPIN", "BINARY"])
def test_files_that_dimod_writes(tmp_path: Path, vartype: str, version: int, dtype: str) -> None:
    dimod = pytest.importorskip("dimod")
    linear = {"a": 1.5, ("x", 2): -2.0, 7: 0.25, "alone": 3.0}
    quadratic = {("a", ("x", 2)): 3.0, (7, "a"): -1.25, (("x", 2), 7): 0.5}
    bqm = dimod.BinaryQuadraticModel(linear, quadratic, 0.5, vartype, dtype=dtype)
    (tmp_path / "m.bqm").write_bytes(bqm.to_file(version=version).read())
    (tmp_path / "m.json").write_text(json.dumps(bqm.to_serializable()))
    for name in ("m.bqm", "m.json"):
        found = read(tmp_path / name)
        labels = [tuple(label) if isinstance(label, list) else label for label in found.labels or []]
        assert set(labels) == set(linear)
        x = all_states(4)
        v = x if vartype == "SPIN" else (1 + x) // 2
        np.testing.assert_array_equal(found.couplings.energy(x), bqm.energies((v, labels)))


def test_a_model_numbered_from_0_has_no_labels(tmp_path: Path) -> None:
    dimod = pytest.importorskip("dimod")
    bqm = dimod.BinaryQuadraticModel({0: 1.0, 1: 2.0}, {(0, 1): -1.0}, 0.0, "SPIN")
    (tmp_path / "m.bqm").write_bytes(bqm.to_file().read())
    assert read(tmp_path / "m.bqm").labels is None


@pytest.mark.parametrize("instance", [
    lattices.edwards_anderson((3, 4, 5), Key(1, "instance")),
    lattices.edwards_anderson((3, 3, 3), Key(1, "instance"), gaussian=True),
    lattices.sherrington_kirkpatrick(20, Key(1, "instance")),
])  # fmt: skip
def test_round_trips_are_exact(tmp_path: Path, instance: Couplings) -> None:
    write_rudy(tmp_path / "c.rud", instance)
    write_coo(tmp_path / "c.coo", instance)
    assert equal(read(tmp_path / "c.rud").couplings, instance)
    assert equal(read(tmp_path / "c.coo").couplings, instance)


def test_fields_make_the_round_trip_too(tmp_path: Path) -> None:
    write_coo(tmp_path / "c.coo", lopsided())
    assert equal(read(tmp_path / "c.coo").couplings, lopsided())
    with pytest.raises(InputError, match="fields"):
        write_rudy(tmp_path / "c.rud", lopsided())


def test_large_integers_are_exact_or_refused() -> None:
    assert rudy("2 1\n1 2 9007199254740992").J.tolist() == [-(2.0**53)]
    with pytest.raises(InputError, match="line 2.*exact"):
        rudy("2 1\n1 2 9007199254740993")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty"),
        ("\n\n", "empty"),
        ("3\n1 2 1\n", "line 1: '3.*n m"),
        ("3 2\n1 2 1\n", "2 edges, 1 are there"),
        ("3 1\n1 2 1\n\n2 3 1\n", "line 4: more edges than the 1"),
        ("3 1\n1 4 1\n", "line 2: '1 4': sites are 1 to 3"),
        ("3 1\n0 2 1\n", "line 2: '0 2': sites"),
        ("3 1\n2 2 1\n", "line 2: '2 2': an edge from a site to itself"),
        ("3 3\n1 2 1\n2 3 1\n\n2 1 5\n", "line 5: 2 and 1 are coupled on line 2 already"),
        ("3 1\n1 2\n", "line 2: 2 entries"),
        ("3 1\n1 2 1 1\n", "line 2: 4 entries"),
        ("3 1\n1 2 nan\n", "line 2: the value is 'nan'"),
        ("3 1\n1 2 -inf\n", "line 2: the value is '-inf'"),
        ("3 1\n1 2 1e999\n", "line 2: the value is '1e999'"),
        ("3 1\n1 2 1_0\n", "line 2: the value is '1_0'"),
        ("3 1\n1.0 2 1\n", "line 2: '1.0' stands where a whole number"),
        ("3 1\n1 99999999999999999999 1\n", "line 2: '99999999999999999999' stands"),
        ("1000000000000 1\n1 2 1\n", "line 1: 1000000000000 sites"),
        ("3 1000000000000\n1 2 1\n", "line 1: 1000000000000 edges among 3"),
        ("0 0\n", "line 1: 0 sites"),
        ("-3 1\n1 2 1", "line 1: -3 sites"),
        ("3 1\n1 2 é\n", "line 2: the value is"),
    ],
)
def test_wrong_rudy_files_are_refused_in_one_line(text: str, says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        rudy(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no couplings"),
        ("# only words\n", "no couplings"),
        ("0 -1 1\n", "line 1: '0 -1'"),
        ("0 1 1\n\n0 99999999999 1\n", "line 3: '0 99999999999'"),
        ("0 1 1\n0 0 1\n0 0 2\n", "line 3: 0 and 0 are coupled on line 2 already"),
        ("0 1 x\n", "line 1: the value is 'x'"),
    ],
)
def test_wrong_coo_files_are_refused_in_one_line(text: str, says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        coo(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b"neither of them", "neither a .bqm file"),
        (b"{", "not JSON"),
        (b'{"a": ' + b"[" * 100000, "not JSON"),
        (b'{"a": 1}', "no 'variable_type'"),
        (serializable(variable_type="INTEGER"), "INTEGER"),
        (serializable(linear_biases=[]), "0 variables"),
        (serializable(linear_biases=["1", 2, 3]), "not a list of numbers"),
        (serializable(linear_biases=[1, 2, float("nan")]), "not a finite number"),
        (serializable(offset=float("inf")), "not a finite number"),
        (serializable(offset=10**400), r"beyond 2\^53"),
        (serializable(offset=True), "not a list of numbers"),
        (serializable(quadratic_head=[0]), "1 heads"),
        (serializable(quadratic_head=[0, 3]), "a pair of variables 1 and 3"),
        (serializable(quadratic_head=[0, -1]), "a pair of variables -1"),
        (serializable(quadratic_head=[0, 1]), "a pair of variables 1 and 1"),
        (serializable(quadratic_head=[0, 0]), "0 and 1 is there twice"),
        (serializable(quadratic_head=[0.5, 0]), "whole numbers"),
        (serializable(variable_labels=["a"]), "label"),
        (b"DIMODBQM\x03\x00\x00\x00\x00\x00", "version"),
        (b"DIMODBQM\x02\x00\xff\xff\xff\xff{", "cut off"),
        (b"DIMODBQM\x02\x00\x02\x00\x00\x00{}", "no shape"),
    ],
)
def test_wrong_binary_quadratic_models_are_refused_in_one_line(content: bytes, says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        read_bqm(io.BytesIO(content), "file")
    assert "\n" not in str(caught.value)


def test_the_line_of_an_error_far_down_is_the_right_one() -> None:
    # Several blocks of the fast reader; the errors are beyond the first.
    lines = [f"{i} {i + 1} 1" for i in range(1, 200001)]
    right = "\n".join(["200001 200000", *lines])
    assert len(rudy(right).J) == 200000
    errors = {"150000 150002": "2 entries", "150000 150001 x": "'x'", "7 8 1": "on line 8 already"}
    for wrong, says in errors.items():
        with pytest.raises(InputError, match=f"line 150001: .*{says}"):
            rudy("\n".join(["200001 200000", *lines[:149999], wrong, *lines[150000:]]))


class Endless(io.RawIOBase):
    """100 MB of noise that is never in memory as a whole."""

    def __init__(self, start: bytes, noise: bytes) -> None:
        self.start, self.noise, self.left = start, noise, 100 << 20

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        n = min(len(buffer), self.left)
        data = (self.start + self.noise * (n // len(self.noise) + 1))[:n]
        buffer[:n], self.start, self.left = data, b"", self.left - n
        return n


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("start", [b"", b"1000 10000\n", b"{", b"#"])
@pytest.mark.parametrize("noise", [b"\x00", b"7", b"1 2 3 ", b"1 2 3\n", b"\xff\xfe\n", bytes(range(256))])
def test_100_mb_of_noise_take_little_memory(format: str, start: bytes, noise: bytes) -> None:
    file = io.BufferedReader(Endless(start, noise * (4096 // len(noise))))
    tracemalloc.start()
    with pytest.raises(InputError) as caught:
        READERS[format](file, "noise")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200
    assert peak < (320 << 20 if format == "bqm" else 64 << 20)


def test_a_huge_header_allocates_nothing() -> None:
    tracemalloc.start()
    for text in ("999999999999 5\n1 2 1\n", "10000000 49999995000000\n1 2 x\n"):
        with pytest.raises(InputError):
            rudy(text)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20


def consistent(read: Couplings) -> bool:
    parts = (read.J, read.h, np.array(read.offset))
    return bool(
        all(np.isfinite(part).all() for part in parts)
        and len(read.i) == len(read.j) == len(read.J)
        and len(read.h) == read.n_sites >= 1
        and (read.i >= 0).all() and (read.i < read.j).all() and (read.j < read.n_sites).all()
        and len(set(zip(read.i.tolist(), read.j.tolist(), strict=True))) == len(read.i)
    )  # fmt: skip


ENTRIES = st.one_of(
    st.integers(-2, 6).map(str),
    st.floats().map(repr),
    st.sampled_from(["#", "\r", "\x0b", "\x00", "1e3", "+", "e", "_", "é", "0x1", "1" * 30, "0" * 80]),
)
LINES = st.lists(st.lists(ENTRIES, max_size=4).map(" ".join), max_size=8).map("\n".join).map(str.encode)
JSONS = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 5) | st.floats() | st.text(max_size=3) | st.just(10**30),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=6,
)


def survives(format: str, content: bytes) -> None:
    try:
        found = READERS[format](io.BytesIO(content), "file")
    except InputError as error:
        assert "\n" not in str(error)  # noqa: PT017 — either of the two may happen
        return
    assert consistent(found.couplings() if format == "bqm" else found)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["rudy", "coo"]), LINES | st.binary(max_size=60))
def test_any_text_is_couplings_or_one_line(format: str, content: bytes) -> None:
    survives(format, content)
    survives(format, b"5 3\n" + content)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from(list(json.loads(serializable()))), JSONS, max_size=3))
def test_any_json_is_couplings_or_one_line(changes: dict[str, Any]) -> None:
    survives("bqm", serializable(**changes))


BINARY = bytes.fromhex("44494d4f4442514d0200") + (lambda header: len(header).to_bytes(4, "little") + header)(
    b'{"shape": [3, 2], "dtype": "float64", "itype": "int32", "ntype": "int32", '
    b'"vartype": "SPIN", "type": "BinaryQuadraticModel", "variables": true}\n'
)
BINARY += np.float64(0.5).tobytes()
BINARY += np.array([(0, 1.0), (1, 2.0), (3, -1.0)], dtype=[("n", "<i4"), ("b", "<f8")]).tobytes()
BINARY += np.array([(1, 3.0), (0, 3.0), (2, 4.0), (1, 4.0)], dtype=[("v", "<i4"), ("b", "<f8")]).tobytes()
BINARY += b"VARS" + (12).to_bytes(4, "little") + b'["a", 1, 2] '


def test_the_binary_file_that_is_damaged_below_is_a_right_one() -> None:
    found = read_bqm(io.BytesIO(BINARY), "file")
    assert found.labels == ["a", 1, 2]
    assert (found.i.tolist(), found.j.tolist(), found.quadratic.tolist()) == ([0, 1], [1, 2], [3, 4])


@settings(max_examples=200, deadline=None)
@given(st.integers(8, len(BINARY) - 1), st.binary(max_size=12), st.integers(0, len(BINARY)))
def test_any_damage_of_a_binary_file_is_couplings_or_one_line(place: int, bytes_: bytes, end: int) -> None:
    damaged = BINARY[:place] + bytes_ + BINARY[place + len(bytes_) :]
    survives("bqm", damaged)
    survives("bqm", damaged[:end])


@pytest.mark.parametrize("name", ["c.rud", "c.mc", "c.gset", "c.txt", "C.TXT"])
def test_the_suffix_says_the_format(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("2 1\n1 2 3\n")
    found = read(tmp_path / name)
    assert (found.format, found.max_cut, found.couplings.J.tolist()) == ("rudy", True, [-3])
    overridden = read(tmp_path / "c.x", "coo") if (tmp_path / "c.x").write_text("0 1 3\n") else None
    assert overridden is not None
    assert (overridden.max_cut, overridden.couplings.J.tolist()) == (False, [3])


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read(tmp_path / "absent.rud")
    with pytest.raises(InputError, match="--format"):
        read(tmp_path / "absent.dat")
    with pytest.raises(InputError, match="a folder"):
        read(tmp_path, "coo")
    (tmp_path / "huge.coo").write_text("0 1 1e300\n")
    with pytest.raises(InputError, match="too large"):
        read(tmp_path / "huge.coo")


def test_lattices() -> None:
    for shape in ((4, 5), (3, 4, 5)):
        glass = lattices.edwards_anderson(shape, Key(3, "instance"))
        n = math.prod(shape)
        degree = np.bincount(np.concatenate([glass.i, glass.j]), minlength=n)
        assert (degree == 2 * len(shape)).all()
        assert set(glass.J.tolist()) == {-1.0, 1.0}
        assert (glass.i < glass.j).all()
        assert lattices.ferromagnet(shape).energy(np.ones((1, n))).item() == -len(shape) * n
    same, other = (lattices.sherrington_kirkpatrick(40, Key(3, name)) for name in ("instance", "another"))
    assert not equal(same, other)
    assert equal(same, lattices.sherrington_kirkpatrick(40, Key(3, "instance")))
    # 780 couplings of variance 1/40: their mean square is within 4 of its standard errors √(2/780)/40.
    assert abs(np.square(same.J).mean() * 40 - 1) < 4 * math.sqrt(2 / 780)
    with pytest.raises(InputError, match="at least 3"):
        lattices.ferromagnet((2, 5))


@needs_instances
@pytest.mark.parametrize(
    ("name", "n_sites", "n_edges", "weights"),
    [("G1.txt", 800, 19176, 19176), ("G11.txt", 800, 1600, 34), ("G22.txt", 2000, 19990, 19990),
     ("toruspm3-8-50.rud", 512, 1536, 0), ("t2g10_5555.rud", 100, 200, None)],
)  # fmt: skip
def test_instances_of_the_literature(name: str, n_sites: int, n_edges: int, weights: int | None) -> None:
    found = read(ROOT / name)
    assert (found.couplings.n_sites, len(found.couplings.J)) == (n_sites, n_edges)
    assert consistent(found.couplings)
    expected = np.loadtxt(ROOT / name, skiprows=1)
    np.testing.assert_array_equal(-found.couplings.J, expected[:, 2])
    if name == "G1.txt" or name == "G22.txt":
        assert -found.couplings.J.sum() == weights
