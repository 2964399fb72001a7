"""What the command line asks for, beside a record of what is to be built."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dlenv.environment.record import Record


def contradiction(record: Record, given: Mapping[str, Any]) -> tuple[str, str] | None:
    """The first option that asks for something else than ``record`` holds, and what that holds; None where none does.

    ``given`` holds the options of ``dlenv setup`` that say what is wanted; None or "auto": not asked for.
    """
    plan = record.plan
    has: dict[str, Sequence[str]] = {
        "manager": [plan.manager],
        "python": [plan.python],
        "torch": [record.torch.torch],
        "build": [record.torch.build],
        "course": [plan.course.edition if plan.course else "none"],
        "extras": plan.extras or ["none"],
    }
    for name, values in has.items():
        value = given[name]
        wanted = list(value) if isinstance(value, tuple) else [] if value in (None, "auto") else [value]
        if absent := [each for each in wanted if each not in values]:
            return f"--{'with' if name == 'extras' else name} {absent[0]}", ", ".join(values) or "nothing"
    if given.get("strict_cuda") and not record.request.strict_cuda:
        return "--strict-cuda", f"{record.torch.torch}+{record.torch.build}, chosen without it"
    return None
