"""uv, the installer that every environment is filled by, and that makes virtual environments.

uv is a dependency of dlenv, so it is always there. Everything goes by its documented command line
(https://docs.astral.sh/uv/reference/cli/): ``uv python``, ``uv venv``, ``uv pip``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from dlenv.console import say
from dlenv.errors import SetupError

# What would make uv install elsewhere, or something else, than the plan says. Its network settings (indexes,
# certificates, time-outs, cache) stay as the user has them.
_FOREIGN = (
    "CONDA_PREFIX",
    "PYTHONHOME",
    "PYTHONPATH",
    "UV_BREAK_SYSTEM_PACKAGES",
    "UV_BUILD_CONSTRAINT",
    "UV_CONSTRAINT",
    "UV_NO_BINARY",
    "UV_NO_BUILD",
    "UV_OVERRIDE",
    "UV_PROJECT",
    "UV_PYTHON",
    "UV_REQUIRE_HASHES",
    "UV_SYSTEM_PYTHON",
    "UV_TARGET",
    "UV_TORCH_BACKEND",
    "VIRTUAL_ENV",
)
_INSTALLED = " + "  # a line for each of a few hundred packages, which the environment's record holds
_TAIL = 25  # lines of uv's talk that an error repeats


def program() -> str:
    """The path of the uv that dlenv depends on; raises ``SetupError`` where it is gone."""
    import uv

    try:
        return os.fspath(uv.find_uv_bin())
    except FileNotFoundError as error:
        raise SetupError(
            f"uv, which dlenv depends on, is not where it was installed ({error}); reinstall dlenv"
        ) from None


def environ(extra: Mapping[str, str] = {}) -> dict[str, str]:
    """The environment that uv runs in: the user's, without what would lead it astray, and with ``extra``."""
    kept = {name: value for name, value in os.environ.items() if name not in _FOREIGN}
    return {**kept, **extra}


class Failed(Exception):
    """uv failed; its text is the end of what it said."""


def run(
    words: Sequence[str | Path], extra: Mapping[str, str] = {}, *, show: bool = False, project: Path | None = None
) -> str:
    """Run ``uv`` with these words, every path among them absolute; its standard output.

    ``show`` passes its talk through (its own progress bars on a terminal). ``project`` is the folder whose
    ``pyproject.toml`` counts: none, unless it is given, since uv would take constraints from the one that the user
    happens to be in. Raises ``Failed`` with the end of the talk.
    """
    cwd = project or Path(Path.cwd().anchor)
    command = [program(), *map(str, words)]
    if show and sys.stderr.isatty():
        done = subprocess.run(command, env=environ(extra), cwd=cwd, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            raise Failed("see what uv says above")
        return done.stdout
    with subprocess.Popen(
        command,
        env=environ(extra),
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if show else subprocess.PIPE,
        text=True,
    ) as process:
        try:
            if show:
                assert process.stdout is not None
                lines = list(_passed_through(process.stdout))
                process.wait()
                output, talk = "", "".join(lines)
            else:
                output, talk = process.communicate()
        except BaseException:
            process.terminate()
            raise
    if process.returncode:
        raise Failed("\n".join(talk.strip().splitlines()[-_TAIL:]))
    return output


def _passed_through(lines: Iterable[str]) -> Iterable[str]:
    for line in lines:
        if not line.startswith(_INSTALLED):
            say(line.rstrip())
        yield line
