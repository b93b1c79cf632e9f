"""`genmodels serve` as its users start it: in a real browser, and under the prompts of fifty at once."""

import http.client
import json
import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
import pytest
from browser import chromium
from conftest import ROOT, Listeners
from hypothesis import given, settings
from hypothesis import strategies as st
from pages import models, reader
from test_bad_requests import HEADERS, ODD, PATHS

from genmodels.networks.text_encoder import TextEncoder

pytest.importorskip("gradio", reason="requirements-web.lock is not installed: make web")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


class Served:
    """`genmodels serve` in a process of its own."""

    def __init__(self, place: Path, log: Path) -> None:
        environment = dict(os.environ) | {"PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"}
        command = ["python", "-u", "-m", "genmodels.cli", "serve", str(place), "--port", "0"]
        self.log = log
        with log.open("w") as file:
            self.process = psutil.Popen(command, env=environment, stdout=file, stderr=file, cwd=log.parent)
        self.address = self._address()

    def _address(self) -> str:
        for _ in range(1200):
            assert self.process.poll() is None, self.log.read_text()
            words = self.log.read_text().split()
            if "serves" in words:
                return words[1]
            time.sleep(0.25)
        raise AssertionError("no address after five minutes")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    encoder = TextEncoder("minilm", 16)
    place = models(folder / "tiny", reader(encoder.width, 40, **encoder.description()), 40)
    one = Served(place, folder / "log")
    yield one
    if one.process.poll() is None:
        one.process.send_signal(signal.SIGINT)
        assert one.process.wait(120) == 130
    assert "Traceback" not in one.log.read_text()


@pytest.fixture
def browser(served: Served, tmp_path: Path) -> Iterator[Any]:
    with chromium(tmp_path / "profile", 1280, 1000, ("browser", "performance")) as driver:
        driver.get(served.address)
        yield Reader(driver)


