"""Colab and Kaggle: the course is added to the Python that the notebooks run in, and nothing that is there changes.

The sites' packages are made to fit each other: another numpy under a loaded torch or pandas breaks the session
(googlecolab/colabtools#5205), and d2l asks for a numpy and a pandas from 2021, which can't even be built there
(d2l-ai/d2l-pytorch-colab#5). So d2l comes without what it asks for, what else is missing comes at versions that leave
every installed package as it is, and afterwards that is checked.

uv installs into the Python that it is given, virtual environment or not
(https://docs.astral.sh/uv/pip/environments/#using-arbitrary-python-environments). ``--break-system-packages`` is for
sites that mark their Python as managed by the system (PEP 668): a runtime there is thrown away after use.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path

import msgspec
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from dlenv import __version__
from dlenv.catalog.courses import courses
from dlenv.console import say
from dlenv.environment.distributions import installed
from dlenv.environment.record import Package, Record, fingerprint
from dlenv.errors import ProofFailed, SetupError, UsageError
from dlenv.machine import Machine
from dlenv.managers import uv
from dlenv.managers.source import Source
from dlenv.plan import Plan
from dlenv.probe import Report
from dlenv.setup import own, proof, sources
from dlenv.setup.model import Options, Outcome

# The site itself is what notebooks are opened with.
_FRONT_ENDS = {"jupyter", "jupyterlab", "notebook"}
_LOOK_LIMIT_S = 60  # the first start of a Python on a cold, shared disk


class _Place(msgspec.Struct, frozen=True, kw_only=True):
    """A Python and what is installed for it."""

    prefix: Path
    packages: dict[str, str]  # canonical name -> version, of the copy that Python finds first


def apply(options: Options, machine: Machine, plan: Plan, python: Path = Path(sys.executable)) -> Outcome:
    """Add the course, and what ``plan`` names of dlenv's extras, to ``python``, and prove that it works.

    What is in place already is left alone, and a second run changes nothing. Raises ``UsageError`` anywhere but on
    Colab and Kaggle, ``SetupError`` where the course can't be had or an installed package is not as it was, and
    ``ProofFailed``; both name the commands that undo what was done.
    """
    if not (machine.colab or machine.kaggle):
        raise UsageError(
            "--manager colab changes the Python that it runs in: only on Colab and Kaggle; use --manager uv"
        )
    before = _look(python)
    if "torch" not in before.packages:
        raise SetupError(
            f"{python} has no torch, so it is not the Python that notebooks run in; install dlenv there, by a cell "
            "that says %pip install dlenv, and run it from there"
        )
    if outcome := _unchanged(options, plan, python, before):
        return outcome
    found = sources.find(plan, options, machine)
    for note in found.notes:
        say(note)
    attempts = list(_distinct(found.packages))
    problems: list[str] = []
    course = _course(plan, before.packages)
    if course:
        say(f"Adding {course} without the packages that it asks for")
        if failures := _install(python, ["--no-deps", course], attempts):
            raise SetupError(f"{course} could not be installed: {failures}")
    if missing := _missing(plan, before.packages):
        say(f"Adding {', '.join(lines[0] for lines in missing)}, and changing nothing for it")
        problems = _add(python, missing, list(_pins(before.packages, leave_out=course)), attempts)
    after = _look(python)
    undo = _undo(python, before.packages, after.packages)
    _check(before.packages, after.packages, course, undo)
    report = _prove(python, plan, undo)
    notes = list(found.notes)
    if course and _name(course) in before.packages:
        notes.append(
            f"{_name(course)} was {before.packages[_name(course)]}: a notebook that has imported it goes on with that "
            "until its session is restarted (Colab: Runtime > Restart session)"
        )
        say(notes[-1])
    record = Record(
        dlenv=__version__,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        request=options.request,
        machine=machine,
        plan=plan,
        torch=plan.torch,
        packages=tuple(_kept(plan, before.packages, after.packages)),
        own=own.identity(plan.extras),
        notes=tuple(notes),
        proof=report.to_json(),
    )
    if not problems:  # else the next run tries again
        with contextlib.suppress(OSError):  # not every site lets its users write there; then the next run proves again
            record.write(after.prefix)
    return Outcome(
        environment=after.prefix,
        python=python,
        changed=before.packages != after.packages,
        record=record,
        problems=tuple(problems),
    )


def _look(python: Path) -> _Place:
    """What is installed for ``python``; raises ``SetupError`` where it can't be run."""
    code = "import json, sys; print(json.dumps([sys.prefix, sys.path]))"
    try:
        done = subprocess.run([python, "-c", code], capture_output=True, check=True, text=True, timeout=_LOOK_LIMIT_S)
        prefix, path = json.loads(done.stdout.splitlines()[-1])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError) as error:
        raise SetupError(f"{python} can't be run ({error})") from None
    packages: dict[str, str] = {}
    for found in installed(entry for entry in path if entry):  # "" is the folder that we happen to be in
        packages.setdefault(found.name, found.version or "unknown")
    return _Place(prefix=Path(prefix), packages=packages)


