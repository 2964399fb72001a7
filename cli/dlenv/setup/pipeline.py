"""Building an environment: beside the old one, proven, then switched to."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path

from dlenv import __version__
from dlenv.console import command_line, say
from dlenv.environment.layout import Home, executable, remove
from dlenv.environment.record import Package, Record, fingerprint
from dlenv.errors import ProofFailed, SetupError
from dlenv.machine import Machine
from dlenv.managers import install, uv
from dlenv.managers.source import Source, Sources
from dlenv.notebooks import kernel
from dlenv.plan import Candidate, Plan
from dlenv.probe import Report
from dlenv.setup import own, proof, repacked, room, sources
from dlenv.setup.model import Options, Outcome

# Makes an empty environment: (where, interpreter's version, variables for each source of it) -> its Python.
Create = Callable[[Path, str, str, Sources], Path]


def build(options: Options, machine: Machine, plan: Plan, create: Create) -> Outcome:
    """The environment ``options.env`` as ``plan`` says; where it is so already, nothing is changed.

    Raises ``SetupError`` (the old environment, if any, is as it was), ``ProofFailed``, ``UsageError``.
    """
    home = Home(options.env)
    home.check()
    if outcome := unchanged(home, options, plan):
        if home.unfinished():
            with contextlib.suppress(SetupError), home.locked():  # another setup may be at work on it
                _tidy(home)
        return outcome
    with home.locked():
        home.check()
        _tidy(home)
        old = home.record()
        added = old.added(home.env) if old else []
        path = home.new()
        try:
            record = _built(path, options, machine, plan, create)
            kept = home.switch(path)
        except OSError as error:
            remove(path)
            raise SetupError(f"{error.filename or path} can't be written ({error.strerror})") from None
        except BaseException:
            remove(path)
            raise
        previous = home.clean()
    return Outcome(
        environment=home.env,
        python=executable(home.env),
        changed=True,
        record=record,
        kept=kept,
        added=tuple(added),
        previous=tuple(previous),
    )


def prove(python: Path, plan: Plan, torch: Candidate) -> Report:
    """Try the environment of ``python``, which has to hold ``torch``, telling each step.

    Raises ``ProofFailed`` naming what does not work.
    """
    report, faults = proof.tried(python, plan, torch)
    if faults:
        raise ProofFailed(
            f"the environment was built, but does not work ({faults}); it was removed, and what was "
            "there before is as it was; dlenv doctor may say more about this machine"
        )
    return report


def unchanged(home: Home, options: Options, plan: Plan) -> Outcome | None:
    """What is there, where it is what the plan says; raises ``SetupError`` where somebody changed it since."""
    record = home.record()
    if options.repair or record is None or record.fingerprint != fingerprint(plan) or record.own != _own(options, plan):
        return None
    if options.record and options.record.packages != record.packages:
        return None
    if changed := record.changed(home.env):
        shown = ", ".join(changed[:5]) + (f" and {len(changed) - 5} more" if len(changed) > 5 else "")
        mend = command_line("dlenv", "setup", "--repair", "--env", home.env)
        raise SetupError(f"{home.env} is no longer as it was built: {shown}; mend it by: {mend}")
    return Outcome(environment=home.env, python=executable(home.env), changed=False, record=record)


def _tidy(home: Home) -> None:
    for path in home.unfinished():
        say(f"Removing {path}, which an interrupted setup left")
        remove(path)


def _own(options: Options, plan: Plan) -> tuple[str, ...]:
    """Which dlenv belongs into the environment: the one in the offline folder, else the running one."""
    return options.record.own if options.offline and options.record else own.identity(plan.extras)


def _built(path: Path, options: Options, machine: Machine, plan: Plan, create: Create) -> Record:
    found = sources.find(plan, options, machine)
    for note in found.notes:
        say(note)
    began = time.monotonic()
    say(f"Building {path} with Python {plan.python}")
    with tempfile.TemporaryDirectory(prefix="dlenv-") as scratch:
        python, source, packages, notes = _filled(path, options, plan, found, create, Path(scratch))
        if plan.extras:
            own.install(python, source, Path(scratch))
    say(f"Installed {len(packages)} packages in {time.monotonic() - began:.0f} s; proving that they work together")
    report = prove(python, plan, source.candidate)
    record = Record(
        dlenv=__version__,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        built=str(path),
        request=options.request,
        machine=machine.impersonal(),
        plan=plan,
        torch=source.candidate,
        packages=tuple(packages),
        own=_own(options, plan),
        notes=(*found.notes, *notes),
        proof=report.to_json(),
    )
    record.write(path)
    if plan.course:
        kernel.register(options.env, path)
    return record


def _filled(
    path: Path, options: Options, plan: Plan, found: Sources, create: Create, scratch: Path
) -> tuple[Path, Source, Sequence[Package], list[str]]:
    """Make and fill the environment from the first source that works; its Python, what was taken, what failed."""
    failures: list[str] = []
    for source in found.packages:
        remove(path)  # what a source that failed has left in it would be on no record
        python = create(path, plan.python, options.env.name, found)
        say(f"Installing torch {source.candidate.torch} ({source.candidate.build}) from {source.label}")
        try:
            expected = None
            packed = repacked.wheels(plan, source, scratch)
            if options.record:
                packages = options.record.packages
            else:
                needs = own.requirements(plan.extras) if plan.extras else []
                locked = install.lock(
                    ["--python", python],
                    plan,
                    source,
                    scratch,
                    requirements=[*needs, *packed.requirements],
                    constraints=own.constraints(plan) if plan.extras else [],
                    wheels=packed.folder,
                )
                packages, expected = locked.packages, locked.size
                size = f", {locked.size / 1e6:,.0f} MB to download at most" if locked.size else ""
                say(f"Resolved {len(packages)} packages{size}")
                if expected and (warning := room.check(expected, path.parent, source.environment)):
                    say(f"Warning: {warning}")
            # A service is many processes that import much. Without bytecode each compiles it anew wherever it can't be
            # kept (PYTHONDONTWRITEBYTECODE, a folder of another user): 30 s of CPU time at each start, 12 s with it.
            compiled = "serve" in plan.extras
            install.install(python, packages, source, scratch, size=expected, compiled=compiled, wheels=packed.folder)
        except uv.Failed as error:
            failures.append(f"{source.label}: {error}")
            say(f"{source.label} did not do: {error}")
            if isinstance(error, uv.Hopeless):
                break
        else:
            return python, source, packages, [*failures, *packed.problems]
    why = "; ".join(failures) or "no source has them"
    if options.request.build and not options.record:
        raise SetupError(
            f"the packages could not be installed: {why}; --build {options.request.build} allows no other build of "
            "PyTorch: --build auto takes one that can be had here"
        )
    raise SetupError(f"the packages could not be installed: {why}")
