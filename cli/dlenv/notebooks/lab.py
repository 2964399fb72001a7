"""JupyterLab in an environment, with that environment's kernel."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from dlenv.environment.layout import executable
from dlenv.notebooks import kernel


def command(
    env: Path, folder: Path, *, browser: bool = True, port: int | None = None, arguments: Sequence[str] = ()
) -> tuple[list[str], dict[str, str]]:
    """What starts JupyterLab of ``env`` in ``folder``: the words of the command, and its variables.

    Registers the environment's kernel, which new notebooks get. Notebooks that name the kernel "python3", as the
    course's do, get it too: Jupyter takes "python3" of the environment that it runs in. Raises ``NoEnvironment`` where
    JupyterLab is not installed.
    """
    env = kernel.stable(env)
    python = executable(env)
    variables = kernel.variables(env)
    kernel.need(env, ("jupyterlab", "ipykernel"), "JupyterLab can't be started")
    # A kernel "python3" that the user registered must not come first (jupyter_core.paths, jupyter_path).
    own = str(env / "share" / "jupyter")
    variables["JUPYTER_PATH"] = os.pathsep.join(filter(None, [own, variables.get("JUPYTER_PATH")]))
    variables["JUPYTER_PREFER_ENV_PATH"] = "1"
    words = [str(python), "-m", "jupyterlab", f"--ServerApp.root_dir={folder.absolute()}"]
    words.append(f"--MultiKernelManager.default_kernel_name={kernel.register(env)}")
    if not browser:
        words.append("--no-browser")
    if port is not None:
        words.append(f"--port={port}")
    return [*words, *arguments], variables


def start(words: Sequence[str], variables: dict[str, str]) -> int:
    """Run JupyterLab in place of this process, so that Ctrl-C and signals are its own; returns only on Windows."""
    if os.name == "posix":
        os.execve(words[0], list(words), variables)  # noqa: S606
    return subprocess.run(words, env=variables, check=False).returncode
