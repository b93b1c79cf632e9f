"""Files that start clusters and services: as their programs want them and, where these are, as they run."""

import copy
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import tomllib
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from conftest import BIN, ROOT, Checkout
from mlflow.tracking import MlflowClient
from packaging.requirements import Requirement
from test_house import LOCKS, canonical, pins, unpinned
from test_spin_glass import DVC_YAML as GLASS
from test_spin_glass import INSTANCES, PARAMS, STAGES
from test_spin_glass import SMALL as SMALL_GLASS

FOLDER = ROOT / "pipelines/cluster"
SMALL = SMALL_GLASS | {"prepare_couplings": {"glass": INSTANCES["glass"]}}
KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}


# --- the files ---


def machines() -> dict[str, Any]:
    return yaml.safe_load((FOLDER / "machines.yaml").read_text())


def rayjob() -> tuple[dict[str, Any], dict[str, Any]]:
    job, policy = yaml.safe_load_all((FOLDER / "rayjob.yaml").read_text())
    return job, policy


def services() -> dict[str, Any]:
    return yaml.safe_load((FOLDER / "services.yaml").read_text())["services"]


def validate(config: dict[str, Any]) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(copy.deepcopy(config)))


def test_rays_launcher_takes_the_machines() -> None:
    validate(machines())


@pytest.mark.parametrize("fault", [{"nonsense": 1}, {"upscaling_speed": "fast"}, {"cluster_name": None}])
def test_rays_launcher_refuses_a_fault(fault: dict[str, Any]) -> None:
    with pytest.raises(Exception, match="Failed validating"):
        validate(machines() | fault)


@pytest.mark.parametrize("kind", ["head", "worker"])
def test_machines_ask_for_the_token_and_show_no_dashboard(kind: str) -> None:
    start = machines()[f"{kind}_start_ray_commands"][-1]
    assert "RAY_AUTH_MODE=token" in start
    assert (kind == "worker") or ("--dashboard-host=127.0.0.1" in start)


def containers(job: dict[str, Any]) -> Iterator[dict[str, Any]]:
    spec = job["spec"]["rayClusterSpec"]
    for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]:
        yield from group["template"]["spec"]["containers"]


