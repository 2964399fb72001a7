"""``dlenv setup --download``: everything that a machine without network needs, in one folder."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

import msgspec

from dlenv import __version__, folders
from dlenv.console import echo, say
from dlenv.environment.record import Package, Record
from dlenv.errors import DataError, DlenvError, SetupError, Unreachable, UsageError
from dlenv.machine import Machine
from dlenv.managers import install, uv
from dlenv.managers.source import Source, Sources
from dlenv.network.download import digest
from dlenv.network.mirrors import choose
from dlenv.plan import Plan
from dlenv.setup import interpreter, own, readme, repacked, sources, targets, wheels
from dlenv.setup.model import Options
from dlenv.setup.offline import NOTEBOOKS, WHEELS, Contents, File
from dlenv.setup.targets import Target

# What dlenv runs on, so that a machine with any of them can start from the folder.
_PYTHONS = ("3.10", "3.11", "3.12", "3.13")


def fill(folder: Path, options: Options, machine: Machine, plan: Plan) -> Contents:
    """Put into ``folder`` what ``plan`` needs on ``machine``; what is there from an earlier run is kept.

    The list of contents comes last, so that a folder which is only half filled is known as such. An interpreter or
    notebooks that can't be had are in its ``problems``: the rest is of use without them.

    Raises ``UsageError`` where nothing can be downloaded for such a machine or plan, ``SetupError`` where there are no
    fitting wheels, ``Unreachable`` where they can't be had, ``DataError`` where the folder can't be written.
    """
    if plan.manager != "uv":
        raise UsageError(f"--download fills a folder for --manager uv, and the plan is for {plan.manager}")
    target = targets.target(machine, plan.python)
    before = _before(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        found = sources.find(plan, options, machine)
        for note in found.notes:
            say(note)
        problems: list[str] = []
        with tempfile.TemporaryDirectory(prefix="dlenv-") as scratch:
            source, packages, files = _packages(folder, options, plan, found, target, Path(scratch), problems)
            pythons, base = _own(folder, source, target, Path(scratch))
            files += base
            needs = own.requirements(plan.extras) if plan.extras else []
        files += _python(folder, options, target, problems)
        notebooks = _notebooks(folder, plan, before, problems)
        contents = Contents(
            record=Record(
                dlenv=__version__,
                created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
                request=options.request,
                machine=machine,
                plan=plan,
                torch=source.candidate,
                packages=tuple(packages),
                own=(f"dlenv=={__version__}", *needs) if plan.extras else (),
                notes=found.notes,
            ),
            files=tuple(
                sorted({file.path: file for file in [*files, *notebooks]}.values(), key=lambda file: file.path)
            ),
            pythons=tuple(pythons),
            notebooks=notebooks[0].path if notebooks else None,
            problems=tuple(problems),
        )
        readme.write(folder, contents)
        contents.write(folder)
        for old in {file.path for file in (before.files if before else ())} - {file.path for file in contents.files}:
            (folder / old).unlink(missing_ok=True)
    except OSError as error:
        raise DataError(f"{folder} can't be filled ({error.strerror or error})") from None
    return contents


def show(folder: Path, contents: Contents) -> None:
    """Print what is in the folder, what is not, and how to go on."""
    record = contents.record
    echo(
        f"{folder} is for {targets.describe(record.machine)}: torch {record.torch.torch} ({record.torch.build}), "
        f"Python {record.plan.python}, {len(contents.files)} files, {contents.size / 1e6:,.0f} MB"
    )
    for problem in contents.problems:
        echo(f"Not done: {problem}; the same command tries again, and keeps what is there")
    echo(f"Take the folder there; how to go on is in {folder / 'README.txt'}")


def _before(folder: Path) -> Contents | None:
    try:
        return Contents.read(folder)
    except UsageError:
        return None


def _packages(
    folder: Path, options: Options, plan: Plan, found: Sources, target: Target, scratch: Path, problems: list[str]
) -> tuple[Source, Sequence[Package], list[File]]:
    """The wheels of the environment, from the first source that gives all of them."""
    needs = own.requirements(plan.extras) if plan.extras else []
    bounds = own.constraints(plan) if plan.extras else []
    if options.record:
        bounds = [f"{package.name}=={package.version}" for package in options.record.packages]
    failures = []
    for source in found.packages:
        say(f"Resolving torch {source.candidate.torch} ({source.candidate.build}) from {source.label}")
        try:
            packed = repacked.wheels(plan, source, scratch)
            locked = install.lock(
                _interpreter(target),
                plan,
                msgspec.structs.replace(source, environment={**source.environment, **target.environment}),
                scratch,
                requirements=[*needs, *packed.requirements],
                constraints=bounds,
                wheels=packed.folder,
            )
            wanted = wheels.chosen(locked.file, target)
            size = f", {locked.size / 1e6:,.0f} MB" if locked.size else ""
            say(f"Resolved {len(wanted)} packages{size}; fetching them")
            files = wheels.fetched(wanted, folder)
            problems += packed.problems
            return source, locked.packages, files
        except (uv.Failed, SetupError, Unreachable) as error:
            failures.append(f"{source.label}: {error}")
            say(f"{source.label} did not do: {error}")
    raise SetupError(
        f"not all packages could be had: {'; '.join(failures) or 'no source has them'}; what is there is kept: "
        "give the same command again"
    )


def _own(folder: Path, source: Source, target: Target, scratch: Path) -> tuple[list[str], list[File]]:
    """The Pythons that dlenv can be started with there; the running dlenv, and what it needs itself for all of them.

    uv as it is here: the interpreter's archive is the one that this version of uv installs.
    """
    (scratch / "base.in").write_text("\n".join([*own.requirements(()), f"uv=={version('uv')}"]), encoding="utf-8")
    lock = scratch / "pylock.base.toml"
    pythons, files = [], []
    for python in _PYTHONS:
        there = msgspec.structs.replace(target, python=python)
        words = ["pip", "compile", scratch / "base.in", *_interpreter(there), "--no-build", "--quiet"]
        environment = {**source.environment, **target.environment}
        try:
            uv.run([*words, "--format", "pylock.toml", "--output-file", lock], environment, project=scratch)
            chosen = wheels.chosen(lock, there)
        except (uv.Failed, SetupError) as error:
            if python == target.python:
                raise SetupError(f"what dlenv itself needs could not be had: {error}") from None
            continue
        files += wheels.fetched(chosen, folder)
        pythons.append(python)
    built = own.wheel(scratch)
    return pythons, [*files, _put(built, folder, f"{WHEELS}/{built.name}")]


def _python(folder: Path, options: Options, target: Target, problems: list[str]) -> list[File]:
    try:
        mirrors = [mirror.environment() for mirror in choose("python", options.mirror).mirrors]
        return [interpreter.fetched(target, mirrors, folder, say)]
    except (Unreachable, SetupError) as error:
        problems.append(f"Python {target.python}, which that machine has to have already: {error}")
        return []


def _notebooks(folder: Path, plan: Plan, before: Contents | None, problems: list[str]) -> list[File]:
    if plan.course is None:
        return []
    if before and before.archive and before.record.plan.course == plan.course and not before.archive.trouble(folder):
        return [before.archive]
    from dlenv.notebooks.fetch import fetch_notebooks
    from dlenv.notebooks.folder import Manifest

    edition = plan.course.edition
    try:
        with tempfile.TemporaryDirectory(prefix="dlenv-") as scratch:
            fetch_notebooks(edition, Path(scratch) / "notebooks")
            manifest = Manifest.read(Path(scratch) / "notebooks")
    except DlenvError as error:
        problems.append(f"the course's notebooks: {error}")
        return []
    assert manifest is not None
    for archive in sorted((folders.cache() / "notebooks" / edition).iterdir()):
        if archive.is_file() and digest(archive) == manifest.archive:
            return [_put(archive, folder, f"{NOTEBOOKS}/{archive.name}")]
    raise DataError(f"the notebooks' archive is no longer in {folders.cache()}; give the same command again")


def _interpreter(target: Target) -> list[str | Path]:
    """uv's words for resolving for ``target``; the interpreter is only there to run."""
    return ["--python", sys.executable, "--python-version", target.python, "--python-platform", target.platform]


def _put(source: Path, folder: Path, path: str) -> File:
    """Copy a file to ``path`` below ``folder``, whole or not at all."""
    place = folder / path
    place.parent.mkdir(exist_ok=True)
    scratch = place.with_name(f"{place.name}.tmp")
    shutil.copyfile(source, scratch)
    scratch.replace(place)
    return File(path=path, size=place.stat().st_size, sha256=digest(place))
