"""Starts the probe's script in an environment, and goes on without a stage that kills it."""

from __future__ import annotations

import json
import os
import queue
import re
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from dlenv.plan.model import Candidate, Edition
from dlenv.probe import process
from dlenv.probe.report import Level, Report, Stage

__all__ = ["FACTS", "run"]

_SCRIPT = Path(__file__).parent / "script.py"
_MARK = b"dlenv-probe "
_PACKAGES = ("numpy", "torch", "cuda", "bridge", "torchvision", "pandas", "matplotlib", "inline", "d2l", "jupyter")
#: The stages of the level "facts", in the order in which they run.
FACTS = ("python", *_PACKAGES, "libraries")
# A stage is skipped where one that it needs did not end well: it would only fail again. What computes on a GPU that
# PyTorch calls "cuda:N" needs the stage "cuda", too.
_NEEDS = {
    "cuda": ["torch"],
    "bridge": ["torch", "numpy"],
    "torchvision": ["torch"],
    "d2l": ["torch", "torchvision"],
    "matmul": ["torch"],
    "convolution": ["torch"],
    "nms": ["torchvision"],
    "training": ["d2l"],
    "kernel": ["jupyter", "torch"],
    "service": ["torch"],
}
_TAIL = 8000  # bytes of a log that are kept as evidence
_LONGEST_LINE = 1 << 20  # bytes; a stage's facts with its output and traceback take a few ten thousand
_MOST_OUTPUT = 1 << 22  # bytes; what says more is not the script: looking at its lines would only slow the rest
# Seconds in which any Python starts and describes itself, also from a cold disk; what is none may never say a word.
_START_LIMIT_S, _VERSION_LIMIT_S = 20.0, 10.0
_OLDEST = (3, 8)  # that the script runs on


def run(
    python: Path,
    *,
    level: Level = "facts",
    gpus: Sequence[int] = (),
    devices: Sequence[str] = (),
    expect: Candidate | None = None,
    course: Edition | None = None,
    extras: Sequence[str] = (),
    stages: Sequence[str] = FACTS,
    time_limit: float = 600.0,
    stage_limit: float = 180.0,
    told: Callable[[Stage], None] = lambda _: None,
    children: process.Children | None = None,
) -> Report:
    """Try the environment that ``python`` belongs to; never raises for what is wrong in it.

    ``level`` "facts" runs ``stages``, most of which import a package; "proof" also compares torch with ``expect``,
    computes on the CPU and on ``devices`` (a plan's), where of NVIDIA's GPUs only ``gpus`` (NVML indices) are seen,
    trains with the course's package where there is a ``course``, asks a Jupyter kernel, and with the extra "serve" a
    model. ``time_limit`` is for all of it, ``stage_limit`` for one stage, in seconds. ``told`` hears of each stage as
    it ends. ``children``: who runs this in a thread can end it by their ``stop``.
    """
    began = time.monotonic()
    python = python.absolute()  # the script runs elsewhere; not resolved, since a link is what makes an environment
    proof = level == "proof"
    todo = [*stages, *(_proof(devices, course, extras) if proof else ())]
    told_to = {"devices": list(devices) if proof else [], "expect": _build(expect) if proof and expect else None}
    setting = _Setting(python=python, proof=proof, gpus=tuple(gpus), children=children or process.Children())
    done: list[Stage] = []
    problem = too_old = None
    while todo and problem is None:
        left = time_limit - (time.monotonic() - began)
        known = len(done)
        if left <= 0:
            done += [Stage(name=name, status="skipped", error="no time was left") for name in todo]
            break
        try:
            for stage in _attempt(setting, todo, done, told_to, stage_limit, left):
                done.append(stage)
                told(stage)
        except _NoStart as error:
            problem, too_old = str(error), error.too_old
        todo = todo[len(done) - known :]
    return Report(
        python=str(python),
        level=level,
        required=_required(course),
        stages=tuple(done),
        seconds=round(time.monotonic() - began, 3),
        problem=problem,
        too_old=too_old,
    )


def _required(course: Edition | None) -> tuple[str, ...]:
    """Stages whose package must be there."""
    if course is None:
        return ("torch", "torchvision")
    return ("numpy", "torch", "torchvision", "pandas", "matplotlib", "inline", "d2l", "jupyter")


def _proof(devices: Sequence[str], course: Edition | None, extras: Sequence[str]) -> list[str]:
    stages = [f"{kind}:{device}" for device in ("cpu", *devices) for kind in ("matmul", "convolution")]
    stages += [f"nms:{device}" for device in devices if device.startswith("cuda")]
    if course is not None:
        stages += ["training", "kernel"]
    if "serve" in extras:
        stages.append("service")
    return stages


def _needs(name: str) -> list[str]:
    kind, _, device = name.partition(":")
    return [*_NEEDS.get(kind, ()), *(["cuda"] if device.startswith("cuda") else ())]


def _build(candidate: Candidate) -> dict[str, str | None]:
    """What such a torch says of itself; what its build does not tell is left out."""
    from dlenv.catalog.torch import cuda_of

    said: dict[str, str | None] = {"torch": candidate.torch}
    cuda, hip = cuda_of(candidate.build), re.fullmatch(r"rocm([0-9]+\.[0-9]+).*", candidate.build)
    if cuda or hip or candidate.build in ("cpu", "mps", "xpu"):
        said |= {"cuda": cuda, "hip": hip[1] if hip else None}
    return said


class _Start(msgspec.Struct, frozen=True, kw_only=True):
    """What the script says as a stage starts."""

    name: str
    offset: int  # where in the log its output begins


