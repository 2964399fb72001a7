"""Commands that only the user can give: to their own shell, or as administrator. On Windows they are PowerShell's."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

from dlenv.console import command_line
from dlenv.doctor.facts import Facts

__all__ = ["admin", "end", "export", "move", "restart", "set_clock", "setup", "unset", "uv"]

_WINDOWS = os.name == "nt"


def unset(*names: str) -> str:
    """Forget these variables."""
    if _WINDOWS:
        return "; ".join(f"Remove-Item Env:{name}" for name in names)
    return f"unset {' '.join(names)}"


def export(**variables: object) -> str:
    """Set these variables for whatever is started from this shell."""
    if _WINDOWS:
        quoted = {name: str(value).replace("'", "''") for name, value in variables.items()}
        return "; ".join(f"$env:{name} = '{value}'" for name, value in quoted.items())
    return "export " + " ".join(f"{name}={shlex.quote(str(value))}" for name, value in variables.items())


def move(old: Path, new: Path) -> str:
    """Give a file or folder another name."""
    return command_line("move" if _WINDOWS else "mv", old, new)


def end(*pids: int) -> str:
    """Ask these processes to end."""
    if _WINDOWS:
        return command_line("taskkill", *(word for pid in pids for word in ("/PID", pid)))
    return command_line("kill", *pids)


def admin(*words: object) -> str:
    """A command that the administrator has to give; Windows has no word for that before it."""
    return command_line(*words) if _WINDOWS else command_line("sudo", *words)


def restart() -> str:
    """Restart the machine."""
    return "shutdown /r /t 0" if _WINDOWS else "sudo reboot"


def set_clock() -> str:
    """Set the machine's clock by the network."""
    if _WINDOWS:
        return "w32tm /resync"
    return "sudo sntp -sS time.apple.com" if sys.platform == "darwin" else "sudo timedatectl set-ntp true"


def uv(*words: object) -> str:
    """A command for uv: the user's, or the one that dlenv brings. Raises ``SetupError`` where that is gone."""
    from dlenv.managers.uv import program

    return command_line("uv" if shutil.which("uv") else program(), *words)


def setup(facts: Facts, *words: object) -> str:
    """Build the examined environment (again), or the usual one where a Python without one is examined."""
    env = ("--env", facts.target.env) if facts.target.env is not None else ()
    return command_line("dlenv", "setup", *env, *words)
