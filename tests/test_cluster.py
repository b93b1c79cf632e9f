"""A command in a cluster writes what it writes here; its results come back, and nothing else does."""

import io
import json
import secrets
import signal
import socket
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT, Checkout
from mlflow.tracking import MlflowClient
from nodes import Cluster, cluster
from test_spin_glass import INSTANCES, PARAMS
from test_spin_glass import SMALL as SMALL_GLASS

from genmodels.errors import InputError
from pipelines.cluster import parcel, submit, token
from pipelines.cluster.log import Log

RING = "6 7\n1 2 1\n2 3 -1\n3 4 1\n4 5 1\n5 6 -1\n1 6 1\n2 5 1\n"
GLASS = "pipelines/spin_glass/dvc.yaml"
SMALL = SMALL_GLASS | {"prepare_couplings": {"glass": INSTANCES["glass"]}}
JOB = ["-m", "pipelines.cluster.submit"]


# --- what travels ---


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The archive of a job that wrote out/a, of more bytes than a line of the log takes."""
    (tmp_path / "job/out").mkdir(parents=True)
    (tmp_path / "job/out/a").write_bytes(secrets.token_bytes(200_000))
    monkeypatch.chdir(tmp_path / "job")
    parcel.pack(["out/a"], tmp_path / "sent.tar.gz")
    return tmp_path / "sent.tar.gz"


def feed(log: Log, text: str, size: int = 977) -> None:
    for start in range(0, len(text), size):
        log.feed(text[start : start + size])


def test_results_survive_the_log(results: Path, tmp_path: Path) -> None:
    screen = io.StringIO()
    log = Log("mark", tmp_path / "came.tar.gz", screen)
    text = "first\nmarkless\n" + "".join(parcel.lines(results, "mark")) + "last"
    feed(log, text[:100_000])
    log.rewind()  # the connection was lost
    feed(log, text)
    log.close()
    assert (log.whole, screen.getvalue()) == (True, "first\nmarkless\nlast\n")
    assert log.parcel.read_bytes() == results.read_bytes()
    new = tmp_path / "new"
    assert parcel.unpack(log.parcel, list(parcel.WANTED), new, tmp_path / "root") == ["out/a"]
    (tmp_path / "root").mkdir()
    parcel.settle(new, tmp_path / "root")
    assert (tmp_path / "root/out/a").read_bytes() == (tmp_path / "job/out/a").read_bytes()


def test_results_that_something_was_written_into_are_not_whole(results: Path, tmp_path: Path) -> None:
    log = Log("mark", tmp_path / "came.tar.gz", io.StringIO())
    first, *rest = parcel.lines(results, "mark")
    feed(log, first[:500] + "a warning\n" + first[500:] + "".join(rest))
    assert not log.whole


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


@pytest.mark.parametrize(
    "bad",
    [
        member("../out/x"),
        member("out/../../x"),
        member("/out/x"),
        member(".git/hooks/pre-commit"),
        member(".dvc/config"),
        member("genmodels/cli.py"),
        member("out/x", tarfile.SYMTYPE, "/etc/passwd"),
        member("out/x", tarfile.LNKTYPE, "out/good"),
        member("out/x", tarfile.FIFOTYPE),
        member("out/elsewhere/x"),
    ],
    ids=lambda info: f"{info.name}{info.type.decode()}",
)
def test_nothing_that_was_not_asked_for_is_taken(bad: tarfile.TarInfo, tmp_path: Path) -> None:
    root, sent = tmp_path / "root", tmp_path / "sent.tar.gz"
    (root / "out").mkdir(parents=True)
    (root / "out/elsewhere").symlink_to(tmp_path)
    with tarfile.open(sent, "w:gz") as tar:
        tar.addfile(member("out/good"))
        tar.addfile(bad)
    patterns = [*parcel.WANTED] if bad.name.startswith("genmodels") else ["*"]
    with pytest.raises(InputError, match="nothing was taken"):
        parcel.unpack(sent, patterns, tmp_path / "new", root)
    assert [path.name for path in (root / "out").iterdir()] == ["elsewhere"]


@pytest.mark.parametrize("out", ["/tmp/x", "../x", ".git/x", ".", ".dvc/config"])
def test_a_place_that_results_cannot_come_back_to(out: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="relative"):
        parcel.wanted(tmp_path, ["genmodels", "anneal", "x.rud", "--out", out], [])


@pytest.mark.parametrize("git", [True, False])
def test_secrets_and_ignored_files_stay(git: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, outside = tmp_path / "root", tmp_path / "mine.rud"
    sent, kept = ("dvc.yaml", "data/small", "m.py"), (".dvc/config.local", ".ray-token", "data/big")
    for name in (*sent, *kept, ".dvc/config"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    outside.write_text(RING)
    (root / ".gitignore").write_text(".ray-token\n/data/\n")
    if git:
        subprocess.run(["git", "init", "-q", root], check=True)
    monkeypatch.chdir(root)
    command, files = parcel.inputs(root, ["x", str(outside), "data/small", "--out", "dvc.yaml", "."])
    assert command == ["x", ".cluster/inputs/1/mine.rud", "data/small", "--out", "dvc.yaml", "."]
    parcel.zipped(root, files, tmp_path / "a.zip", "job")
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        names = set(archive.namelist()) - {".gitignore"}
        assert archive.read(command[1]).decode() == RING
    assert names == {*sent, ".dvc/config", command[1], ".cluster/job"}


def test_the_token_is_for_its_owner_alone(tmp_path: Path) -> None:
    path = token.make(tmp_path / "token")
    text = path.read_text()
    assert (path.stat().st_mode & 0o777, len(text), token.make(path)) == (0o600, 64, path)
    assert path.read_text() == text
    path.chmod(0o644)
    with pytest.raises(InputError, match="others may read"):
        token.make(path)


def test_no_cluster_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(InputError, match="no Ray cluster takes jobs there .*refused") as caught:
        submit.main(["--address", address, "--", "genmodels", "--help"])
    assert "\n" not in str(caught.value)


# --- a real cluster ---


@pytest.fixture(scope="module")
def two_nodes() -> Iterator[Cluster]:
    pytest.importorskip("aiohttp_cors", reason="requirements-cluster.lock is not installed")
    with cluster(secrets.token_hex(32)) as running:
        yield running


@pytest.fixture(scope="module")
def here(checkout: Callable[..., Checkout]) -> Checkout:
    one = checkout("here")
    one.change(SMALL, PARAMS)
    one.run("git", "commit", "-qam", "Small")
    return one


@pytest.fixture(scope="module")
def laptop(here: Checkout, two_nodes: Cluster) -> Checkout:
    """Another such checkout, with the cluster's token."""
    twin = here.copy("laptop")
    path = token.make(twin.folder / token.FILE)
    path.write_text(two_nodes.token)
    return twin


