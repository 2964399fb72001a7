"""Runs stages inside the environment that is examined, and tells the parent as each starts and ends.

Called as ``python script.py JSON`` by :mod:`dlenv.probe.runner`. It imports nothing but the standard library and its
two neighbours, and runs on Python 3.8 and newer: it must work where nothing else does. Every line for the parent starts
with ``MARK``; whatever the packages print goes to a log, whose place the parent chose so that it outlives a crash.
"""

from __future__ import annotations

import faulthandler
import importlib.util
import json
import os
import sys
import time
import traceback
from types import ModuleType
from typing import Any

MARK = "dlenv-probe "
# Bytes of what a stage prints that are kept: it is evidence, not an archive, and what went wrong stands at its end.
MAX_OUTPUT = 8000


def main() -> None:
    """Run the stages that the parent asks for."""
    here = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 - pathlib takes 10 ms to import
    # Python puts the script's folder first: its neighbours must not shadow the environment's modules.
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or ".") != here]  # noqa: PTH100
    request = json.loads(sys.argv[1])
    channel = os.dup(1)
    log = os.open(request["log"], os.O_RDWR | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    faulthandler.enable()

    def tell(**message: Any) -> None:
        os.write(channel, (MARK + json.dumps(message, default=str) + "\n").encode())

    modules = [_neighbour(here, name) for name in ("facts", "proof")]
    stages = {name: stage for module in modules for name, stage in module.STAGES.items()}
    done = request["done"]
    for name in request["stages"]:
        kind, _, device = name.partition(":")
        start = os.fstat(log).st_size
        tell(event="start", name=name, offset=start)
        began = time.monotonic()
        missing = [need for need in request["needs"][name] if done.get(need) not in (None, "ok")]
        if missing:
            result = {"status": "skipped", "error": "it needs " + " and ".join(missing)}
        else:
            result = _attempt(stages[kind], dict(request, device=device))
        done[name] = result["status"]
        sys.stdout.flush()
        sys.stderr.flush()
        output = _read(log, start)
        tell(event="end", name=name, seconds=round(time.monotonic() - began, 3), output=output, **result)
    # Not sys.exit: libraries that were torn down in the wrong order would crash here, and nobody would be hurt.
    os._exit(0)


def _attempt(stage: Any, request: dict[str, Any]) -> dict[str, Any]:
    try:
        facts = stage(request)
    except BaseException as error:  # noqa: BLE001 - a package may raise anything, SystemExit among it
        lines = str(error).strip().splitlines()
        text = "{}: {}".format(type(error).__name__, lines[0] if lines else "")
        result: dict[str, Any] = {"status": "failed", "error": text[:500], "traceback": _traceback(error)}
        if isinstance(error, ModuleNotFoundError):
            result["facts"] = {"missing": error.name}
        return result
    if facts is None:
        return {"status": "absent"}
    if "skipped" in facts:
        return {"status": "skipped", "error": facts["skipped"]}
    return {"status": "ok", "facts": facts}


def _traceback(error: BaseException) -> str:
    return "".join(traceback.format_exception(type(error), error, error.__traceback__))[-MAX_OUTPUT:]


def _read(log: int, start: int) -> str:
    length = os.fstat(log).st_size - start
    cut = max(length - MAX_OUTPUT, 0)
    position = os.lseek(log, 0, os.SEEK_CUR)
    os.lseek(log, start + cut, os.SEEK_SET)
    text = os.read(log, length - cut).decode("utf-8", "replace") if length else ""
    os.lseek(log, position, os.SEEK_SET)
    return f"[{cut} bytes before this were left out]\n{text}" if cut else text


def _neighbour(folder: str, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location("dlenv_probe_" + name, os.path.join(folder, name + ".py"))  # noqa: PTH118
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main()
