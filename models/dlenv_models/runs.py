"""Records of training runs: what was asked, on what, and what came out, epoch by epoch, in a plain folder each.

``run.json`` is the record (:class:`Run`), ``metrics.jsonl`` has a line for each epoch as it ends, so that of a run that
crashes, or is killed, all figures until then are left. No server and no database is needed to read or compare them.
Trackers (:mod:`dlenv_models.trackers`) are told the same.
"""

from __future__ import annotations

import itertools
import platform
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, Protocol

import msgspec
import psutil

from dlenv.errors import DlenvError
from dlenv.machine import system

__all__ = [
    "Git",
    "Recorder",
    "Run",
    "Tracker",
    "ended",
    "environment",
    "find",
    "free",
    "git",
    "metrics",
    "read",
    "record",
]

RECORD, METRICS = "run.json", "metrics.jsonl"
_PACKAGES = ("dlenv", "torch", "torchvision", "numpy", "ray")

State = Literal["running", "finished", "stopped", "failed", "interrupted"]


class Git(msgspec.Struct, frozen=True, kw_only=True):
    """The repository that the command was given in."""

    commit: str
    changed: bool  # whether files differ from that commit, or are not in it


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One training. Times are UTC (ISO 8601); ``stopped``: a scheduler saw no use in going on."""

    schema: int = 1
    name: str
    command: str
    architecture: str
    data: str
    parameters: dict[str, Any]
    environment: dict[str, str]
    git: Git | None = None  # None: no repository, or no git
    state: State = "running"
    process: str | None = None  # host, number and start of the process that keeps the record
    started: str
    ended: str | None = None
    epochs: int = 0
    result: dict[str, float] = {}  # the last epoch's figures, and those of the held-out data where it was measured
    model: str | None = None  # "name/version" that was published
    error: str | None = None


class Tracker(Protocol):
    """Whoever is told of a run beside its folder; may raise whatever it likes, which does not stop the run."""

    def epoch(self, number: int, figures: Mapping[str, float]) -> None:
        """Epoch ``number``, counted from 1, has ended."""

    def end(self, run: Run) -> None:
        """The run has ended, in whatever state."""


class Recorder:
    """Writes one run's folder, each file whole or not at all, each line as it comes."""

    def __init__(self, folder: Path, run: Run, trackers: Sequence[Tracker], log: Callable[[str], None]) -> None:
        self.folder = folder
        self.run = run
        self._trackers = list(trackers)
        self._log = log
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / METRICS).write_bytes(b"")
            self._write()
        except OSError as error:
            raise DlenvError(
                f"the run can't be recorded in {folder} ({error.strerror}); choose another folder"
            ) from None

    def epoch(self, figures: Mapping[str, float]) -> None:
        """Add the next epoch's figures."""
        number = self.run.epochs + 1
        with (self.folder / METRICS).open("ab") as file:
            file.write(msgspec.json.encode({"epoch": number, **figures}) + b"\n")
        self.run = msgspec.structs.replace(self.run, epochs=number, result={**self.run.result, **figures})
        self._tell(lambda tracker: tracker.epoch(number, figures))

    def end(self, state: State, **more: Any) -> None:
        """Write what became of the run; ``more`` are fields of it."""
        if self.run.ended:
            return
        result = {**self.run.result, **more.pop("result", {})}
        self.run = msgspec.structs.replace(self.run, state=state, ended=_now(), result=result, **more)
        self._write()
        self._tell(lambda tracker: tracker.end(self.run))

    def move(self, folder: Path) -> list[Path]:
        """Put all that was recorded into ``folder``, beside what is there; the paths of the files."""
        folder.mkdir(parents=True, exist_ok=True)
        if folder.resolve() != self.folder.resolve():
            for path in self.folder.iterdir():
                path.replace(folder / path.name)
            self.folder.rmdir()
            self.folder = folder
        return [folder / RECORD, folder / METRICS]

    def _tell(self, what: Callable[[Tracker], None]) -> None:
        for tracker in tuple(self._trackers):
            try:
                what(tracker)
            except Exception as error:  # noqa: BLE001 - a server that is gone costs its curves, not hours of training
                self._trackers.remove(tracker)
                self._log(f"{type(tracker).__name__.strip('_')} is told no more of this run: {error}")

    def _write(self) -> None:
        scratch = self.folder / f".{RECORD}.tmp"
        scratch.write_bytes(msgspec.json.format(msgspec.json.encode(self.run), indent=1) + b"\n")
        scratch.replace(self.folder / RECORD)


