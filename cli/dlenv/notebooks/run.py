"""Run notebooks headless in an environment, one after the other, and say what came of each."""

from __future__ import annotations

import difflib
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dlenv.environment.layout import executable
from dlenv.environment.record import Record
from dlenv.errors import DataError, UsageError
from dlenv.notebooks import folder, kernel, runner
from dlenv.notebooks.outcome import Outcome, classify
from dlenv.probe import process

_NAME = "dlenv-run"
# nbclient raises at the limit by itself; this is for a runner that hangs, and covers starting and ending a kernel.
_GRACE_S = 60


def default(env: Path) -> Path:
    """The folder of notebooks of the course of ``env``: here, else where setup put them; raises ``UsageError``."""
    record = Record.read(env)
    edition = record.plan.course.edition if record and record.plan.course else None
    try:
        return folder.find(edition=edition)[0]
    except UsageError:
        if record and record.notebooks and folder.Manifest.read(Path(record.notebooks)):
            return Path(record.notebooks)
        raise


def find(root: Path) -> dict[str, Path]:
    """Every notebook under ``root`` by its name: relative path with "/", without ".ipynb"."""
    paths = sorted(
        path for path in root.rglob("*.ipynb") if not any(part[0] == "." for part in path.relative_to(root).parts)
    )
    return {path.relative_to(root).with_suffix("").as_posix(): path for path in paths}


def select(root: Path, words: Sequence[str]) -> dict[str, Path]:
    """The notebooks under ``root`` that ``words`` name: a chapter, a notebook, the beginning of either; none: all.

    "chapter_" may be left out. Raises ``UsageError`` for a word that names none, and where there are none at all.
    """
    found = find(root)
    if not found:
        raise UsageError(f"there are no notebooks in {root}; get them by: {folder.fetching()}")
    chosen: set[str] = set()
    for word in words:
        start = word.replace("\\", "/").removeprefix("./").removesuffix(".ipynb").rstrip("/")
        matching = {name for name in found if name.startswith((start, f"chapter_{start}"))}
        # A notebook's full name means just that one, not also those whose names go on after it.
        exact = matching & {start, f"chapter_{start}"}
        if not matching:
            near = difflib.get_close_matches(start, [*found, *{name.partition("/")[0] for name in found}], 1)
            hint = f"; did you mean {near[0]}?" if near else "; dlenv notebooks list shows them"
            raise UsageError(f"no notebook in {root} begins with {word!r}{hint}")
        chosen |= exact or matching
    return {name: path for name, path in found.items() if not words or name in chosen}


def check(env: Path) -> None:
    """Raise ``NoEnvironment`` unless notebooks can be run in ``env``."""
    kernel.need(env, ("nbclient", "ipykernel"), "notebooks can't be run")


def run(env: Path, root: Path, notebooks: dict[str, Path], limit: float, keep: Path | None = None) -> Iterator[Outcome]:
    """Run ``notebooks`` (name -> path) in ``env``, each at most ``limit`` seconds; yields each outcome at once.

    The working directory is the notebook's own folder, as in Jupyter. The notebooks are not changed: with ``keep``
    copies with outputs go to that folder, which must lie outside ``root``. Cells' commands that install packages are
    left out. Raises ``UsageError`` and ``NoEnvironment``.
    """
    if keep and keep.resolve().is_relative_to(root.resolve()):
        raise UsageError(f"--keep {keep} lies in the folder of notebooks {root}; name one outside it")
    check(env)
    with tempfile.TemporaryDirectory(prefix="dlenv-run-", ignore_cleanup_errors=True) as temporary:
        scratch = Path(temporary)
        spec = kernel.specification(executable(kernel.stable(env)), "dlenv run")
        kernel.write(scratch / "kernels" / _NAME / "kernel.json", spec)
        for name, path in notebooks.items():
            yield _run_one(env, name, path, limit, keep, scratch)


def _run_one(env: Path, name: str, path: Path, limit: float, keep: Path | None, scratch: Path) -> Outcome:
    if not path.stat().st_size:
        return Outcome(notebook=name, kind="empty", seconds=0.0, error="the file is empty")
    job = {
        "notebook": str(path.absolute()),  # the runner has a working directory of its own
        "folder": str(path.absolute().parent),
        "kernel": _NAME,
        "limit": limit,
        "executed": str(scratch / "executed.ipynb"),
        "result": str(scratch / "result.json"),
    }
    for file in (job["executed"], job["result"]):
        Path(str(file)).unlink(missing_ok=True)
    kernel.write(scratch / "job.json", json.dumps(job))
    began = time.monotonic()
    result = _execute(env, scratch, limit)
    seconds = round(time.monotonic() - began, 1)
    executed = Path(str(job["executed"]))
    if keep and executed.exists():
        kernel.write(keep / f"{name}.ipynb", executed.read_text(encoding="utf-8"))
    kind, error = classify(result)
    return Outcome(notebook=name, kind=kind, seconds=seconds, cells=result["cells"], cell=result["cell"], error=error)


def _execute(env: Path, scratch: Path, limit: float) -> dict[str, Any]:
    """The result of ``runner.py``, which is ended with everything that it started."""
    settings = {
        "JUPYTER_PATH": str(scratch),
        "JUPYTER_RUNTIME_DIR": str(scratch / "runtime"),
        # Neither the user's start-up files nor their history belong into such a run.
        "IPYTHONDIR": str(scratch / "ipython"),
    }
    log = scratch / "runner.log"
    with log.open("wb") as output:
        child = subprocess.Popen(
            [str(executable(kernel.stable(env))), runner.__file__, str(scratch / "job.json")],
            stdin=subprocess.PIPE,  # it closes when this process is gone, and the runner ends
            stdout=output,
            stderr=subprocess.STDOUT,
            env=kernel.variables(env) | settings,
            cwd=scratch,
            start_new_session=os.name == "posix",  # Ctrl-C comes to this process alone, which ends the others
        )
    result: dict[str, Any] = {"status": "timeout", "cells": 0, "cell": None, "error": "", "traceback": ""}
    try:
        code = child.wait(limit + _GRACE_S)
        result |= {"status": "failed"}
        try:
            result = json.loads((scratch / "result.json").read_bytes())
        except FileNotFoundError:
            lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            result["error"] = lines[-1] if lines else f"the runner {process.reason(code)}"
    except subprocess.TimeoutExpired:
        pass
    except OSError as error:
        raise DataError(f"the result of a run can't be read ({error.strerror})") from None
    finally:
        process.end(child)
        if child.stdin:
            child.stdin.close()
    return result
