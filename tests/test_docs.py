"""The pages of docs/ make a site: every page is reached, and no link leads nowhere."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from conftest import ROOT

CONFIG = tomllib.loads((ROOT / "zensical.toml").read_text())


def build(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "zensical",
        "build",
        "--strict",
        "--config-file",
        folder / "zensical.toml",
    ]
    return subprocess.run(
        command, cwd=folder, env=os.environ | environment, capture_output=True, text=True, check=False
    )


needs_zensical = pytest.mark.skipif(
    importlib.util.find_spec("zensical") is None and not os.environ.get("CI"),
    reason="zensical is not installed: `make lint` installs requirements-dev.lock",
)


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """The pages, and what they include, in a folder of their own."""
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    for name in ("zensical.toml", "CONTRIBUTING.md", "CHANGELOG.md", "pipelines/cluster/README.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def linked(entries: object) -> set[str]:
    """Return the pages that a navigation leads to."""
    if isinstance(entries, str):
        return {entries}
    inner = entries.values() if isinstance(entries, dict) else entries
    return set().union(*map(linked, inner))  # type: ignore[arg-type]


def test_the_navigation_has_every_page() -> None:
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert linked(CONFIG["project"]["nav"]) == pages


@needs_zensical
def test_the_site_is_built_with_no_link_that_leads_nowhere(copied: Path) -> None:
    # A proxy that is not there: whoever asks the network is found out.
    done = build(copied, https_proxy="http://127.0.0.1:9", http_proxy="http://127.0.0.1:9")
    assert done.returncode == 0, done.stdout + done.stderr
    for page in linked(CONFIG["project"]["nav"]):
        text = (copied / "site" / page).with_suffix(".html").read_text() if "README" not in page else ""
        assert not re.search(r"<(?:link|script|img)[^>]+(?:src|href)=\"?https?://", text), page


@needs_zensical
@pytest.mark.parametrize("link", ["[x](nowhere.md)", "[x](anneal.md#no-such-part)"])
def test_a_link_that_leads_nowhere_stops_the_build(copied: Path, link: str) -> None:
    with (copied / "docs/tutorial.md").open("a") as page:
        page.write(f"\n{link}\n")
    done = build(copied)
    assert done.returncode != 0
    assert "tutorial.md" in done.stdout + done.stderr


def test_every_picture_on_a_page_is_there() -> None:
    """Pictures are no links: the build does not look whether they are there."""
    shown = 0
    for page in (ROOT / "docs").rglob("*.md"):
        for target in re.findall(r"!\[[^]]*\]\(([^)]+)\)", page.read_text()):
            assert (page.parent / target).is_file(), f"{page}: {target}"
            shown += 1
    assert shown > 8


def test_links_between_files_of_the_checkout_lead_somewhere() -> None:
    """The README and its like are read where they lie, and are no pages of the site."""
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "pipelines/cluster/README.md"):
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", (ROOT / name).read_text()):
            if "://" not in target:
                assert ((ROOT / name).parent / target).exists(), f"{name}: {target}"