def record(
    folder: Path,
    *,
    name: str,
    command: str,
    architecture: str,
    data: str,
    parameters: Mapping[str, Any],
    trackers: Sequence[Tracker] = (),
    log: Callable[[str], None] = lambda _: None,
) -> Recorder:
    """Begin to record a run in ``folder``; raises ``DlenvError`` where it can't be written.

    ``log`` is told of a tracker that fails.
    """
    run = Run(
        name=name,
        command=command,
        architecture=architecture,
        data=data,
        parameters=dict(parameters),
        environment=environment(str(parameters.get("device", "cpu"))),
        git=git(Path.cwd(), folder.parent),
        process=_process(psutil.Process()),
        started=_now(),
    )
    return Recorder(folder, run, trackers, log)


@contextmanager
def ended(recorder: Recorder) -> Iterator[Recorder]:
    """Around a run: what goes wrong, an interruption too, is on its record."""
    try:
        yield recorder
    except BaseException as error:
        interrupted = not isinstance(error, Exception)
        recorder.end("interrupted" if interrupted else "failed", error=f"{type(error).__name__}: {error}".rstrip(": "))
        raise


def find(root: Path) -> list[Path]:
    """The folders of runs below ``root``, oldest first; those that can't be read are left out."""
    known = [(read(path.parent), path.parent) for path in root.rglob(RECORD)] if root.is_dir() else []
    return [folder for _, folder in sorted((run.started, folder) for run, folder in known if run is not None)]


def free(folder: Path) -> Path:
    """``folder``, or with a number after its name where another run is recorded there."""
    others = (folder.with_name(f"{folder.name}-{number}") for number in itertools.count(2))
    return next(path for path in itertools.chain([folder], others) if not (path / RECORD).exists())


def read(folder: Path) -> Run | None:
    """The record in ``folder``; None where there is none, or none that this version understands.

    Of a run without an end, the epochs until now count; one whose process was killed is told as interrupted.
    """
    try:
        run = msgspec.json.decode((folder / RECORD).read_bytes(), type=Run)
    except (OSError, msgspec.MsgspecError):
        return None
    if run.schema != 1:
        return None
    if run.state == "running":
        epochs = metrics(folder)
        last = {key: value for key, value in epochs[-1].items() if key != "epoch"} if epochs else {}
        run = msgspec.structs.replace(run, epochs=len(epochs), result=last)
        if _is_gone(run.process):
            run = msgspec.structs.replace(run, state="interrupted", error="its process was killed")
    return run


def metrics(folder: Path) -> list[dict[str, float]]:
    """The figures of each epoch; a last line that was cut off counts for nothing."""
    try:
        lines = (folder / METRICS).read_bytes().split(b"\n")[:-1]
    except OSError:
        return []
    return msgspec.json.decode(b"[" + b",".join(lines) + b"]", type=list[dict[str, float]])


def environment(device: str = "cpu") -> dict[str, str]:
    """What the numbers of a run on ``device`` depend on, beside its parameters."""
    found = {"python": platform.python_version(), "system": f"{platform.system()} {platform.machine()}"}
    found["cores"] = str(system.cpus(Path("/")))
    if device.startswith("cuda"):
        found |= _gpu(device)
    return found | dict(_versions(_PACKAGES))


def git(folder: Path, records: Path | None = None) -> Git | None:
    """The state of the repository around ``folder``; what lies in ``records`` is dlenv's own and changes nothing."""
    commit = _git(folder, "rev-parse", "HEAD")
    if not commit:
        return None
    root = Path(_git(folder, "rev-parse", "--show-toplevel"))
    but = []
    if records is not None and records.resolve() != root and records.resolve().is_relative_to(root):
        but = [f":(exclude,top,literal){records.resolve().relative_to(root).as_posix()}"]
    return Git(commit=commit, changed=bool(_git(root, "status", "--porcelain", "--", ".", *but)))


def _gpu(device: str) -> dict[str, str]:
    import torch

    try:
        return {"gpu": torch.cuda.get_device_name(device), "cuda": str(torch.version.cuda)}
    except (RuntimeError, AssertionError):  # it is in another machine, or nowhere
        return {"cuda": str(torch.version.cuda)}


def _process(process: psutil.Process) -> str:
    return f"{platform.node()} {process.pid} {process.create_time():.0f}"


def _is_gone(process: str | None) -> bool:
    """Whether a process of this machine has ended; of another machine's nobody knows."""
    host, number, _ = (process or " 0 ").rsplit(" ", 2)
    if host != platform.node():
        return False
    try:
        return _process(psutil.Process(int(number))) != process
    except psutil.Error:
        return True


def _git(folder: Path, *words: str) -> str:
    try:
        done = subprocess.run(["git", "-C", folder, *words], capture_output=True, text=True, timeout=10)  # noqa: S607 - the user's git
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _versions(names: Iterable[str]) -> Iterator[tuple[str, str]]:
    for name in names:
        try:
            yield name, metadata.version(name)
        except metadata.PackageNotFoundError:
            continue


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")
