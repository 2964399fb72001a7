"""Finds out what the checks go by: everything at once, each source with a time limit, none able to end the rest."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from dlenv import probe
from dlenv.doctor import reach, services
from dlenv.doctor.bounded import Call
from dlenv.doctor.facts import Facts, Target
from dlenv.doctor.registry import Check, Source
from dlenv.environment.distributions import Distribution, conda_packages, installed, site_packages
from dlenv.environment.record import Record
from dlenv.machine import inspect
from dlenv.machine.model import Machine
from dlenv.plan.model import Plan, Request
from dlenv.probe import Report

__all__ = ["gather"]

# Seconds. The probe ends each of its stages itself; this is for what not even that ends.
_LIMITS = {"machine": 30.0, "report": 320.0, "endpoints": 10.0, "processes": 10.0, "ports": 10.0, "service": 10.0}
_STAGE_LIMIT_S, _PROBE_LIMIT_S = 120.0, 300.0
_ENDING_S = 5.0  # for what an interruption ends, and the removal of its files


def gather(
    target: Target, checks: Iterable[Check], folder: Path, *, also: Iterable[Source] = (), offline: bool = False
) -> Facts:
    """The facts that ``checks`` go by, and those named in ``also``; ``folder`` is the current one.

    Nothing that fails is raised: it is None, and ``Facts.missing`` says why. An interruption ends what was started.
    """
    wanted: set[Source] = {*also, *(source for check in checks for source in (*check.needs, *check.uses))}
    if "plan" in wanted:
        wanted.add("machine")
    stages = probe.FACTS if "report" in wanted else ("python",)
    if wanted & {"plan", "distributions", "python"}:
        wanted.add("report")
    children = probe.Children()
    sources: dict[str, Callable[[], Any]] = {
        "machine": lambda: inspect(target.env),
        "report": lambda: probe.run(
            target.python,
            stages=stages,
            time_limit=_PROBE_LIMIT_S,
            stage_limit=_STAGE_LIMIT_S,
            children=children,
        ),
        "endpoints": lambda: reach.look(os.environ),
        "processes": services.processes,
        "ports": lambda: services.ports(os.environ),
        "service": lambda: services.service(os.environ),
    }
    missing: dict[str, str] = {}
    if offline:
        missing["endpoints"] = "--offline: nothing was asked of the network"
        del sources["endpoints"]
    # On the disk of an environment anything may hang that is read.
    of_env: dict[str, Callable[[], Any]] = {}
    if env := target.env:
        of_env["record"] = lambda: Record.read(env)
        if target.kind == "conda":
            of_env["conda"] = lambda: conda_packages(env)
    calls: dict[str, Call[Any]] = {name: Call(source) for name, source in sources.items() if name in wanted}
    calls |= {name: Call(source) for name, source in of_env.items()}
    found: dict[str, Any] = {}
    try:
        for name, call in calls.items():
            found[name] = _result(name, call, missing)
    except BaseException:
        children.stop()
        if "report" in calls:
            calls["report"].wait(_ENDING_S)
        raise
    report = found.get("report")
    if "distributions" in wanted:
        found["distributions"] = _result("distributions", Call(_distributions, target, report), missing)
    facts = Facts(
        target=target,
        environ=dict(os.environ),
        folder=folder,
        missing=missing,
        **found | {"conda": found.get("conda") or ()},
    )
    if "plan" not in wanted:
        return facts
    planned = _result("plan", Call(_plan, facts.machine, report), missing)
    return msgspec.structs.replace(facts, plan=planned, missing=missing)


def _result(name: str, call: Call[Any], missing: dict[str, str]) -> Any:
    limit = _LIMITS.get(name, 10.0)
    try:
        return call.result(limit)
    except TimeoutError:
        missing[name] = f"it did not answer within {limit:g} s"
    except Exception as error:  # noqa: BLE001 - what was found out otherwise must not be lost
        missing[name] = f"it failed: {type(error).__name__}: {error}"
    return None


def _distributions(target: Target, report: Report | None) -> tuple[Distribution, ...]:
    path = report.facts("python").get("path") if report is not None else None
    folders: list[Any] = list(path) if isinstance(path, list) else list(site_packages(target.env) if target.env else ())
    return installed(folders)


def _plan(machine: Machine | None, report: Report | None) -> Plan | None:
    """What dlenv would install for this machine and this Python; None where nothing fits."""
    from dlenv import catalog
    from dlenv.errors import DlenvError
    from dlenv.plan import make

    version: Mapping[str, Any] = report.facts("python") if report is not None else {}
    text = version.get("version")
    if machine is None:
        return None
    minor = ".".join(text.split(".")[:2]) if isinstance(text, str) else None
    try:
        return make(machine, Request(manager="uv", python=minor, course=None), catalog.load())
    except DlenvError:
        return None
