"""Carries out the repairs that touch nothing but the environment."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from dlenv.console import say
from dlenv.doctor.model import Finding, Repair, Step
from dlenv.errors import SetupError
from dlenv.managers import uv

__all__ = ["carry_out", "repairs"]

# Not the user's folder, which may hold a stranger's files: Python's ``-m`` would run its modules, uv obey its settings.
_NOWHERE = Path(os.path.abspath(os.sep))  # noqa: PTH100


def repairs(findings: Iterable[Finding]) -> list[Repair]:
    """The repairs of what is wrong, each once, in the order of the findings.

    Where one of them builds the environment again, it is the only one: it undoes the others. Of several that do, it is
    the one that changes most of what the environment was asked for.
    """
    found: list[Repair] = []
    for finding in findings:
        if finding.status in ("fail", "warn") and finding.repair is not None and finding.repair not in found:
            found.append(finding.repair)
    rebuilding = [repair for repair in found if repair.rebuilds]
    return [max(rebuilding, key=lambda repair: len(repair.steps[-1].words))] if rebuilding else found


def carry_out(repair: Repair) -> bool:
    """Take the steps, saying each; false where one fails, after which the rest is not tried."""
    for step in repair.steps:
        say(f"$ {step}")
        if problem := _take(step):
            say(f"  failed: {problem}")
            return False
    return True


def _take(step: Step) -> str | None:
    """Why the step failed, or None."""
    try:
        if step.remove is not None:
            _remove(Path(step.remove))
            return None
        if Path(step.words[0]).stem == "uv":
            uv.run(step.words[1:], show=True, project=_NOWHERE)
            return None
        # Its talk goes where ours goes: standard output is for the result.
        done = subprocess.run(
            step.words, env=uv.environ(), cwd=_NOWHERE, stdin=subprocess.DEVNULL, stdout=2, check=False
        )
    except OSError as error:
        return error.strerror or str(error)
    except (uv.Failed, SetupError) as error:
        return str(error)
    return None if done.returncode == 0 else f"exit code {done.returncode}"


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif os.path.lexists(path):
        path.unlink()
