"""Checkouts in which the whole pipeline runs on small settings, as a user would run it."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import yaml

# Threads that wait for each other on two busy cores take many times as long as one.
torch.set_num_threads(1)
# Shells start what is in the background without Ctrl-C, and processes hand that on: here it is tested.
signal.signal(signal.SIGINT, signal.default_int_handler)
# Ray reads its settings once in a process: before any test that imports it, those of a local placement.
with pytest.MonkeyPatch.context() as patch:
    patch.setenv("RAY_AUTH_MODE", "token")
    patch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    patch.setenv("RAY_DEDUP_LOGS", "1")
    patch.setenv("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
    import ray  # noqa: F401

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
OF_TWINS = ("_dependencies.py", "_experiments.py", "_pages.py", "_pipeline.py", "_tracking.py")
LEFT_OUT = shutil.ignore_patterns(
    ".git", ".venv", ".scratch", "out", "mlflow.db*", "mlartifacts", "__pycache__", "*.egg-info", ".*_cache",
    "dvc.lock", "cache", "tmp", "config.local", "site", ".cache", ".coverage*",
)  # fmt: skip


def left_out(folder: str, names: list[str]) -> set[str]:
    """Return what a copy of the project does without; it takes over the loops that are compiled."""
    if Path(folder).parent == ROOT / "genmodels" / "compiled":
        return {name for name in names if not name.endswith((".nbi", ".nbc"))}
    ignored = set(LEFT_OUT(folder, names))
    return ignored - {"__pycache__"} if Path(folder) == ROOT / "genmodels" / "compiled" else ignored


SMALL: dict[str, Any] = {
    "threads": 1,
    "data.limit": 400,
    "fit_baselines.gaussian_mixture.iterations": 10,
    "fit_baselines.gaussian_mixture.restarts": 2,
    "fit_baselines.bernoulli_mixture.iterations": 20,
    "fit_baselines.bernoulli_mixture.restarts": 2,
    "train.boltzmann_machine.steps": 100,
    "train.boltzmann_machine.n_walkers": 16,
    "train.neural_energy.hidden": [16],
    "train.neural_energy.steps": 40,
    "train.neural_energy.n_walkers": 4,
    "train.neural_energy.n_between": 4,
    "train.rbm.n_hidden": 8,
    "train.rbm.n_chains": 100,
    "train.rbm.steps": 300,
    "train.vae.hidden": [64],
    "train.vae.steps": 300,
    "train.hvae.hidden": [32, 16],
    "train.hvae.steps": 300,
    "train.diffusion.channels": [8, 16],
    "train.diffusion.T": 50,
    "train.diffusion.steps": 30,
    "estimate_log_z.boltzmann_machine.replica_exchange.n_rounds": 200,
    "estimate_log_z.boltzmann_machine.population_annealing.n_walkers": 400,
    "estimate_log_z.neural_energy.replica_exchange.n_ladders": 4,
    "estimate_log_z.neural_energy.replica_exchange.n_rungs": 4,
    "estimate_log_z.neural_energy.replica_exchange.n_rounds": 400,
    "estimate_log_z.neural_energy.population_annealing.n_walkers": 60,
    "estimate_log_z.rbm.replica_exchange.n_rounds": 200,
    "estimate_log_z.rbm.replica_exchange.burn_in": 64,
    "estimate_log_z.rbm.population_annealing.n_walkers": 400,
    "evaluate.images": 40,
    "evaluate.importance_samples": 50,
    "evaluate.more_samples": 100,
    "evaluate.posterior_images": 10,
    "evaluate.posterior_steps": 10,
    "evaluate.noise_levels": 8,
    "evaluate.noise_repeats": 2,
    "sample.n": 14,
    "prepare_captions.limit": 200,
    "train_autoencoder.channels": [8, 8],
    "train_autoencoder.steps": 30,
    "train_latent_diffusion.channels": [8, 8],
    "train_latent_diffusion.T": 50,
    "train_latent_diffusion.steps": 30,
    "evaluate_captions.images": 16,
    "evaluate_captions.noise_levels": 4,
    "evaluate_captions.noise_repeats": 2,
    "paint_captions.prompts": ["a handwritten three", "the digit 8"],
    "paint_captions.n": 4,
    "paint_captions.steps": 5,
    "show_captions.seeds": 2,
    "show_captions.steps": 4,
    "show_captions.columns": 3,
    "show_captions.film_steps": 4,
}


def changed(text: str, changes: dict[str, Any]) -> str:
    """Return the text of a params.yaml with other values at dotted keys."""
    values = yaml.safe_load(text)
    for key, value in changes.items():
        *path, last = key.split(".")
        block = values
        for part in path:
            block = block[part]
        assert last in block, key
        block[last] = value
    return yaml.safe_dump(values, sort_keys=False)


# Notes which of the project's modules a stage imports, its Ray workers included.
SPY = """
import os, sys
words = sys.orig_argv
if "-m" in words and words[words.index("-m") + 1].startswith("stages."):
    stage = words[words.index("-m") + 1].removeprefix("stages.")
    (model,) = [words[words.index(of) + 1] for of in ("--model", "--method") if of in words] or [""]
    os.environ["SPIED_STAGE"] = stage + "@" * bool(model) + model
if "SPIED_STAGE" in os.environ:
    def note(event, arguments):
        if event == "import" and arguments[0].split(".")[0] in ("genmodels", "stages"):
            with open(os.path.join(os.path.dirname(__file__), os.environ["SPIED_STAGE"]), "a") as file:
                file.write(arguments[0] + "\\n")
    sys.addaudithook(note)
