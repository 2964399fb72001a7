"""Jupyter kernels that run exactly the Python of one environment."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from dlenv.console import command_line
from dlenv.environment.layout import executable
from dlenv.environment.record import Record, installed
from dlenv.errors import NoEnvironment, SetupError


def active() -> Path:
    """The environment to use where none is named; raises ``NoEnvironment`` where there is none.

    The activated one, ``.venv`` here, or the one that dlenv itself runs in: the first that dlenv built, else the first.
    An activated one need not be meant: conda activates its base everywhere, and dlenv may live in one of its own.
    """
    named = [os.environ.get("VIRTUAL_ENV"), os.environ.get("CONDA_PREFIX"), ".venv", sys.prefix]
    there = [Path(name) for name in named if name and _has_python(Path(name))]
    if not there:
        raise NoEnvironment("no environment is active; make one by: dlenv setup, or name one by --env")
    return next((env for env in there if Record.read(env)), there[0])


def stable(env: Path) -> Path:
    """``env`` as an absolute path by the name that it was given: the link, not the build that it leads to today."""
    return Path(os.path.abspath(env))  # noqa: PTH100  # resolve() would follow the link


def variables(env: Path) -> dict[str, str]:
    """This process's variables, changed as activating ``env`` would."""
    env = stable(env)
    folders = [executable(env).parent]
    if os.name == "nt":
        folders += [env / "Library" / "bin", env / "Scripts"]
    result = {name: value for name, value in os.environ.items() if name != "PYTHONHOME"}
    result["PATH"] = os.pathsep.join([*map(str, folders), os.environ.get("PATH", os.defpath)])
    result["CONDA_PREFIX" if (env / "conda-meta").is_dir() else "VIRTUAL_ENV"] = str(env)
    return result


def need(env: Path, modules: Sequence[str], trouble: str) -> None:
    """Raise ``NoEnvironment``, which begins with ``trouble``, unless ``modules`` can be imported in ``env``."""
    python = executable(env)
    done = subprocess.run(
        [str(python), "-c", f"import {', '.join(modules)}"],
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        # Else Python writes to a pipe in the system's code page on Windows, and paths become unreadable.
        env=variables(env) | {"PYTHONIOENCODING": "utf-8"},
        check=False,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        install = command_line("uv", "pip", "install", "--python", python, *modules)
        raise NoEnvironment(f"{trouble} in {env} ({last}); add what is missing by: {install}")


def specification(python: Path, name: str) -> str:
    """A kernelspec (``kernel.json``, documentation of Jupyter client) that runs ``python`` and is shown as ``name``."""
    data = {
        "argv": [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": name,
        "language": "python",
        "metadata": {"debugger": True},
    }
    return json.dumps(data, indent=1, ensure_ascii=False) + "\n"


def describe(folder: Path, name: str) -> str:
    """What the kernel of an environment is called: "dlenv: zh course (.venv, Python 3.11, torch 2.15.0+cu132)".

    ``folder`` is where the environment is, ``name`` what its user knows it as.
    """
    facts = [name]
    if record := Record.read(folder):
        course = record.plan.course
        title = f"{course.edition} course" if course else "environment"
        local = "" if record.torch.build == "mps" else f"+{record.torch.build}"
        facts += [f"Python {record.plan.python}", f"torch {record.torch.torch}{local}"]
    else:
        title = "environment"
        facts += [f"Python {path.name.removeprefix('python')}" for path in folder.glob("lib/python3.*")]
        facts += [f"torch {version}" for package, version in installed(folder).items() if package == "torch"]
    return f"dlenv: {title} ({', '.join(facts)})"


def register(env: Path, folder: Path | None = None) -> str:
    """Write the kernel of ``env`` into the environment itself, and return the kernel's name.

    ``env`` is the path by which the kernel starts Python. ``folder`` is where the environment is while ``env`` does not
    lead there yet: a new build. Nothing is written where the kernel is there already. Raises ``SetupError`` where it
    can't be written, and ``NoEnvironment`` where there is no Python.
    """
    env, folder = stable(env), folder or env
    # Jupyter's names are made of these characters (jupyter_client.kernelspec, _kernel_name_pat).
    readable = "".join(char if char.isascii() and char.isalnum() else "-" for char in env.name).strip("-").lower()
    name = f"dlenv-{readable or 'environment'}"
    python = env / executable(folder).relative_to(folder)
    text = specification(python, describe(folder, env.name))
    file = folder / "share" / "jupyter" / "kernels" / name / "kernel.json"
    try:
        if not file.is_file() or file.read_text(encoding="utf-8") != text:
            write(file, text)
    except OSError as error:
        raise SetupError(
            f"{file} can't be written ({error.strerror}); make it writable, or name another --env"
        ) from None
    return name


def write(file: Path, text: str) -> None:
    """Write ``text`` to ``file``, whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    scratch = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    try:
        scratch.write_text(text, encoding="utf-8")
        scratch.replace(file)
    finally:
        scratch.unlink(missing_ok=True)


def _has_python(env: Path) -> bool:
    try:
        return bool(executable(env))
    except NoEnvironment:
        return False
