"""Ray nodes for tests: a head on this machine, and another one in a network of its own."""

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil
from conftest import BIN, ROOT

OPTIONS = ["--block", "--num-cpus=1", "--object-store-memory=100000000", "--disable-usage-stats"]


TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64, "RAY_USAGE_STATS_ENABLED": "0"}
# Sooner than the half a minute of Ray's own, and later than a busy machine takes to answer.
_MISSED_SOON = {
    "RAY_health_check_initial_delay_ms": "500",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "8",
}


class Cluster(NamedTuple):
    """A running cluster of one or two nodes, with one CPU each."""

    address: str  # of the dashboard, on loopback
    token: str
    addresses: tuple[str, ...]  # of the nodes


def ports(n: int) -> list[int]:
    """Return free ports outside the range that Ray gives its workers."""
    with contextlib.ExitStack() as stack:
        ports: list[int] = []
        for port in range(20100 + os.getpid() % 5000, 32000):
            with contextlib.suppress(OSError):
                stack.enter_context(socket.socket()).bind(("0.0.0.0", port))
                ports.append(port)
            if len(ports) == n:
                return ports
    raise RuntimeError("no free ports")


@contextlib.contextmanager
def second_network() -> Iterator[tuple[str, str, str] | None]:
    """Yield a network namespace's name, our address and its address; None where that is not permitted."""
    name, subnet = f"gm{os.getpid()}", f"10.{os.getpid() // 250 % 250}.{os.getpid() % 250}"
    ours, theirs = f"{subnet}.1", f"{subnet}.2"
    inside = f"ip netns exec {name}"
    commands = (
        f"ip netns add {name} && ip link add {name}a type veth peer name {name}b netns {name}"
        f" && ip addr add {ours}/24 dev {name}a && ip link set {name}a up && {inside} ip link set lo up"
        f" && {inside} ip addr add {theirs}/24 dev {name}b && {inside} ip link set {name}b up"
    )
    try:
        done = subprocess.run(["sh", "-c", commands], capture_output=True, check=False)
        yield None if done.returncode else (name, ours, theirs)
    finally:
        remove = f"ip link del {name}a; ip netns del {name}"
        subprocess.run(["sh", "-c", remove], capture_output=True, check=False)


@contextlib.contextmanager
def node(command: list[str], environment: dict[str, str], log: Path) -> Iterator[psutil.Popen]:
    """Run a node; on leaving kill it with what it has started, and nothing else."""
    with log.open("w") as file:
        process = psutil.Popen(command, env=environment, stdout=file, stderr=file, start_new_session=True)
    try:
        yield process
    finally:
        kill(process)


def kill(node: psutil.Popen) -> None:
    """End a node and what it has started, without mercy."""
    family = [node, *node.children(recursive=True)] if node.is_running() else []
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(family, timeout=10)


def _wait(started: psutil.Popen, log: Path, address: str, token: str, n_nodes: int) -> None:
    """Return when so many nodes are alive."""
    request = urllib.request.Request(f"{address}/nodes?view=summary")
    request.add_header("Authorization", f"Bearer {token}")
    for _ in range(240):
        assert started.poll() is None, log.read_text()
        with contextlib.suppress(OSError, urllib.error.URLError):
            if urllib.request.urlopen(request, timeout=5).read().count(b'"ALIVE"') >= n_nodes:
                return
        time.sleep(0.5)
    raise AssertionError(log.read_text())


@contextlib.contextmanager
def cluster(token: str) -> Iterator[Cluster]:
    """Yield a cluster that asks for a token; of two nodes where a second network is permitted."""
    folder = Path(tempfile.mkdtemp(prefix="gm-", dir="/tmp"))
    kept = {name: os.environ[name] for name in ("LANG",) if name in os.environ}
    environment = kept | {"PATH": f"{BIN}:/usr/bin:/bin:/usr/sbin:/sbin", "HOME": str(folder)}
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
    gcs, web, http, grpc, client, metrics = ports(6)
    ray = str(BIN / "ray")
    try:
        with second_network() as network, contextlib.ExitStack() as nodes:
            ours = network[1] if network else "127.0.0.1"
            head = [ray, "start", "--head", *OPTIONS, f"--node-ip-address={ours}", f"--port={gcs}"]
            head += ["--dashboard-host=127.0.0.1", f"--dashboard-port={web}", f"--temp-dir={folder / 'a'}"]
            head += [f"--dashboard-agent-listen-port={http}", f"--dashboard-agent-grpc-port={grpc}"]
            head += [f"--ray-client-server-port={client}", f"--metrics-export-port={metrics}"]
            address, log = f"http://127.0.0.1:{web}", folder / "head.log"
            _wait(nodes.enter_context(node(head, environment, log)), log, address, token, 1)
            if network:
                name, _, theirs = network
                worker = ["ip", "netns", "exec", name, ray, "start", *OPTIONS, f"--address={ours}:{gcs}"]
                worker += [f"--node-ip-address={theirs}", f"--temp-dir={folder / 'b'}"]
                log = folder / "worker.log"
                _wait(nodes.enter_context(node(worker, environment, log)), log, address, token, 2)
            yield Cluster(address, token, (ours, network[2]) if network else (ours,))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Three(NamedTuple):
    """A cluster of three nodes."""

    address: str
    nodes: list[psutil.Popen]  # the head first
    environment: dict[str, str]  # of who joins it


@contextlib.contextmanager
def three_nodes(n_gpus: int = 0) -> Iterator[Three]:
    """Yield three nodes on this machine, each with a CPU and GPUs by name only."""
    paths = {"PYTHONPATH": f"{ROOT}:{ROOT}/tests", "OMP_NUM_THREADS": "1"}
    environment = dict(os.environ) | _MISSED_SOON | TOKEN | paths
    folder, (port,) = tempfile.mkdtemp(prefix="gm-", dir="/tmp"), ports(1)
    head, more = ["--head", f"--port={port}", "--include-dashboard=false"], [f"--address=127.0.0.1:{port}"]
    try:
        with contextlib.ExitStack() as stack:
            nodes = []
            for name, role in (("a", head), ("b", more), ("c", more)):
                # Nodes that share a folder get into each other's way while they start.
                start = [str(BIN / "ray"), "start", *OPTIONS, *role, f"--temp-dir={folder}/{name}",
                         "--node-ip-address=127.0.0.1", f"--num-gpus={n_gpus}"]  # fmt: skip
                nodes.append(stack.enter_context(node(start, environment, Path(folder, f"{name}.log"))))
                _await_port(port)
            yield Three(f"127.0.0.1:{port}", nodes, environment)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _await_port(port: int) -> None:
    for _ in range(600):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.2)
    raise AssertionError(f"nobody listens at {port}")
