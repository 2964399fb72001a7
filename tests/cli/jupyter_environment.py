"""A small environment with JupyterLab, made once for all tests that need one: the fixture ``jupyter``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from uv import find_uv_bin

from dlenv.catalog.courses import courses


@pytest.fixture(scope="session")
def jupyter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The environment; nothing may be installed into it or removed from it."""
    env = tmp_path_factory.mktemp("jupyter") / "env"
    stack = courses()["zh"].stack(".".join(map(str, sys.version_info[:2])))
    assert stack is not None
    packages = [word for word in stack.packages if word.startswith(("ipykernel", "jupyterlab", "nbclient", "nbformat"))]
    assert len(packages) == 4
    subprocess.run([find_uv_bin(), "venv", "--quiet", "--python", sys.executable, env], check=True)
    install = [find_uv_bin(), "pip", "install", "--quiet", "--python", str(env), *packages]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"JupyterLab can't be installed here; with a package index this would run: {done.stderr.strip()}")
    return env
