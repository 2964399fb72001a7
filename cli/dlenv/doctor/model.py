"""What the doctor says: a verdict of one check, and how to put right what is wrong."""

from __future__ import annotations

import shlex
import subprocess
import sys
from typing import Literal

import msgspec

Status = Literal["ok", "warn", "fail", "skip", "error"]
#: "error": the check itself could not be made; what it was after may be right or wrong.
BAD: tuple[Status, ...] = ("fail", "error")


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One step of a repair: a command to run, or a path to remove."""

    words: tuple[str, ...] = ()
    remove: str | None = None

    def __str__(self) -> str:
        words = self.words if self.remove is None else (*_REMOVE, self.remove)
        return subprocess.list2cmdline(words) if sys.platform == "win32" else shlex.join(words)


_REMOVE = ("rmdir", "/s", "/q") if sys.platform == "win32" else ("rm", "-r")


class Repair(msgspec.Struct, frozen=True, kw_only=True):
    """Steps that touch nothing but the environment, so that ``--fix`` may take them."""

    steps: tuple[Step, ...]
    note: str = ""  # what the user has to know before agreeing

    @staticmethod
    def of(*commands: tuple[str, ...], note: str = "") -> Repair:
        """A repair that runs these commands in turn."""
        return Repair(steps=tuple(Step(words=words) for words in commands), note=note)

    @property
    def rebuilds(self) -> bool:
        """Whether it builds the environment again, after which nothing that is in it now counts."""
        return any("--repair" in step.words for step in self.steps)

    def __str__(self) -> str:
        return " && ".join(map(str, self.steps))


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What one check found, without its name."""

    status: Status
    detail: str = ""  # the evidence: what was seen
    fix: str | None = None  # what to do, a command where there is one
    repair: Repair | None = None  # the fix, where --fix may carry it out


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """A verdict under the name of its check."""

    id: str
    status: Status
    title: str
    detail: str = ""
    fix: str | None = None
    repair: Repair | None = None

    def to_json(self) -> dict[str, object]:
        """An entry of ``checks`` in the JSON contract."""
        return {key: getattr(self, key) for key in ("id", "status", "title", "detail", "fix")}


def ok(detail: str) -> Verdict:
    """Nothing is wrong; ``detail`` says what was seen."""
    return Verdict(status="ok", detail=detail)


def skip(detail: str) -> Verdict:
    """The check does not apply here, and why."""
    return Verdict(status="skip", detail=detail)


def warn(detail: str, fix: str | Repair | None = None) -> Verdict:
    """Works, but not as well as it could, or not for everything."""
    return _bad("warn", detail, fix)


def fail(detail: str, fix: str | Repair | None = None) -> Verdict:
    """Does not work."""
    return _bad("fail", detail, fix)


def _bad(status: Status, detail: str, fix: str | Repair | None) -> Verdict:
    repair = fix if isinstance(fix, Repair) else None
    return Verdict(status=status, detail=detail, fix=None if fix is None else str(fix), repair=repair)