class Reader:
    """Somebody who looks at the page."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def seen(self, css: str) -> list[Any]:
        found = self.driver.find_elements("css selector", css)
        return [element for element in found if element.is_displayed()]

    def at(self, path: str) -> list[Any]:
        return [it for it in self.driver.find_elements("xpath", path) if it.is_displayed()]

    def wait(self, ready: Callable[[], Any]) -> Any:
        from selenium.common.exceptions import StaleElementReferenceException
        from selenium.webdriver.support.ui import WebDriverWait

        ignored = [StaleElementReferenceException]
        return WebDriverWait(self.driver, 600, 0.1, ignored).until(lambda _: ready())

    def field(self, label: str) -> Any:
        path = f"//label[.//span[normalize-space()='{label}']]//*[self::textarea or self::input]"
        return self.wait(
            lambda: [it for it in self.driver.find_elements("xpath", path) if it.is_displayed()]
        )[0]

    def type(self, label: str, text: str) -> None:
        from selenium.webdriver.common.keys import Keys

        field = self.field(label)
        field.send_keys(Keys.CONTROL, "a")
        field.send_keys(Keys.DELETE)
        if len(text) < 100:
            field.send_keys(text)
        else:  # as somebody who pastes it
            script = (
                "const s = Object.getOwnPropertyDescriptor(Object.getPrototypeOf(arguments[0]), 'value').set;"
                "s.call(arguments[0], arguments[1]);"
                "arguments[0].dispatchEvent(new Event('input', {bubbles: true}));"
            )
            self.driver.execute_script(script, field, text)
        time.sleep(0.5)

    def press(self, label: str, role: str = "") -> None:
        of = f"[@role='{role}']" if role else "[not(@role)]"
        path = f"//button{of}[normalize-space()='{label}']"
        found = self.wait(
            lambda: [it for it in self.driver.find_elements("xpath", path) if it.is_displayed()]
        )
        found[0].click()

    def said(self, css: str, words: str) -> str:
        return str(self.wait(lambda: next((it.text for it in self.seen(css) if words in it.text), None)))

    def pictures(self) -> list[str]:
        return [it.get_attribute("src") for it in self.seen(".pictures figure img")]

    def width(self) -> int:
        return int(self.driver.execute_script("return document.documentElement.scrollWidth"))


@pytest.mark.browser
def test_somebody_types_a_prompt_and_sees_its_pictures(browser: Reader) -> None:
    from selenium.webdriver.common.keys import Keys

    browser.type("Prompt", "a purple heart")
    browser.type("Seed", "3")
    browser.field("Prompt").send_keys(Keys.ENTER)  # no mouse needed
    browser.said(".status", "4 pictures of seed 3.")
    first = browser.pictures()
    assert len(set(first)) == 4
    links = browser.seen(".pictures a[download]")
    assert links[0].get_attribute("download") == "a-purple-heart-3-0.png"
    assert links[0].get_attribute("href") == first[0]
    browser.seen(".pictures summary")[0].send_keys(Keys.ENTER)
    settings = browser.seen(".pictures dl")[0].text
    assert all(word in settings for word in ("a purple heart", "seed", "guidance", "steps", "weights"))

    browser.type("Seed", "4")
    browser.press("Paint")
    browser.said(".status", "4 pictures of seed 4.")
    second = browser.pictures()
    assert second[4:] == first, "earlier pictures stay"
    assert not set(second[:4]) & set(first)
    browser.type("Seed", "3")
    browser.press("Paint")
    browser.said(".status", "4 pictures of seed 3.")
    assert browser.pictures()[:4] == first

    browser.type("Prompt", "x" * 10_000)
    browser.press("Paint")
    browser.said(".alert", "prompt: 10000 characters, give at most 1000")
    browser.type("Prompt", "")
    browser.press("Paint")
    browser.said(".alert", "prompt: it is empty")
    assert browser.pictures()[:4] == first, "an error takes nothing away"


@pytest.mark.browser
def test_somebody_compares_models_and_runs_particles(browser: Reader) -> None:
    browser.press("Compare", "tab")
    chosen = [box for box in browser.wait(lambda: browser.seen("input[type=checkbox]")) if box.is_selected()]
    assert len(chosen) == 4
    for box in chosen[2:]:
        box.click()
    browser.type("Seed", "8")
    browser.press("Compare")
    browser.said(".status", "2 models at seed 8.")
    assert len(browser.seen("section.row")) == 2
    assert len(browser.pictures()) == 8
    browser.press("Particles", "tab")
    browser.type("Seed", "8")
    browser.press("Run")
    browser.said(".status", "8 pictures of seed 8.")
    browser.press("Table", "tab")
    browser.wait(lambda: "likelihoods" in browser.driver.page_source)


@pytest.mark.browser
def test_it_fits_a_phone_and_asks_nobody_else(browser: Reader, served: Served) -> None:
    import json

    size = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    browser.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.driver.get(served.address)
    browser.type("Prompt", "a heart")
    browser.press("Paint")
    browser.said(".status", "4 pictures of seed")
    assert browser.width() <= 390
    assert all(it.rect["height"] >= 20 for it in browser.seen(".pictures summary, .pictures a"))
    events = [json.loads(it["message"])["message"] for it in browser.driver.get_log("performance")]
    asked = {it["params"]["request"]["url"] for it in events if it["method"] == "Network.requestWillBeSent"}
    elsewhere = [url for url in asked if not url.startswith((served.address, "data:", "blob:", "chrome"))]
    assert elsewhere == []
    severe = [it["message"] for it in browser.driver.get_log("browser") if it["level"] == "SEVERE"]
    assert severe == []


def test_fifty_at_once_get_a_picture_or_hear_that_it_is_busy(served: Served) -> None:
    from gradio_client import Client

    client, listeners = Client(served.address, verbose=False), Listeners()
    before = served.process.memory_info().rss

    def ask(k: int) -> str:
        job = client.submit(prompt=f"a heart number {k}", seed=k, steps=10, api_name="/paint")
        error = job.exception(timeout=600)
        return str(error) if error is not None else f"seed {job.result()['seed']}"

    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(ask, range(50)))
    listeners.look(served.process)
    painted = [k for k, it in enumerate(answers) if it == f"seed {k}"]
    assert len(painted) >= 17
    assert all("Queue is full" in it for k, it in enumerate(answers) if k not in painted)
    assert client.predict(prompt="a heart", seed=1, steps=2, api_name="/paint")["seed"] == 1
    assert served.process.memory_info().rss - before < 500e6
    assert {ip for _, ip, _ in listeners.seen} == {"127.0.0.1"}


BODIES = st.binary(max_size=40) | st.builds(
    lambda values: json.dumps({"data": values, "fn_index": values, "session_hash": values}).encode(),
    ODD | st.lists(ODD, max_size=8),
)
KNOWN = st.sampled_from(
    [
        "/",
        "/config",
        "/gradio_api/info",
        "/gradio_api/queue/join",
        "/gradio_api/call/paint",
        "/gradio_api/call/v2/paint",
    ]
)
JSON = st.just({"content-type": "application/json"})


def test_whatever_is_asked_over_http_the_page_goes_on(served: Served) -> None:
    host = served.address.removeprefix("http://").strip("/")
    before = served.process.memory_info().rss
    most = settings(max_examples=300, deadline=None, database=None)

    @most
    @given(KNOWN | PATHS, st.sampled_from(["GET", "POST", "HEAD"]), BODIES, JSON | HEADERS)
    def ask(path: str, method: str, body: bytes, headers: dict[str, str]) -> None:
        connection = http.client.HTTPConnection(host, timeout=60)
        try:
            own = {name: value for name, value in headers.items() if name != "content-length"}
            connection.request(method, quote(f"/{path.lstrip('/')}"), body, own)
            answer = connection.getresponse()
            said = answer.read(10**6)
            assert b"Traceback" not in said
            assert answer.status < 500 or len(said.splitlines()) <= 1
        finally:
            connection.close()

    @most
    @given(st.binary(max_size=200))
    def send(bytes_: bytes) -> None:
        name, _, port = host.rpartition(":")
        with socket.create_connection((name, int(port)), timeout=60) as line:
            line.sendall(bytes_ + b"\r\n\r\n")
            line.shutdown(socket.SHUT_WR)
            while line.recv(65536):
                pass

    ask()
    send()
    with urllib.request.urlopen(served.address, timeout=60) as page:
        assert page.status == 200
    assert "Traceback" not in served.log.read_text()
    assert served.process.memory_info().rss - before < 300e6


def test_a_taken_port_is_said_in_a_line(served: Served, tmp_path: Path) -> None:
    port = served.address.rpartition(":")[2]
    place = served.log.parent / "tiny" / "train" / "rbm"
    command = ["python", "-m", "genmodels.cli", "serve", str(place), "--port", port]
    environment = dict(os.environ) | {"PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert done.stderr == f"genmodels: error: --port {port}: Address already in use, give another one\n"
