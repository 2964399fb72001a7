"""Trying an environment for what its plan promises, and telling each step."""

from __future__ import annotations

from pathlib import Path

from dlenv import probe
from dlenv.console import say
from dlenv.plan import Candidate, Plan
from dlenv.probe import Report, Stage


def tried(python: Path, plan: Plan, torch: Candidate | None = None) -> tuple[Report, str]:
    """The report on the environment of ``python``, and in one line what does not work: empty where all does.

    ``torch`` is the build that it has to hold; None takes the one that is there.
    """
    edition = plan.course.edition if plan.course else None
    report = probe.run(
        python,
        level="proof",
        gpus=plan.gpus,
        devices=plan.devices,
        expect=torch,
        course=edition,
        extras=plan.extras,
        told=_told,
    )
    if report.ok:
        return report, ""
    return report, report.problem or "; ".join(
        f"{stage.name}: {stage.error or stage.status}" for stage in report.failures
    )


def _told(stage: Stage) -> None:
    if stage.status == "absent":  # a failure where it is needed, and nothing to talk about where not
        return
    say(f"  {stage.name}: {stage.status} ({stage.seconds:.1f} s){f': {stage.error}' if stage.error else ''}")