def _unchanged(options: Options, plan: Plan, python: Path, place: _Place) -> Outcome | None:
    """What an earlier run did, where it is still so."""
    record = Record.read(place.prefix)
    if options.repair or record is None or record.fingerprint != fingerprint(plan):
        return None
    if record.own != own.identity(plan.extras) or _course(plan, place.packages):
        return None
    if any(place.packages.get(package.name) != package.version for package in record.packages):
        return None
    return Outcome(environment=place.prefix, python=python, changed=False, record=record)


def _course(plan: Plan, packages: Mapping[str, str]) -> str | None:
    """The requirement on the course's package, where it is not met."""
    if plan.course is None or _meets(packages, plan.course.package):
        return None
    return plan.course.package


def _missing(plan: Plan, packages: Mapping[str, str]) -> list[tuple[str, ...]]:
    """What else is missing, each as requirements of which the first that fits is taken.

    Of the course's packages the version that its notebooks are proven with, else any: another one may do as well
    beside packages that are not those it was proven with.
    """
    wanted = [line for line in own.requirements(plan.extras) if not _meets(packages, line)] if plan.extras else []
    known = {*packages, *map(_name, wanted)}
    of_course = [(line, _free(line)) for line in _stack(plan) if _name(line) not in known]
    return [*of_course, *((line,) for line in wanted)]


def _free(line: str) -> str:
    """The requirement without its version."""
    requirement = Requirement(line)
    return requirement.name + (f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else "")


def _stack(plan: Plan) -> list[str]:
    """The packages that the course's notebooks are run with, but for what opens them."""
    if plan.course is None:
        return []
    recipe = courses()[plan.course.edition]
    stack = recipe.stack(plan.python) or recipe.stacks[-1]
    return [line for line in stack.packages if _name(line) not in _FRONT_ENDS]


def _meets(packages: Mapping[str, str], line: str) -> bool:
    """Whether the requirement is met, or is none on this system."""
    requirement = Requirement(line)
    if requirement.marker and not requirement.marker.evaluate():
        return True
    version = _parsed(packages.get(canonicalize_name(requirement.name)))
    # The packages of an extra are not looked at: the installer does that.
    return version is not None and not requirement.extras and requirement.specifier.contains(version, prereleases=True)


def _parsed(version: str | None) -> Version | None:
    """None for none, and for what packages of the system may have: versions of the system's own kind."""
    with contextlib.suppress(InvalidVersion):
        return Version(version) if version else None
    return None


def _pins(packages: Mapping[str, str], leave_out: str | None) -> Iterator[str]:
    """Constraints that hold every installed package at its version, but the one that is to be another."""
    for name, version in packages.items():
        if leave_out and name == _name(leave_out):
            continue
        if parsed := _parsed(version):
            yield f"{name}=={parsed}"


