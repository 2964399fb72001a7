"""The course in JupyterLab: an environment of `dlenv setup`, notebooks from a server that the test starts."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import httpx
import pytest
from compose_project import Container, Project, docker

CODE = "import d2l.torch, os, torch; print(torch.arange(3).sum().item(), os.getuid())"
RUN = """
import pathlib, sys
import nbformat
from nbclient import NotebookClient
path = pathlib.Path(sys.argv[1])
book = nbformat.read(path, 4)
NotebookClient(book, timeout=300, resources={"metadata": {"path": str(path.parent)}}).execute()
print(*(each.text for each in book.cells[-1].outputs if each.get("name") == "stdout"))
"""


def archive() -> bytes:
    """One notebook that counts, among as many as dlenv wants to see of a whole course, in the course's layout."""

    def notebook(kind: str, source: str) -> str:
        cell = {"cell_type": kind, "metadata": {}, "source": [source]}
        cell |= {"outputs": [], "execution_count": None} if kind == "code" else {}
        return json.dumps({"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 4})

    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as file:
        for name, content in {
            "index.ipynb": notebook("markdown", "# The Book\n[one](chapter_one/index.ipynb)"),
            "chapter_one/index.ipynb": notebook("markdown", "# First\n[a](a.ipynb)"),
            "chapter_one/a.ipynb": notebook("code", CODE),
            **{f"chapter_two/{i}.ipynb": notebook("markdown", f"# {i}") for i in range(200)},
        }.items():
            file.writestr(f"pytorch/{name}", content)
    return data.getvalue()


@contextmanager
def served(folder: Path, address: str) -> Iterator[int]:
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer((address, 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


@pytest.fixture(scope="module")
def variables_of_notebooks(variables: dict[str, str]) -> dict[str, str]:
    base = variables["DLENV_BASE_IMAGE"] or "python:3.11-slim"
    if docker("image", "inspect", base, check=False).returncode and docker("pull", base, check=False).returncode:
        pytest.skip(f"the base image {base} is not here and can't be pulled; name another by DLENV_TEST_BASE_IMAGE")
    return {"DLENV_NOTEBOOKS_BASE_IMAGE": base, "COMPOSE_PROFILES": "notebooks"}


@pytest.fixture(scope="module")
def notebooks(engine: None, any_project: Callable[..., Project], variables_of_notebooks: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:  # fmt: skip
    """JupyterLab, with notebooks from the test's own server."""
    folder = tmp_path_factory.mktemp("archive")
    (folder / "notebooks.zip").write_bytes(archive())
    gateway = docker("network", "inspect", "bridge", "--format", "{{(index .IPAM.Config 0).Gateway}}").stdout.strip()
    with served(folder, gateway) as port:
        mirror = f"http://host.docker.internal:{port}/notebooks.zip"
        it = any_project(DLENV_NOTEBOOKS_PORT=free_port(), DLENV_NOTEBOOKS_MIRROR=mirror, **variables_of_notebooks)
        up(it)
        yield it


def up(project: Project) -> None:
    project.compose("build", "notebooks")
    project.up("notebooks")


def free_port() -> str:
    with ThreadingHTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler) as server:
        return str(server.server_port)


def shown_token(project: Project) -> str:
    found = re.findall(r"http://127\.0\.0\.1:(\d+)/lab\S*\?token=([0-9a-f]+)", project.compose("logs").stdout)
    assert found
    assert {port for port, _ in found} == {project.variables["DLENV_NOTEBOOKS_PORT"]}
    return str(found[-1][1])


def ask(project: Project, token: str = "") -> httpx.Response:
    headers = {"Authorization": f"token {token}"} if token else {}
    url = f"http://127.0.0.1:{project.variables['DLENV_NOTEBOOKS_PORT']}/api/contents/d2l-en/chapter_one"
    return httpx.get(url, headers=headers, trust_env=False)


def run(container: Container) -> str:
    words = ("exec", container.id, "/opt/course/bin/python", "-c", RUN, "/notebooks/d2l-en/chapter_one/a.ipynb")
    return docker(*words).stdout.strip()


def test_only_the_token_that_is_shown_opens_it(notebooks: Project) -> None:
    assert ask(notebooks).status_code == 403
    assert ask(notebooks, "0" * 48).status_code == 403
    found = ask(notebooks, shown_token(notebooks))
    assert found.status_code == 200
    assert sorted(each["name"] for each in found.json()["content"]) == ["a.ipynb", "index.ipynb"]


def test_a_notebook_runs_with_the_courses_package_and_without_rights(notebooks: Project) -> None:
    assert run(notebooks.container("notebooks")) == "3 1000"


def test_only_its_port_answers_and_the_root_is_read_only(notebooks: Project) -> None:
    container = notebooks.container("notebooks")
    facts = container.facts
    assert facts["HostConfig"]["ReadonlyRootfs"]
    assert facts["HostConfig"]["CapDrop"] == ["ALL"]
    published = {port: at for port, at in facts["NetworkSettings"]["Ports"].items() if at}
    port = notebooks.variables["DLENV_NOTEBOOKS_PORT"]
    assert {port: [each["HostIp"] for each in at] for port, at in published.items()} == {f"{port}/tcp": ["127.0.0.1"]}


def test_a_secret_is_the_token_and_no_notebooks_are_no_end(
    notebooks: Project, any_project: Callable[..., Project], variables_of_notebooks: dict[str, str], tmp_path: Path
) -> None:
    secret = tmp_path / "token"
    secret.write_text("a-token-of-mine\n")
    secret.chmod(0o644)
    it = any_project(
        DLENV_NOTEBOOKS_PORT=free_port(),
        DLENV_NOTEBOOKS_TOKEN_FILE=str(secret),
        DLENV_NOTEBOOKS_MIRROR="http://host.docker.internal:9/none.zip",
        **variables_of_notebooks,
    )
    it.up("notebooks")
    said = it.compose("logs").stdout
    assert "could not be fetched, so JupyterLab starts without them" in said
    assert "Traceback" not in said
    assert "a-token-of-mine" not in said
    assert ask(it, "a-token-of-mine").status_code == 404  # let in; there is no such folder
    assert ask(it, "another").status_code == 403
    it.compose("--profile", "*", "down", "--volumes", "--timeout", 1)
