"""Docker for the tests: an engine that runs already, an image from a fresh clone, and a project that serves it.

``DLENV_TEST_BASE_IMAGE`` names the base image where the official one can't be pulled, ``DLENV_TEST_TORCH_BUILD`` the
build of PyTorch where its CPU wheels can't be reached (``auto``: dlenv setup looks what there is). Proxies and
``PIP_CONFIG_FILE`` reach the build as they reach a user's.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from compose_project import Project, docker

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever asks for a project needs the engine."""
    for item in items:
        if HERE in item.path.parents and {"engine", "image"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.docker)
            item.add_marker(pytest.mark.timeout(1200))


@pytest.fixture(scope="session")
def engine() -> None:
    """Skip without an engine and Compose."""
    if shutil.which("docker") is None:
        pytest.skip("there is no docker command here")
    if docker("info", check=False).returncode:
        pytest.skip("no Docker engine answers here: `docker info` fails")
    if docker("compose", "version", check=False).returncode:
        pytest.skip("Docker has no Compose here: `docker compose version` fails")


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh clone, as a user has one: what is committed, and nothing else."""
    if not (ROOT / ".git").exists():
        pytest.skip("this is no git checkout, so it can't be cloned")
    clone = tmp_path_factory.mktemp("clone") / "dlenv"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    return clone


@pytest.fixture(scope="session")
def secret() -> str:
    """What stands in the files and variables that the image is built with, and must not be found in it."""
    return f"secret-{secrets.token_hex(8)}"


@pytest.fixture(scope="session")
def variables(secret: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Variables of every project, those that name how the image is built among them."""
    settings = tmp_path_factory.mktemp("pip") / "pip.conf"
    own = os.environ.get("PIP_CONFIG_FILE")
    settings.write_text(f"# {secret}\n{Path(own).read_text() if own else ''}")
    return {
        "DLENV_IMAGE": "dlenv-test",
        "DLENV_BASE_IMAGE": os.environ.get("DLENV_TEST_BASE_IMAGE", ""),
        "DLENV_TORCH_BUILD": os.environ.get("DLENV_TEST_TORCH_BUILD", ""),
        "PIP_CONFIG_FILE": str(settings),
        "NO_PROXY": ",".join(filter(None, [os.environ.get("NO_PROXY", ""), f"{secret}.invalid"])),
    }


@pytest.fixture(scope="session")
def image(engine: None, checkout: Path, variables: dict[str, str]) -> str:
    """The image, built once."""
    base = variables["DLENV_BASE_IMAGE"] or "python:3.12-slim"
    if docker("image", "inspect", base, check=False).returncode and docker("pull", base, check=False).returncode:
        pytest.skip(f"the base image {base} is not here and can't be pulled; name another by DLENV_TEST_BASE_IMAGE")
    Project("dlenv-test-build", checkout, ("compose.yaml",), variables).compose("build")
    return variables["DLENV_IMAGE"]


@pytest.fixture(scope="session")
def new_project(image: str, any_project: Callable[..., Project]) -> Callable[..., Project]:
    """Make a project of a compose file and variables, where the service's image is built."""
    return any_project


@pytest.fixture(scope="session")
def any_project(engine: None, checkout: Path, variables: dict[str, str]) -> Iterator[Callable[..., Project]]:
    """Make a project of a compose file and variables; at the end all of them go, with their volumes."""
    made: list[Project] = []

    def make(*files: str, **more: str) -> Project:
        given = {**variables, "DLENV_PORT": str(free_port()), **more}
        made.append(Project(f"dlenv-test-{secrets.token_hex(3)}", checkout, files or ("compose.yaml",), given))
        return made[-1]

    yield make
    for project in made:
        project.compose("--profile", "*", "down", "--volumes", "--timeout", 1)


@pytest.fixture(scope="session")
def project(new_project: Callable[..., Project], tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The service as `docker compose up` starts it, with a model repository on the host."""
    models = tmp_path_factory.mktemp("models")
    models.chmod(0o755)  # the service's user only reads it
    it = new_project(DLENV_MODELS=str(models))
    it.up()
    return it


def free_port() -> int:
    """A TCP port that nothing listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
