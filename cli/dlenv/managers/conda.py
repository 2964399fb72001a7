"""A conda environment: made by the user's own conda, mamba or micromamba, or by py-rattler where there is none.

It holds Python and pip; everything else comes as wheels, as into any environment: PyTorch left its conda channel after
2.5.1 (pytorch/pytorch#138506), and mixing its packages with conda's is what breaks such environments.

None of the three programs could be run where this was written. Their command lines were checked against:

- conda 4.6 to 26.5, ``conda create`` (https://docs.conda.io/projects/conda/en/26.5.x/commands/create.html): ``--yes``,
  ``--quiet`` (no progress bars), ``--prefix``, ``--override-channels`` (needs ``--channel``), ``--no-default-packages``
  (nothing of ``create_default_packages``). No ``--solver``: older versions lack it, and the user's own is good.
- mamba 1 takes conda's command line; mamba 2 and micromamba are one program
  (https://mamba.readthedocs.io/en/latest/user_guide/micromamba.html; options in mamba-org/mamba 03564bf,
  micromamba/src/common_options.cpp): the same words, but no ``--no-default-packages``, which is for conda alone.
  ``--override-channels`` is known from micromamba 0.5.3 on, at first without effect (mamba-org/mamba#521, #1773).
- ``--root-prefix`` is not given: it is where micromamba keeps its cache, by MAMBA_ROOT_PREFIX or its default, and with
  ``--prefix`` none has to exist. ``--no-rc`` and ``--no-env`` neither: proxies and certificates are set there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from dlenv.console import say
from dlenv.environment.layout import executable
from dlenv.errors import NoEnvironment, SetupError
from dlenv.managers import rattler
from dlenv.managers.rattler import Failed
from dlenv.managers.source import Sources
from dlenv.network.http import public, redacted

# Set by `micromamba shell init`, `mamba shell init` and `conda init`.
_VARIABLES = ("MAMBA_EXE", "CONDA_EXE")
_PROGRAMS = ("micromamba", "mamba", "conda")
# conda is a Python program: these would lead it to another Python's modules.
_FOREIGN = ("PYTHONHOME", "PYTHONPATH")
_TAIL = 25  # lines of the program's talk that an error repeats


def create(path: Path, version: str, _name: str, sources: Sources) -> Path:
    """A conda environment at ``path`` that holds Python ``version`` and pip; its interpreter.

    The addresses ``sources.conda`` are tried in order. The prompt is conda's own affair: the path that is activated.
    Raises ``SetupError`` with what each address came to, ``MissingExtra`` where nothing can make conda environments.
    """
    specs = [f"python={version}", "pip"]
    tool = find()
    say(f"Making a conda environment with {tool or 'py-rattler'}")
    failures = []
    for channel in sources.conda:
        try:
            _make(tool, path, specs, channel)
            return executable(path)
        except (Failed, NoEnvironment) as error:
            failures.append(f"{public(channel)}: {error}")
            say(f"{public(channel)} did not do: {error}")
            shutil.rmtree(path, ignore_errors=True)
    raise SetupError(f"the conda environment could not be made: {'; '.join(failures) or 'there is no source for it'}")


def find() -> Path | None:
    """The user's micromamba, mamba or conda: the one that the shell is set up for, else the first on the path."""
    for name in _VARIABLES:
        if (value := os.environ.get(name)) and (found := shutil.which(value)):
            return Path(found)
    return next((Path(found) for name in _PROGRAMS if (found := shutil.which(name))), None)


def command(tool: Path, path: Path, specs: Sequence[str], channel: str) -> list[str]:
    """The command line that makes the environment ``path``, for whichever of the three ``tool`` is."""
    words = [str(tool), "create", "--yes", "--prefix", str(path), "--override-channels", "--channel", channel]
    if tool.stem.lower() == "conda":
        words.append("--no-default-packages")
    if not sys.stderr.isatty():
        words.append("--quiet")
    return [*words, *specs]


def _make(tool: Path | None, path: Path, specs: Sequence[str], channel: str) -> None:
    if tool:
        _run(command(tool, path, specs, channel))
    else:
        rattler.create(path, specs, channel)


def _run(words: Sequence[str]) -> None:
    """Run the program, its bars on a terminal; raises ``Failed`` with the end of what it said."""
    terminal = sys.stderr.isatty()
    environment = {name: value for name, value in os.environ.items() if name not in _FOREIGN}
    try:
        process = subprocess.Popen(
            words,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr if terminal else subprocess.PIPE,
            stderr=None if terminal else subprocess.STDOUT,
            text=True,  # in the system's own encoding, as a Python program writes to a pipe
            errors="replace",
        )
    except OSError as error:
        raise Failed(f"{words[0]} can't be run ({error.strerror})") from None
    with process:
        try:
            talk = process.communicate()[0] or ""
        except BaseException:
            process.terminate()
            raise
    if process.returncode:
        said = redacted("\n".join(talk.strip().splitlines()[-_TAIL:]))
        raise Failed("see what it says above" if terminal else said or f"it ended with code {process.returncode}")
