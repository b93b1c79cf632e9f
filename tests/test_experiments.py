"""DVC experiments: each its own parent in MLflow, side by side in its comparison page."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import chromium, mlflow_ui
from conftest import Checkout, Listeners
from test_tracking import STAGES, children, parents

LATENTS = (3, 5, 7)
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def experiments(twins: tuple[Checkout, Checkout, Listeners]) -> Checkout:
    """Return a checkout after an execution, an experiment in place, and three queued ones run together."""
    one = twins[0].copy("experiments")
    one.run("git", "add", "-A")
    one.run("git", "commit", "-q", "-m", "Results")
    one.run("dvc", "exp", "run", "--name", "in-place", "-S", "train.vae.latent=8", GENMODELS_WORKERS="0")
    for latent in LATENTS:
        one.run(
            "dvc", "exp", "run", "--queue", "--name", f"latent-{latent}", "-S", f"train.vae.latent={latent}"
        )
    one.run("dvc", "queue", "start", "-j", "3", GENMODELS_WORKERS="0")
    deadline = time.monotonic() + 280
    while time.monotonic() < deadline:
        status = one.run("dvc", "queue", "status").stdout
        if status.count("Success") + status.count("Failed") >= len(LATENTS):
            break
        time.sleep(1.0)
    assert status.count("Success") == len(LATENTS), status + logs(one)
    return one


def logs(one: Checkout) -> str:
    return "\n".join(
        one.run("dvc", "queue", "logs", f"latent-{latent}", check=False).stdout[-2000:] for latent in LATENTS
    )


def test_every_experiment_has_a_parent_of_its_own_that_none_disturbed(experiments: Checkout) -> None:
    named = {run.data.tags.get("DVC_EXP_NAME"): run for run in parents(experiments.folder)}
    assert set(named) == {None, "in-place"} | {f"latent-{latent}" for latent in LATENTS}
    for name, run in named.items():
        assert run.info.status == "FINISHED", name
        mine = children(experiments.folder, run)
        assert len(mine) == STAGES, name
        executed = {stage for stage, child in mine.items() if child.data.tags["dvc.cached"] == "false"}
        wanted = {"train@vae", "evaluate@vae", "sample@vae", "judge_samples@vae", "report"}
        assert executed == (wanted if name else set(mine)), name
        assert {child.info.status for child in mine.values()} == {"FINISHED"}
    for latent in LATENTS:
        assert named[f"latent-{latent}"].data.params["train.vae.latent"] == str(latent)
    numbers = {run.data.metrics["vae.log_likelihood"] for run in named.values()}
    assert len(numbers) == len(named)
    assert len({run.data.metrics["independent.log_likelihood"] for run in named.values()}) == 1


def test_queued_experiments_leave_the_workspace_alone(experiments: Checkout) -> None:
    assert "latent: 8" in (experiments.folder / "params.yaml").read_text()
    lock = (experiments.folder / "dvc.lock").read_text()
    assert "latent: 8" in lock
    assert experiments.repro(GENMODELS_WORKERS="0") == ["track"]
    assert (experiments.folder / "dvc.lock").read_text() == lock


def test_genmodels_compare_puts_experiments_side_by_side(experiments: Checkout) -> None:
    names = [f"latent-{latent}" for latent in LATENTS]
    tables = json.loads(experiments.run("genmodels", "compare", "--json", *names).stdout)
    assert list(tables) == sorted(names)
    values = {
        row["value"]
        for table in tables.values()
        for row in table["rows"]
        if (row["model"], row["name"]) == ("vae", "log_likelihood")
    }
    assert len(values) == len(names)


@pytest.fixture
def server(experiments: Checkout) -> Iterator[str]:
    with mlflow_ui(experiments) as address:
        yield address


@pytest.mark.browser
def test_three_runs_compare_in_a_real_browser(experiments: Checkout, server: str, tmp_path: Path) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    named = {run.data.tags.get("DVC_EXP_NAME"): run for run in parents(experiments.folder)}
    chosen = [named[f"latent-{latent}"] for latent in LATENTS]
    with chromium(tmp_path / "profile", 1500, 4000) as driver:
        ids = ",".join(f'"{run.info.run_id}"' for run in chosen)
        driver.get(f'{server}/#/compare-runs?runs=[{ids}]&experiments=["{chosen[0].info.experiment_id}"]')

        def shown(_: object) -> str | bool:
            text = driver.execute_script("return document.body.innerText")
            return (
                text
                if all(f"latent-{latent}" in text for latent in LATENTS)
                and "diffusion.log_likelihood" in text
                else False
            )

        text = WebDriverWait(driver, 60).until(shown)
        driver.save_screenshot(str(tmp_path / "compare.png"))
    assert "train.vae.latent" in text