"""


class Checkout:
    """A copy of the project in a repository of its own."""

    def __init__(self, folder: Path, changes: dict[str, Any], git: bool = True) -> None:
        self.folder = folder
        shutil.copytree(ROOT, folder, ignore=left_out)
        self.change(changes)
        self.home = folder.with_name(f"{folder.name}-home")
        self.home.mkdir()
        if git:
            for command in (["init", "-q", "-b", "main"], ["add", "-A"], ["commit", "-q", "-m", "Start"]):
                self.run("git", *command)

    def copy(self, name: str) -> "Checkout":
        """Return another checkout with all that this one has; its database names this one's artefacts."""
        twin = Checkout.__new__(Checkout)
        twin.folder, twin.home = self.folder.with_name(name), self.home
        shutil.copytree(self.folder, twin.folder, ignore=shutil.ignore_patterns("tmp"))
        return twin

    def change(self, changes: dict[str, Any], params: str = "params.yaml") -> None:
        path = self.folder / params
        path.write_text(changed(path.read_text(), changes))

    def environment(self, **more: str) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("LANG", "TMPDIR", "GENMODELS_DATA") if name in os.environ}
        person = {
            f"GIT_{who}_{what}": "test@example.org"
            for who in ("AUTHOR", "COMMITTER")
            for what in ("NAME", "EMAIL")
        }
        quiet = {"DVC_NO_ANALYTICS": "1", "MLFLOW_DISABLE_TELEMETRY": "true", "OMP_WAIT_POLICY": "PASSIVE"}
        path = f"{BIN}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
        # The installed package is this checkout's; a copy has to be found before it.
        own = {"PATH": path, "HOME": str(self.home), "PYTHONPATH": str(self.folder)}
        return kept | person | quiet | own | more

    def run(self, *command: str, check: bool = True, **more: str) -> subprocess.CompletedProcess[str]:
        where: dict[str, Any] = {"cwd": self.folder, "env": self.environment(**more)}
        done = subprocess.run(command, **where, capture_output=True, text=True, check=False)
        assert not check or done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
        return done

    def repro(self, *arguments: str, **more: str) -> list[str]:
        """Run `dvc repro` and return the names of the stages that ran."""
        done = self.run("dvc", "repro", *arguments, **more)
        return ran(done.stdout)


def ran(output: str) -> list[str]:
    """Return the stages that dvc says it ran."""
    return [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")]


def offline_repro() -> list[str]:
    """Return the command of `dvc repro` with loopback as its only network, where that is allowed."""
    if may_unshare():
        return ["unshare", "-rn", "sh", "-c", "ip link set lo up; exec dvc repro"]
    return ["dvc", "repro"]


def may_unshare() -> bool:
    """Return whether a test may have a network of its own here."""
    command = ["unshare", "-rn", "sh", "-c", "ip link set lo up || true"]
    return (
        shutil.which("unshare") is not None and subprocess.run(command, capture_output=True).returncode == 0
    )


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep the tests of a file in one process, and in another one all that look at the same two checkouts."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return "twins" if file.endswith(OF_TWINS) else file

    return Scheduling(config, log)


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Checkout]:
    """Return a function that makes a checkout with small settings and further changes."""
    base = tmp_path_factory.mktemp("checkouts")

    def make(name: str, changes: dict[str, Any] | None = None, git: bool = True) -> Checkout:
        return Checkout(base / name, SMALL | (changes or {}), git)

    return make


class Listeners:
    """Who listens beyond loopback among a process's descendants, looked at again and again."""

    def __init__(self) -> None:
        self.seen: set[tuple[str, str, int]] = set()

    def look(self, process: psutil.Process) -> None:
        for one in [process, *process.children(recursive=True)]:
            try:
                for connection in one.net_connections(kind="inet"):
                    if connection.status == psutil.CONN_LISTEN:
                        self.seen.add((one.name(), connection.laddr.ip, connection.laddr.port))
            except psutil.Error:
                continue


@pytest.fixture(scope="session")
def twins(checkout: Callable[..., Checkout]) -> tuple[Checkout, Checkout, Listeners]:
    """Two checkouts after `dvc repro`: one on Ray, offline, one in process; and who listened in that.

    The modules that each stage of the first imported are in the folder "spy" beside it.
    """
    first, second = checkout("first"), checkout("second")
    listeners = Listeners()

    spy = first.folder.with_name("spy")
    spy.mkdir()
    (spy / "sitecustomize.py").write_text(SPY)

    def isolated() -> None:
        first.run(*offline_repro(), PYTHONPATH=f"{first.folder}:{spy}")

    def watched() -> None:
        log = second.folder.with_name("second.log").open("w")
        environment = second.environment(GENMODELS_WORKERS="0")
        with psutil.Popen(
            ["dvc", "repro"], cwd=second.folder, env=environment, stdout=log, stderr=log
        ) as process:
            while process.poll() is None:
                listeners.look(process)
                try:
                    process.wait(0.3)
                except psutil.TimeoutExpired:
                    continue
        assert process.returncode == 0, second.folder.with_name("second.log").read_text()

    with ThreadPoolExecutor(2) as pool:
        for job in [pool.submit(isolated), pool.submit(watched)]:
            job.result()
    return first, second, listeners
