"""The report and MLflow's comparison page in a real browser, at the width of a desk and of a phone."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import WIDTHS, chromium, errors, mlflow_ui, overflow, pictures
from conftest import Checkout, Listeners
from test_tracking import MODELS, YARDSTICKS, below, parents

Twins = tuple[Checkout, Checkout, Listeners]
pytestmark = [pytest.mark.slow, pytest.mark.browser]


@pytest.mark.parametrize("width", WIDTHS)
def test_the_report_as_it_is_seen(twins: Twins, width: int, tmp_path: Path) -> None:
    folder = twins[0].folder
    report = folder / "out/main/report/report.html"
    rows = json.loads((report.parent / "table.json").read_text())["rows"]
    with chromium(tmp_path / "profile", width) as driver:
        driver.get(report.as_uri())
        assert errors(driver) == []
        assert overflow(driver) == 0  # wide tables scroll by themselves
        n, shown = pictures(driver)
        assert (n, shown) == (6 + 2 * len(MODELS) + len(YARDSTICKS),) * 2
        headings = [each.text for each in driver.find_elements("css selector", "h2")]
        for wanted in (
            "Held-out log-likelihood",
            "log Z",
            "Samples",
            "Samples beside real",
            "Training",
            "Data",
        ):
            assert any(heading.startswith(wanted) for heading in headings), wanted
        first = driver.find_elements("css selector", "table")[0]
        lines = first.find_elements("css selector", "tbody tr")
        assert len(lines) == sum(row["name"].startswith("log_likelihood") for row in rows)
        ranked = [line for line in lines if "further" not in (line.get_attribute("class") or "")]
        values = [
            float(line.find_elements("css selector", "td")[1].text.replace("−", "-")) for line in ranked
        ]
        assert values == sorted(values, reverse=True)
        assert len(values) == len(MODELS)
        assert all(line.find_elements("css selector", "td svg") for line in ranked)
        size = driver.find_element("css selector", "p").value_of_css_property("font-size")
        assert float(size.removesuffix("px")) >= 16.0
        driver.save_screenshot(str(tmp_path / f"report-{width}.png"))
    assert (tmp_path / f"report-{width}.png").stat().st_size > 20_000


@pytest.fixture
def server(twins: Twins) -> Iterator[str]:
    """Return the address of MLflow's pages over the first checkout's runs."""
    with mlflow_ui(twins[0]) as address:
        yield address


FIVE = ("rbm", "vae", "hvae", "diffusion", "bernoulli_mixture")


@pytest.mark.parametrize("width", WIDTHS)
def test_five_models_compare_without_renaming(twins: Twins, server: str, width: int, tmp_path: Path) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    mine = below(twins[0].folder, parents(twins[0].folder)[0])
    chosen = [mine[model] for model in FIVE]
    ids = ",".join(f'"{run.info.run_id}"' for run in chosen)
    wanted = (*FIVE, "log_likelihood")  # further metrics are in a list that grows as it is scrolled
    with chromium(tmp_path / "profile", width, 1500) as driver:
        driver.get(f'{server}/#/compare-runs?runs=[{ids}]&experiments=["{chosen[0].info.experiment_id}"]')

        def shown(_: object) -> str | bool:
            text = str(driver.execute_script("return document.body.textContent"))
            return text if all(word in text for word in wanted) else False

        text = WebDriverWait(driver, 90).until(shown)
        # MLflow asks for a favicon and for users that a server without log-in does not have.
        said = [each for each in errors(driver) if "favicon" not in each and "users/current" not in each]
        driver.save_screenshot(str(tmp_path / f"compare-{width}.png"))
    assert said == []
    for model in FIVE:  # one row of each metric, a column a model: no name has a model in it
        assert f"{model}.log_likelihood" not in text