def test_the_rayjob_has_what_kuberay_asks_for() -> None:
    job, policy = rayjob()
    cluster = job["spec"]["rayClusterSpec"]
    assert (job["apiVersion"], job["kind"], job["metadata"]["name"]) == ("ray.io/v1", "RayJob", "genmodels")
    assert {"entrypoint", "shutdownAfterJobFinishes"} <= job["spec"].keys()
    assert cluster["authOptions"] == {"mode": "token", "secretName": "genmodels-ray"}
    assert f"ray=={cluster['rayVersion']}" in (ROOT / "requirements.lock").read_text().split()
    for group in cluster["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        assert group["groupName"]
    for group in [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]:
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        assert group["template"]["metadata"]["labels"] == policy["spec"]["podSelector"]["matchLabels"]
    names = [container["name"] for container in containers(job)]
    assert names == ["ray-head", "ray-worker"]
    assert all(one["image"] and one["resources"]["limits"] for one in containers(job))


def test_services_listen_on_loopback_and_hold_no_password() -> None:
    for service in services().values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
        for name, value in service["environment"].items():
            assert re.fullmatch(r"\$\{\w+:\?\}", value) or not re.search("PASS|KEY", name)


def test_the_lock_is_pinned_adds_to_the_others_and_satisfies_the_extras() -> None:
    lock = "requirements-cluster.lock"
    own, others = pins(lock), pins(LOCKS[0]) | pins(LOCKS[1])
    assert unpinned((ROOT / lock).read_text()) == []
    assert own.keys().isdisjoint(others)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for text in extras["cluster"] + extras["cluster-dev"]:
        requirement = Requirement(text)
        assert requirement.specifier.contains((own | others)[canonical(requirement.name)]), text


# --- what they start ---


class Services(NamedTuple):
    """Addresses of a tracking server and of an S3 store with one bucket, "bucket"."""

    mlflow: str
    s3: str


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_for(ready: Callable[[], bool], process: subprocess.Popen[str], log: Path) -> None:
    for _ in range(600):
        assert process.poll() is None, log.read_text()
        if ready():
            return
        time.sleep(0.2)
    raise AssertionError(log.read_text())


@pytest.fixture(scope="module")
def postgres() -> Iterator[int]:
    """The port of a PostgreSQL with a user and a database "mlflow", in a folder of its own."""
    localhost = ["-h", "127.0.0.1"]
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not programs:
        pytest.skip("no PostgreSQL here: apt-get install postgresql")
    who = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.getuid() == 0 else {}
    folder, port = Path(tempfile.mkdtemp(prefix="gmpg-", dir="/tmp")), free_port()
    if who:
        shutil.chown(folder, "postgres", "postgres")
    data, log = folder / "data", folder / "log"
    made = [programs[-1] / "initdb", "--auth=trust", "--username=mlflow", "--no-sync", "-D", data]
    subprocess.run(made, cwd=folder, check=True, capture_output=True, **who)
    start = [programs[-1] / "postgres", *localhost, "-D", data, "-p", str(port), "-k", folder, "-F"]
    with log.open("w") as file:
        server = subprocess.Popen(start, cwd=folder, stdout=file, stderr=file, text=True, **who)
    with server:
        try:
            create = [programs[-1] / "createdb", *localhost, "-p", str(port), "-U", "mlflow", "mlflow"]
            wait_for(lambda: subprocess.run(create, capture_output=True).returncode == 0, server, log)
            yield port
        finally:
            server.send_signal(signal.SIGQUIT)
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """The address of an S3 store in this process."""
    moto = pytest.importorskip("moto.server", reason="requirements-cluster.lock is not installed")
    boto3 = pytest.importorskip("boto3", reason="requirements-cluster.lock is not installed")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=free_port(), verbose=False)
    server.start()
    address = f"http://127.0.0.1:{server._port}"
    names = {"aws_access_key_id": "key", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
    boto3.client("s3", endpoint_url=address, **names).create_bucket(Bucket="bucket")
    yield address
    server.stop()


@pytest.fixture(scope="module")
def running(postgres: int, s3: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    """MLflow's server as services.yaml starts it, on other ports."""
    folder, port = tmp_path_factory.mktemp("server"), free_port()
    values = {"POSTGRES_PASSWORD": "any", "BUCKET": "bucket", "S3_ENDPOINT": s3} | KEYS
    places = {"0.0.0.0": "127.0.0.1", "=5000": f"={port}", "postgres:5432": f"127.0.0.1:{postgres}"}

    def filled(text: str) -> str:
        text = re.sub(r"\$\{(\w+):[^}]*\}", lambda match: values[match[1]], text)
        for old, new in places.items():
            text = text.replace(old, new)
        return text

    service = services()["mlflow"]
    command = [filled(word) for word in service["command"]]
    environment = {name: filled(value) for name, value in service["environment"].items()}
    environment |= {"PATH": f"{BIN}:/usr/bin:/bin", "HOME": str(folder), "MLFLOW_DISABLE_TELEMETRY": "true"}
    log = folder / "log"

    def healthy() -> bool:
        try:
            return urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).status == 200
        except OSError:
            return False

    with log.open("w") as file:
        server = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=file, stderr=file, text=True, start_new_session=True
        )
    try:
        wait_for(healthy, server, log)
        yield Services(f"http://127.0.0.1:{port}", s3)
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def keys(address: str, prefix: str) -> list[str]:
    import boto3

    names = {"aws_access_key_id": "key", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
    listed = boto3.client("s3", endpoint_url=address, **names).list_objects_v2(Bucket="bucket", Prefix=prefix)
    return [entry["Key"] for entry in listed.get("Contents", [])]


def repro(one: Checkout, there: dict[str, str]) -> list[str]:
    return [name.split(":")[-1] for name in one.repro("--pull", GLASS, **there)]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_runs_and_results_meet_in_one_place(checkout: Callable[..., Checkout], running: Services) -> None:
    """Small results and dvc.lock go through git, the others through DVC, and nothing is run again."""
    pod = checkout("pod")
    pod.change(SMALL, PARAMS)
    pod.run("dvc", "remote", "add", "--default", "store", "s3://bucket/dvc")
    pod.run("dvc", "remote", "modify", "store", "endpointurl", running.s3)
    pod.run("git", "commit", "-qam", "Small, with a remote")
    laptop = pod.copy("another")
    there = {"GENMODELS_WORKERS": "0", "MLFLOW_TRACKING_URI": running.mlflow} | KEYS

    assert sorted(repro(pod, there)) == sorted([*STAGES, "track"])
    pod.run("dvc", "push", **there)
    assert keys(running.s3, "dvc/files/md5/")
    client = MlflowClient(running.mlflow)
    (experiment,) = [one for one in client.search_experiments() if one.name == "genmodels"]
    runs = client.search_runs([experiment.experiment_id])
    assert len(runs) == len(STAGES) + 1
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert parent.info.status == "FINISHED"
    assert "overview.png" in [entry.path for entry in client.list_artifacts(parent.info.run_id)]
    assert any(name.endswith("overview.png") for name in keys(running.s3, "mlflow/"))

    pod.run("git", "add", "-A")
    pod.run("git", "commit", "-qm", "Results")
    laptop.run("git", "pull", "-q", str(pod.folder), "main")
    laptop.run("dvc", "pull", GLASS, **there)
    assert repro(laptop, there) == ["track"]
    lock = Path(PARAMS).with_name("dvc.lock")
    stages = [yaml.safe_load((one.folder / lock).read_text())["stages"] for one in (pod, laptop)]
    assert stages[0] == stages[1]
    for name in ("prepare_couplings/instances.json", "sample_couplings/jarzynski.safetensors"):
        place = Path("out/spin_glass") / name
        assert (laptop.folder / place).read_bytes() == (pod.folder / place).read_bytes()
