"""A real browser without a screen, for tests that look at pages as people do, and MLflow's pages."""

import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import BIN, Checkout

_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
WIDTHS = (1280, 390)  # of a desk and of a phone


@contextmanager
def chromium(
    profile: Path, width: int = 1280, height: int = 2000, logs: Sequence[str] = ("browser",)
) -> Iterator[Any]:
    """Yield a driver of headless chromium with a fresh profile; without one skip the test, but not in CI."""
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        said = "no chromium and chromedriver on this machine: Debian's packages chromium and chromium-driver"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(said)
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    for flag in (*_FLAGS, f"--user-data-dir={profile}", f"--window-size={max(width, 500)},{height}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", dict.fromkeys(logs, "ALL"))
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    driver.set_script_timeout(120)  # MLflow's pages draw for long on a busy machine
    try:
        # Windows are never narrower than 500 pixels: a phone has to be emulated.
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        yield driver
    finally:
        driver.quit()


def errors(driver: Any) -> list[str]:
    """Return what the page complained of in the console."""
    return [entry["message"] for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]


def overflow(driver: Any) -> int:
    """Return by how many pixels the page is wider than its window."""
    script = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
    return int(driver.execute_script(script))


def pictures(driver: Any) -> tuple[int, int]:
    """Return how many pictures the page has, and how many of them are shown."""
    script = (
        "const all = [...document.images];"
        "return [all.length, all.filter(x => x.complete && x.naturalWidth > 0).length]"
    )
    found = driver.execute_script(script)
    return int(found[0]), int(found[1])


@contextmanager
def mlflow_ui(one: Checkout) -> Iterator[str]:
    """Yield the address of MLflow's pages over a checkout's runs."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [BIN / "mlflow", "ui", "--workers", "1", "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(
        [*command, "--backend-store-uri", "sqlite:///mlflow.db"], cwd=one.folder, env=one.environment(),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 240
        while True:
            try:
                urllib.request.urlopen(f"{address}/health", timeout=1)
                break
            except OSError:
                assert time.monotonic() < deadline, "mlflow ui does not answer"
                time.sleep(0.5)
        yield address
    finally:
        os.killpg(process.pid, 15)
        process.wait(60)
