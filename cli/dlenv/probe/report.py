"""What came of a probe: frozen data, printed by ``dlenv setup``, kept in the environment, judged by the doctor."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

Level = Literal["facts", "proof"]

Status = Literal[
    "ok",
    "failed",  # it raised an error
    "crashed",  # the process ended in it: a signal, os._exit, killed for memory
    "timeout",
    "absent",  # the package is not installed
    "skipped",  # it needs a stage that did not end well, or can't be asked on this system
]


class Stage(msgspec.Struct, frozen=True, kw_only=True):
    """One step of the probe, for example the import of a package."""

    name: str  # "torch", "matmul:cuda:0"
    status: Status
    seconds: float = 0.0
    facts: dict[str, Any] = {}  # what was found out; what is in it depends on the stage
    error: str | None = None  # one line: "ImportError: libcudnn.so.9: cannot open shared object file"
    traceback: str = ""
    output: str = ""  # what it printed, warnings among it


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Every stage of one probe, in the order in which they ran."""

    python: str  # the program that was run
    level: Level
    required: tuple[str, ...] = ()  # packages without which the environment is no good
    stages: tuple[Stage, ...] = ()
    seconds: float = 0.0
    problem: str | None = None  # why Python did not run at all
    too_old: str | None = None  # the version of a Python that is too old to be examined: "3.6"

    def stage(self, name: str) -> Stage | None:
        """The stage of this name, or None where it was not run."""
        return next((stage for stage in self.stages if stage.name == name), None)

    def facts(self, name: str) -> dict[str, Any]:
        """What the stage of this name found out; empty where it did not."""
        stage = self.stage(name)
        return stage.facts if stage else {}

    @property
    def failures(self) -> tuple[Stage, ...]:
        """The stages that make the environment no good, first those that others need."""
        bad = ("failed", "crashed", "timeout")
        return tuple(
            stage
            for stage in self.stages
            if stage.status in bad or (stage.status == "absent" and stage.name in self.required)
        )

    @property
    def ok(self) -> bool:
        """Whether everything that was tried works, and everything that is needed is there."""
        return self.problem is None and not self.failures

    def to_json(self) -> dict[str, Any]:
        """This report as JSON data, with ``ok``; ``from_json`` reads it back."""
        data: dict[str, Any] = {"ok": self.ok, **msgspec.to_builtins(self)}
        return data

    @staticmethod
    def from_json(data: object) -> Report:
        """The report that ``to_json`` described; raises ``msgspec.ValidationError`` naming the field that is wrong."""
        return msgspec.convert(data, Report)