def send(laptop: Checkout, to: Cluster, *command: str, **more: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, *JOB, "--address", to.address, "--", *command]
    return laptop.run(*words, check=False, **more)


def files(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    other = (".gitignore", "times.png")  # written by DVC where there is git; of wall-clock times
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths if path.name not in other}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_job_writes_what_the_command_writes_here(
    here: Checkout, laptop: Checkout, two_nodes: Cluster
) -> None:
    ring = here.home / "ring.rud"
    ring.write_text(RING)
    command = ("genmodels", "anneal", str(ring), "--method", "exchange", "--seed", "1", "--out", "ring")
    here.run(*command)
    done = send(laptop, two_nodes, *command)
    assert done.returncode == 0, done.stderr
    assert "lowest energy" in done.stdout
    assert files(laptop.folder / "ring") == files(here.folder / "ring") != {}
    assert (done.stderr.count("\n"), "brought back 9 files" in done.stderr) == (1, True)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_pipeline_writes_what_it_writes_here(
    here: Checkout, laptop: Checkout, two_nodes: Cluster
) -> None:
    stale = laptop.folder / "out/spin_glass/prepare_couplings/couplings/of_an_earlier_run.coo"
    stale.parent.mkdir(parents=True)
    stale.write_text(RING)
    here.repro(GLASS, GENMODELS_WORKERS="0")
    done = send(laptop, two_nodes, "dvc", "repro", GLASS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "MLflow runs" in done.stderr
    assert files(laptop.folder / "out/spin_glass") == files(here.folder / "out/spin_glass")
    assert locked(laptop) == locked(here)
    assert runs(laptop) == runs(here)
    assert [name for name in laptop.repro(GLASS) if not name.endswith("track")] == []


def locked(checkout: Checkout) -> Any:
    lock = yaml.safe_load((checkout.folder / GLASS).with_name("dvc.lock").read_text())
    stages = lock["stages"]
    return json.dumps(stages, sort_keys=True)


def runs(checkout: Checkout) -> list[Any]:
    """Return what MLflow knows of the pipeline, but for times and names that are drawn."""
    client = MlflowClient(f"sqlite:///{checkout.folder / 'mlflow.db'}")
    found = client.search_runs([client.get_experiment_by_name("genmodels").experiment_id])
    names = {run.info.run_id: run.info.run_name.rstrip("0123456789-") for run in found}
    return sorted(
        (
            names[run.info.run_id],
            names.get(run.data.tags.get("mlflow.parentRunId", "")),
            run.info.status,
            run.data.tags.get("mlflow.source.git.commit", "") != "",
            sorted(run.data.params.items()),
            sorted((key, value) for key, value in run.data.metrics.items() if "seconds" not in key),
            sorted(entry.path for entry in client.list_artifacts(run.info.run_id)),
        )
        for run in found
    )


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_model_comes_back_registered(laptop: Checkout, two_nodes: Cluster) -> None:
    """Of a part of the pipeline, too, whose last stage does not run."""
    done = send(laptop, two_nodes, "dvc", "repro", "fit_baselines@independent")
    assert done.returncode == 0, done.stdout + done.stderr
    client = MlflowClient(f"sqlite:///{laptop.folder / 'mlflow.db'}")
    (version,) = client.search_model_versions("name = 'independent'")
    run = client.get_run(version.run_id)
    assert (run.data.tags["dvc.stage"], run.info.status) == ("fit_baselines@independent", "FINISHED")
    assert client.get_run(run.data.tags["mlflow.parentRunId"]).info.status == "FINISHED"
    assert (laptop.folder / "out/main/fit_baselines/independent/model.safetensors").exists()


PROBE = """
import sys, time
import ray
from genmodels.placement.choose import placement
def where(state):
    import genmodels
    time.sleep(1)
    return state, (ray.util.get_node_ip_address(), "working_dir_files" in genmodels.__file__)
with placement() as place:
    tasks = [place.submit(where, 0)[1] for _ in range(8)]
    print(sorted({place.fetch(task) for task in tasks}), file=open("out/probe", "w"))
sys.exit(7)
"""


@pytest.mark.slow
def test_all_nodes_work_on_the_code_that_was_sent(laptop: Checkout, two_nodes: Cluster) -> None:
    """And the exit status is the job's, whose results come back even so."""
    probe = laptop.home / "probe.py"
    probe.write_text(PROBE)
    (laptop.folder / "out").mkdir(exist_ok=True)
    done = send(laptop, two_nodes, "python", str(probe))
    assert done.returncode == 7, done.stdout + done.stderr
    expected = sorted((address, True) for address in two_nodes.addresses)
    assert (laptop.folder / "out/probe").read_text().strip() == str(expected)
    if len(expected) == 1:
        pytest.skip("no network namespaces here: a cluster of one node")


@pytest.mark.slow
def test_ctrl_c_stops_the_job(laptop: Checkout, two_nodes: Cluster) -> None:
    words = [sys.executable, *JOB, "--address", two_nodes.address, "--", "sh", "-c", "echo begun; sleep 600"]
    where = {"cwd": laptop.folder, "env": laptop.environment(), "stdout": subprocess.PIPE}
    with subprocess.Popen(words, **where, stderr=subprocess.PIPE, text=True) as process:
        assert any(line == "begun\n" for line in process.stdout)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "has ended" in errors
    assert errors.count("\n") == 1


@pytest.mark.slow
def test_a_wrong_token_is_one_line(laptop: Checkout, two_nodes: Cluster) -> None:
    wrong = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}
    done = send(laptop, two_nodes, "true", **wrong)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "genmodels: error: " in done.stderr
    assert "no Ray cluster takes jobs there" in done.stderr