def _distinct(attempts: Sequence[Source]) -> Iterator[Source]:
    """Each package index once: they are listed for every build of PyTorch, which is not installed here."""
    seen: list[tuple[Mapping[str, str], Path | None]] = []
    for source in attempts:
        if (source.environment, source.folder) not in seen:
            seen.append((source.environment, source.folder))
            yield source


def _add(
    python: Path, missing: Sequence[tuple[str, ...]], pins: Sequence[str], attempts: Sequence[Source]
) -> list[str]:
    """Add what can be had beside ``pins``, together or else one by one; what can't, with the reason."""
    problems = []
    with tempfile.TemporaryDirectory(prefix="dlenv-") as scratch:
        constraints = Path(scratch, "installed.txt")
        constraints.write_text("\n".join(pins) + "\n", encoding="utf-8")
        beside = ["--constraint", str(constraints)]
        if _install(python, [*beside, *(lines[0] for lines in missing)], attempts) is None:
            return []
        for lines in missing:
            for line in lines:
                failures = _install(python, [*beside, line], attempts)
                if failures is None:
                    break
            else:
                problems.append(
                    f"{lines[-1]} can't be added without changing what is installed ({failures}); "
                    f"at your own risk: {python} -m pip install '{lines[0]}'"
                )
    return problems


def _install(python: Path, words: Sequence[str], attempts: Sequence[Source]) -> str | None:
    """Install from the first source that does; None, or what each of those came to that were tried."""
    failures = []
    for source in attempts:
        offline = ["--no-index", "--find-links", str(source.folder)] if source.folder else []
        try:
            uv.run(
                ["pip", "install", "--python", python, "--break-system-packages", "--no-build", *offline, *words],
                source.environment,
                show=True,
            )
        except uv.Failed as error:
            failures.append(f"{source.label}: {error}")
            if isinstance(error, uv.Hopeless):
                break
        else:
            return None
    return "; ".join(failures) or "there is no source for it"


def _check(before: Mapping[str, str], after: Mapping[str, str], course: str | None, undo: str) -> None:
    """Raise ``SetupError`` where an installed package is not as it was."""
    changed = [
        f"{name} was {version} and is {after.get(name, 'gone')}"
        for name, version in before.items()
        if after.get(name) != version and not (course and name == _name(course))
    ]
    if changed:
        raise SetupError(
            f"{', '.join(changed)}, although nothing that was there may change; undo it by a new runtime (Colab: "
            f"Runtime > Disconnect and delete runtime), or by: {undo}"
        )


def _undo(python: Path, before: Mapping[str, str], after: Mapping[str, str]) -> str:
    """The commands that bring ``before`` back."""
    added = [name for name in after if name not in before]
    others = [f"{name}=={version}" for name, version in before.items() if after.get(name) != version]
    commands = [f"{python} -m pip uninstall --yes {' '.join(added)}"] if added else []
    commands += [f"{python} -m pip install --no-deps --force-reinstall {' '.join(others)}"] if others else []
    return " && ".join(commands)


def _prove(python: Path, plan: Plan, undo: str) -> Report:
    """Try what is there now, telling each step; raises ``ProofFailed``."""
    say("Proving that it works")
    report, faults = proof.tried(python, plan)
    if faults:
        added = f"; what was added can be taken away by: {undo}" if undo else ""
        raise ProofFailed(f"the course does not work here ({faults}){added}")
    return report


def _kept(plan: Plan, before: Mapping[str, str], after: Mapping[str, str]) -> Iterator[Package]:
    """What the course is made of here: what was added, and what of its packages was there."""
    names = {"torch", "torchvision", *map(_name, _stack(plan)), *(name for name in after if name not in before)}
    if plan.course:
        names.add(_name(plan.course.package))
    for name in sorted(names & after.keys()):
        yield Package(name=name, version=after[name])


def _name(requirement: str) -> str:
    return canonicalize_name(Requirement(requirement).name)
