"""The reference says what the code says, and the site is built from it without a warning."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import machines
import pytest

from dlenv.doctor.registry import CHECKS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
SOURCES = [path for folder in ("cli", "models", "service") for path in (ROOT / folder).rglob("*.py")]


def generated() -> dict[str, str]:
    spec = importlib.util.spec_from_file_location("docs_generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    pages: dict[str, str] = module.pages()
    return pages


def test_the_reference_is_what_the_code_says() -> None:
    for name, text in generated().items():
        there = (DOCS / "reference" / name).read_text(encoding="utf-8")
        assert there == text, f"docs/reference/{name} is stale; `make reference` writes it again"


def test_each_variable_is_in_the_reference() -> None:
    named = {name for path in SOURCES for name in re.findall(r"\bDLENV_[A-Z_]+[A-Z]", path.read_text("utf-8"))}
    listed = set(re.findall(r"\bDLENV_[A-Z_]+", (DOCS / "reference" / "settings.md").read_text("utf-8")))
    # Messages name some of the containers' as well, which that page refers to.
    rows = re.findall(r"^\| (`DLENV_[^|]+)\|", (DOCS / "docker.md").read_text("utf-8"), re.MULTILINE)
    listed |= set(re.findall(r"`(DLENV_[A-Z_]+)`", "".join(rows)))
    assert named <= listed, sorted(named - listed)


def test_the_table_of_machines_says_what_they_get() -> None:
    text = (DOCS / "explanation" / "builds.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\w+ ?[\w. ]*) \| ([\d.]+|none) \| ([\d. and]+|none) \| (\S+) \|$", text, re.MULTILINE)
    assert len(rows) > 10
    for system, driver, gpus, build in rows:
        capabilities = gpus.replace(" and", "").replace("none", "")
        machine = machines.machine(system, None if driver == "none" else driver, capabilities)
        assert machines.summary(machines.make(machine)).partition(" ")[0] == build, (system, driver, gpus)


@pytest.mark.parametrize("name", ["doctor.svg", "doctor-zh.svg"])
def test_the_picture_of_the_doctor_shows_a_check_that_there_is_and_no_machine(name: str) -> None:
    text = (DOCS / "images" / name).read_text(encoding="utf-8")
    assert any(check.id in text for check in CHECKS)
    assert not re.search(r"/(?:root|tmp|work|Users)/|@font-face", text)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="the Sphinx that builds the site needs Python 3.11")
def test_the_site_is_built_without_warnings_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "--quiet", "-d", tmp_path / "trees"]
    result = subprocess.run(
        [*command, DOCS, tmp_path / "site"], capture_output=True, text=True, check=False, timeout=120
    )
    assert (result.returncode, result.stderr) == (0, "")
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|img|iframe)[^>]* src=\"(https?:[^\"]*)", text)
        loaded += re.findall(r"<link[^>]* rel=\"stylesheet\"[^>]* href=\"(https?:[^\"]*)", text)
        assert not loaded, page.name