class _Setting(msgspec.Struct, frozen=True, kw_only=True):
    """How the script is run."""

    python: Path
    proof: bool
    gpus: tuple[int, ...]
    children: process.Children


class _NoStart(Exception):
    """Python ended before the first stage."""

    def __init__(self, text: str, too_old: str | None = None) -> None:
        super().__init__(text)
        self.too_old = too_old


def _attempt(
    setting: _Setting,
    todo: Sequence[str],
    done: Sequence[Stage],
    told_to: dict[str, Any],
    stage_limit: float,
    time_limit: float,
) -> Iterator[Stage]:
    """The stages of one run of the script; the last one may be one that did not end by itself."""
    with tempfile.TemporaryDirectory(prefix="dlenv-probe-", ignore_cleanup_errors=True) as folder:
        log = Path(folder, "log")
        log.touch()
        before = {stage.name: stage.status for stage in done}
        needs = {name: _needs(name) for name in todo}
        request = {"stages": list(todo), "needs": needs, "done": before, "log": str(log), **told_to}
        command = [str(setting.python), str(_SCRIPT), json.dumps(request)]
        try:
            child = setting.children.start(command, _environment(setting, folder), folder, log)
        except OSError as error:
            raise _NoStart(f"{setting.python} can't be run: {error.strerror or error}") from None
        try:
            yield from _follow(child, log, stage_limit, time.monotonic() + time_limit)
        except _NoStart as error:
            code = child.poll()
            if code is not None and code > 0 and (version := _too_old(setting.python, folder)):
                oldest = ".".join(map(str, _OLDEST))
                text = f"Python {version} is too old: {oldest} is the oldest that can be examined"
                raise _NoStart(text, version) from None
            raise _NoStart(str(error)) from None
        finally:
            setting.children.end(child)


def _follow(child: subprocess.Popen[bytes], log: Path, stage_limit: float, end: float) -> Iterator[Stage]:
    messages = _messages(child)
    current: _Start | None = None
    count = 0
    began = time.monotonic()
    while True:
        try:
            starts = count == 0 and (current is None or current.name == "python")
            limit = min(stage_limit, _START_LIMIT_S) if starts else stage_limit
            message = messages.get(timeout=max(min(end, began + limit) - time.monotonic(), 0))
        except queue.Empty:
            seconds = time.monotonic() - began
            if current is None:
                raise _NoStart(f"Python did not start within {seconds:.0f} s{_last_line(log)}") from None
            yield _cut_off(current, "timeout", f"it did not end within {seconds:.0f} s", log, seconds)
            return
        if message is None:
            break
        began = time.monotonic()
        if isinstance(message, _Start):
            current = message
        else:
            current, count = None, count + 1
            yield message
    code = process.code(child)
    if current is not None:
        yield _cut_off(current, "crashed", f"Python {process.reason(code)}", log, time.monotonic() - began)
    elif count == 0:
        raise _NoStart(f"Python {process.reason(code)} before anything was tried{_last_line(log)}")


def _messages(child: subprocess.Popen[bytes]) -> queue.Queue[_Start | Stage | None]:
    """What the script says, as it comes; None at the end."""
    messages: queue.Queue[_Start | Stage | None] = queue.Queue()
    assert child.stdout is not None
    stream = child.stdout

    def read() -> None:
        left = _MOST_OUTPUT
        with stream:
            while left > 0 and (line := stream.readline(_LONGEST_LINE)):  # what is no Python may never end one
                left -= len(line)
                if message := _message(line):
                    messages.put(message)
            while stream.read(_LONGEST_LINE):
                pass
        messages.put(None)

    threading.Thread(target=read, daemon=True).start()
    return messages


def _message(line: bytes) -> _Start | Stage | None:
    """What a line says; None where it is not the script's: a sitecustomize module may print, too."""
    if not line.startswith(_MARK):
        return None
    try:
        message = json.loads(line[len(_MARK) :])
        if message.pop("event") == "start":
            return msgspec.convert(message, _Start)
        return msgspec.convert(message, Stage)
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError, msgspec.ValidationError):
        return None


def _too_old(python: Path, folder: str) -> str | None:
    """The version of ``python`` where it is too old for the script; None where it is not, or does not say."""
    command = [str(python), "-c", "import sys; print(sys.version_info[:2])"]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, cwd=folder, timeout=_VERSION_LIMIT_S, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.search(rb"\((\d+), (\d+)\)\s*$", done.stdout[-_TAIL:])
    if found is None or (version := (int(found[1]), int(found[2]))) >= _OLDEST:
        return None
    return f"{version[0]}.{version[1]}"


def _cut_off(current: _Start, status: Literal["timeout", "crashed"], error: str, log: Path, seconds: float) -> Stage:
    output = log.read_bytes()[current.offset :][-_TAIL:].decode("utf-8", "replace")
    return Stage(name=current.name, status=status, seconds=round(seconds, 3), error=error, output=output)


def _last_line(log: Path) -> str:
    lines = log.read_bytes()[-_TAIL:].decode("utf-8", "replace").strip().splitlines()
    return f": {lines[-1]}" if lines else ""


def _environment(setting: _Setting, folder: str) -> dict[str, str]:
    environment = dict(os.environ)
    if not setting.proof:  # who only examines writes nothing
        environment |= {"MPLCONFIGDIR": folder, "PYTHONDONTWRITEBYTECODE": "1"}
    elif setting.gpus:
        # NVML numbers GPUs by their place on the PCI bus, CUDA by default the fastest first.
        environment["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, setting.gpus))
    return environment
