"""The compose files as Compose reads them; nothing is built or started."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_project import Project

ROOT = Path(__file__).parents[2]


def read(engine: None, *files: str, profile: str = "", **variables: str) -> dict[str, Any]:
    project = Project("dlenv-test-files", ROOT, files or ("compose.yaml",), variables)
    profiles = ("--profile", profile) if profile else ()
    found: dict[str, Any] = yaml.safe_load(project.compose(*profiles, "config").stdout)
    return found


def published(found: dict[str, Any]) -> dict[str, tuple[str, str]]:
    return {
        name: (port["host_ip"], port["published"])
        for name, service in found["services"].items()
        for port in service.get("ports", ())
    }


def variables() -> set[str]:
    files = [ROOT / "docker" / name for name in ("compose.yaml", "compose.gpu.yaml", "compose.cluster.yaml")]
    return {name for file in files for name in re.findall(r"\$\{(\w+)", file.read_text(encoding="utf-8"))}


def test_compose_knows_every_variable_that_a_page_gives_it() -> None:
    pages = [*ROOT.glob("README*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "docker" / "Dockerfile"]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages).replace("\\\n", " ")
    lines = re.findall(r"[^\n`]*docker compose[^\n`]*", text)
    given = {name for line in lines for name in re.findall(r"\b(DLENV_\w+)=", line)}
    assert len(given) > 8
    assert given <= variables()


def test_every_variable_is_documented() -> None:
    used = variables()
    page = (ROOT / "docs" / "docker.md").read_text(encoding="utf-8")
    assert len(used) > 10
    assert {name for name in used if f"`{name}`" not in page} == set()


def test_one_service_on_loopback(engine: None) -> None:
    found = read(engine)
    assert published(found) == {"dlenv": ("127.0.0.1", "8000")}
    assert not found["services"]["dlenv"]["environment"]["DLENV_KEYS"]


def test_the_address_is_published_and_passed_in(engine: None) -> None:
    found = read(engine, DLENV_ADDRESS="0.0.0.0", DLENV_KEYS_FILE="/somewhere/keys", DLENV_LOG_FORMAT="json")
    assert published(found) == {"dlenv": ("0.0.0.0", "8000")}
    environment = found["services"]["dlenv"]["environment"]
    assert environment["DLENV_ADDRESS"] == "0.0.0.0"
    assert environment["DLENV_KEYS"] == "/run/secrets/keys"
    assert environment["DLENV_LOG_FORMAT"] == "json"


def test_gpus_are_reserved_on_top(engine: None) -> None:
    service = read(engine, "compose.yaml", "docker/compose.gpu.yaml")["services"]["dlenv"]
    (device,) = service["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
    assert service["build"]["args"]["TORCH_BUILD"] == "cu128"
    assert service["read_only"]


@pytest.mark.parametrize(
    ("file", "profile"),
    [("compose.yaml", "observability"), ("compose.yaml", "notebooks"), ("docker/compose.cluster.yaml", "")],
)
def test_every_container_has_the_least_rights(engine: None, file: str, profile: str) -> None:
    found = read(engine, file, profile=profile)
    assert len(found["services"]) > 1
    for service in found["services"].values():
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["restart"] == "unless-stopped"
        assert service["mem_limit"]


def test_notebooks_are_for_this_machine_unless_somebody_says_otherwise(engine: None) -> None:
    found = read(engine, profile="notebooks", DLENV_ADDRESS="0.0.0.0")
    assert published(found)["notebooks"] == ("127.0.0.1", "8888")
    found = read(engine, profile="notebooks", DLENV_NOTEBOOKS_ADDRESS="192.0.2.1", DLENV_NOTEBOOKS="./d2l")
    assert published(found)["notebooks"] == ("192.0.2.1", "8888")
    (work,) = found["services"]["notebooks"]["volumes"]
    assert (work["type"], work["target"]) == ("bind", "/notebooks")


def test_observability_is_for_this_machine(engine: None) -> None:
    found = read(engine, profile="observability", DLENV_ADDRESS="0.0.0.0")
    assert published(found) == {
        "dlenv": ("0.0.0.0", "8000"),
        "prometheus": ("127.0.0.1", "9090"),
        "grafana": ("127.0.0.1", "3000"),
    }
    mounted = [volume["source"] for volume in found["services"]["grafana"]["volumes"] if volume["type"] == "bind"]
    assert all(Path(source).is_dir() for source in mounted)
