"""No pinned package has a known hole, as far as PyPI's database can be reached from here."""

import json
import subprocess
import venv
from pathlib import Path

import pytest
from conftest import ROOT

PINNED = "pip-audit==2.10.1"
LOCKS = sorted(path.name for path in ROOT.glob("requirements*.lock"))
KNOWN: dict[str, str] = {}  # a hole that does not concern us, and why


@pytest.fixture(scope="module")
def audit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, in an environment of its own: its requirements are not ours."""
    folder = tmp_path_factory.mktemp("audit")
    venv.create(folder, with_pip=True)
    installing = [folder / "bin/python", "-m", "pip", "install", "--quiet", PINNED]
    if subprocess.run(installing, capture_output=True, check=False).returncode != 0:
        pytest.skip(f"{PINNED} cannot be installed here")
    return folder / "bin" / "pip-audit"


def audited(audit: Path, lock: Path) -> tuple[set[str], set[str]]:
    """Return the packages that the database knows, and "package version hole" of each known hole."""
    command = [audit, "--no-deps", "--disable-pip", "--progress-spinner=off", "--format=json", "-r", lock]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if not done.stdout:
        pytest.skip(f"no database of holes can be reached: {done.stderr.splitlines()[-1:]}")
    found = [each for each in json.loads(done.stdout)["dependencies"] if "skip_reason" not in each]
    holes = {f"{each['name']} {each['version']} {hole['id']}" for each in found for hole in each["vulns"]}
    return {each["name"] for each in found}, holes


@pytest.mark.slow
@pytest.mark.parametrize("lock", LOCKS)
def test_no_pinned_package_has_a_known_hole(audit: Path, lock: str, tmp_path: Path) -> None:
    # Digests are pip's to check, and an old package shows whether the database is one.
    old = tmp_path / "old.lock"
    old.write_text("jinja2==2.4.1\n")
    if not audited(audit, old)[1]:
        pytest.skip("no database of holes can be reached from here")
    pins = [line.split()[0] for line in (ROOT / lock).read_text().splitlines() if "==" in line.split("#")[0]]
    plain = tmp_path / lock
    plain.write_text("\n".join(pins) + "\n")
    assert {hole for hole in audited(audit, plain)[1] if hole not in KNOWN} == set()
