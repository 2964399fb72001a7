"""Runs checks: each with its own time limit, none able to end the examination."""

from __future__ import annotations

from collections.abc import Iterable

from dlenv.doctor.bounded import Call
from dlenv.doctor.facts import Facts
from dlenv.doctor.model import Finding, Verdict, skip
from dlenv.doctor.registry import Check

__all__ = ["examine"]

CHECK_LIMIT_S = 10.0


def examine(facts: Facts, checks: Iterable[Check], limit: float = CHECK_LIMIT_S) -> list[Finding]:
    """What each of ``checks`` says of ``facts``, in their order. ``limit`` is seconds for one check. Never raises."""
    return [_finding(check, facts, _missing(check, facts) or _verdict(check, facts, limit)) for check in checks]


def _missing(check: Check, facts: Facts) -> Verdict | None:
    """Why a check can't be made: what it goes by is not known."""
    for need in ("report" if need == "python" else need for need in check.needs):
        if getattr(facts, need) is None:
            reason = facts.missing.get(need, "this was not looked at")
            failed = reason.startswith(("it did not answer", "it failed"))
            return Verdict(status="error", detail=f"{need}: {reason}") if failed else skip(reason)
    return None


def _verdict(check: Check, facts: Facts, limit: float) -> Verdict:
    # One after the other: they take no time, and not everything that they call bears threads.
    try:
        return Call(check.function, facts).result(limit)
    except TimeoutError:
        return Verdict(status="error", detail=f"the check did not end within {limit:g} s")
    except Exception as error:  # noqa: BLE001 - a fault in a check must not hide what the others found
        return Verdict(status="error", detail=f"the check failed: {type(error).__name__}: {error}")


def _finding(check: Check, facts: Facts, verdict: Verdict) -> Finding:
    return Finding(
        id=check.id,
        status=verdict.status,
        title=check.title,
        detail=verdict.detail,
        fix=verdict.fix,
        repair=verdict.repair if facts.target.is_changeable else None,
    )
