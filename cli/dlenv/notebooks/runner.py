"""Execute one notebook; run by an environment's own Python, as a script: ``python runner.py JOB``.

It knows nothing of dlenv and needs only nbclient and ipykernel. ``JOB`` is a JSON file: ``notebook`` (path), ``folder``
(working directory of the kernel), ``kernel`` (name of the kernelspec), ``limit`` (seconds for the whole notebook),
``executed`` (where the notebook with its outputs goes) and ``result`` (where the result goes, as JSON: ``status`` ran,
failed, timeout or died; ``cells``, code cells in the notebook; ``cell``, the one that failed, counted among these from
1; ``error``, its name and text; ``traceback``, plain text).
"""

from __future__ import annotations

import json
import os
import re
import sys
import threading
import time
from pathlib import Path
from typing import Any

# "!pip install", "%pip install", "!conda install" and the like: a run must not change the environment it runs in.
_INSTALLS = re.compile(r"\s*[!%](\{sys\.executable\} -m )?\s*(pip3?|conda|mamba|uv pip|python3? -m pip) install\b")
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def without_installs(source: str) -> str:
    """The source of a code cell without the lines that install packages."""
    return "".join(line for line in source.splitlines(keepends=True) if not _INSTALLS.match(line))


def _end_with_parent() -> None:
    """End when standard input closes, that is, when the process that started this one is gone; the kernel follows."""
    while os.read(0, 4096):  # not sys.stdin: Python can't end while a thread holds its lock
        pass
    os._exit(1)


def execute(job: dict[str, Any]) -> dict[str, Any]:
    """Run the notebook of ``job`` and return its result; writes the executed notebook."""
    import nbformat  # type: ignore[import-not-found, unused-ignore]  # the environment's, not dlenv's

    notebook = nbformat.read(job["notebook"], as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for cell in code:
        cell.source, cell.outputs, cell.execution_count = without_installs(cell.source), [], None
    result = {"status": "ran", "cells": len(code), "cell": None, "error": "", "traceback": ""}
    if code:  # a notebook of text alone needs no kernel
        result |= _run_cells(notebook, code, job)
    nbformat.write(notebook, job["executed"])
    return result


def _run_cells(notebook: Any, code: list[Any], job: dict[str, Any]) -> dict[str, Any]:
    """Run the cells in a kernel; returns what of the result is other than for a notebook that ran."""
    from nbclient import NotebookClient  # type: ignore[import-not-found, unused-ignore]
    from nbclient.exceptions import (  # type: ignore[import-not-found, unused-ignore]
        CellExecutionError,
        CellTimeoutError,
        DeadKernelError,
    )

    deadline = time.monotonic() + job["limit"]
    running: list[Any] = []
    client = NotebookClient(
        notebook,
        kernel_name=job["kernel"],
        resources={"metadata": {"path": job["folder"]}},
        # The limit holds for the notebook, not for each cell. 0 would mean no limit.
        timeout_func=lambda _cell: max(deadline - time.monotonic(), 0.01),
        on_cell_start=lambda cell, **_: running.append(cell),
    )
    try:
        client.execute()
    except CellExecutionError as error:
        failure = {"status": "failed", "error": f"{error.ename}: {error.evalue}", "traceback": _plain(error.traceback)}
    except CellTimeoutError:
        failure = {"status": "timeout"}
    except DeadKernelError:
        failure = {"status": "died", "error": "the kernel died"}
    else:
        return {}
    number = next((number for number, cell in enumerate(code, 1) if running and cell is running[-1]), None)
    return {**failure, "cell": number}


def _plain(text: str) -> str:
    return _COLOURS.sub("", text)


def main() -> None:
    """Read the job, run it, write its result."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    result = execute(job)
    beside = Path(job["result"] + ".part")
    beside.write_text(json.dumps(result), encoding="utf-8")
    beside.replace(job["result"])


if __name__ == "__main__":
    main()
