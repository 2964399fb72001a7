"""What is installed: once, whole, fitting together, as dlenv left it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from packaging.markers import UndefinedComparison, UndefinedEnvironmentName
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from dlenv.console import command_line
from dlenv.doctor import remedy, shell
from dlenv.doctor.facts import Facts
from dlenv.doctor.model import Repair, Verdict, fail, ok, skip, warn
from dlenv.environment.distributions import Distribution, site_packages

# Without these nothing of the course runs; for others a second copy is untidy.
_VITAL = ("torch", "torchvision", "numpy", "d2l", "matplotlib", "pandas")
# d2l pins versions from 2021, which no longer install or import; these are right to differ (compat: the course).
_COURSE = "d2l"


def duplicates(facts: Facts) -> Verdict:
    """Whether a package is installed twice, so that its parts come from two versions."""
    assert facts.distributions is not None
    names = sorted({item.name for item in facts.distributions})
    twice = [name for name in names if len(facts.copies(name)) > 1]
    if not twice:
        return ok(f"{len(names)} packages, each once")
    bad = [name for name in twice if not _by_design(facts, facts.copies(name))]
    if not bad:
        said = "; ".join(_places(facts.copies(name)) for name in twice[:5])
        return ok(f"{len(names)} packages; Python takes the first copy, as it should: {said}")
    said = "; ".join(_places(facts.copies(name)) for name in bad[:5])
    # Two notes of one package in one folder: an installation that was cut off.
    cut = [name for name in bad if len({item.location for item in facts.copies(name)}) == 1]
    if cut:
        notes = [item.metadata for name in cut for item in facts.copies(name)]
        fix = _anew(facts, notes, remedy.install(facts, *_wanted(facts, cut), again=tuple(cut)))
    else:
        fix = _away(facts, bad)
    return (fail if any(name in _VITAL for name in bad) else warn)(said, fix)


def conda_mix(facts: Facts) -> Verdict:
    """Whether conda and pip both installed PyTorch into one environment."""
    if not facts.conda:
        return skip("this is no conda environment")
    by_conda = {item.name: item for item in facts.conda}
    conda = by_conda.get("pytorch") or by_conda.get("pytorch-gpu") or by_conda.get("pytorch-cpu")
    # conda's packages say so, or say nothing.
    pip = [item for item in facts.copies("torch") if item.installer not in (None, "conda")]
    if conda is None or not pip:
        return ok("PyTorch has one installer")
    text = f"conda installed pytorch {conda.version}, and {pip[0].installer} torch {pip[0].version} over it"
    removal = command_line("conda", "remove", "--prefix", facts.target.env, "--force", conda.name)
    return fail(text, f"{removal} && {remedy.torch(facts)}")


def requirements(facts: Facts) -> Verdict:
    """Whether every package has what it declares to need, as `pip check` asks; d2l's own pins are excused."""
    assert facts.distributions is not None
    problems: list[str] = []
    vital: list[str] = []
    asked: dict[str, dict[str, SpecifierSet]] = {}  # package -> who asks for it -> in which versions
    unmet: dict[str, None] = {}
    excused = 0
    for item, requirement in _requirements(facts):
        name = canonicalize_name(requirement.name)
        asking = asked.setdefault(name, {})
        if item.name != _COURSE:
            asking[item.name] = asking.get(item.name, SpecifierSet()) & requirement.specifier
        found = facts.version(name)
        if found is not None and _fits(requirement.specifier, found):
            continue
        if item.name == _COURSE and found is not None:
            excused += 1
            continue
        have = f"has {found}" if found else "lacks it"
        problems.append(f"{item.name} {item.version} needs {_without_marker(requirement)}, and the environment {have}")
        unmet[name] = None
        if item.name in _VITAL and item.name != _COURSE:
            vital.append(item.name)
    note = f" ({excused} of d2l's pins from 2021 are excused)" if excused else ""
    if not problems:
        return ok(f"every package has what it needs{note}")
    said = "; ".join(problems[:8]) + (f" and {len(problems) - 8} more" if len(problems) > 8 else "") + note
    return (fail if vital else warn)(said, _fulfilment(facts, {name: asked[name] for name in unmet}))


def files(facts: Facts) -> Verdict:
    """Whether the files of the important packages are all there."""
    assert facts.distributions is not None
    broken: dict[str, str] = {}
    unreadable: list[str] = []
    for item in facts.distributions:
        if facts.target.env is not None and not _inside(facts.target.env, item.location):
            continue  # the system's, which is not the environment's to mend
        if item.version is None:
            broken[item.name] = f"{Path(item.metadata).name} has no metadata"
            unreadable.append(item.metadata)
        elif (item.name in _VITAL or item.name.startswith("nvidia-")) and (gone := item.missing_files()):
            broken[item.name] = f"{item.name} {item.version} lacks {len(gone)} files, among them {gone[0].name}"
    left = [entry for folder in _folders(facts) for entry in _leftovers(folder)]
    if broken:
        names = tuple(broken)
        fix = remedy.install(facts, *_wanted(facts, names), again=names)
        return fail("; ".join(broken.values()), _anew(facts, unreadable, fix) if unreadable else fix)
    if left:
        text = f"an installation was interrupted: {', '.join(entry.name for entry in left[:5])} is left"
        return warn(text, remedy.remove(facts, *map(str, left)))
    return ok("the files of the important packages are there")


def record(facts: Facts) -> Verdict:
    """Whether the packages are those that dlenv installed and proved."""
    if facts.record is None or facts.target.env is None:
        return skip("dlenv did not build this environment")
    env = facts.target.env
    changed, added = facts.record.changed(env), facts.record.added(env)
    if changed:
        text = f"{'; '.join(changed[:5])}{f' and {len(changed) - 5} more' if len(changed) > 5 else ''}"
        return fail(f"changed since dlenv proved it: {text}", remedy.install(facts))
    note = f"; added since: {', '.join(added[:5])}{' and more' if len(added) > 5 else ''}" if added else ""
    return ok(f"{len(facts.record.packages)} packages are as they were proven on {facts.record.created}{note}")


def _requirements(facts: Facts) -> Iterator[tuple[Distribution, Requirement]]:
    """Every requirement that holds in this environment, of the copies that Python takes."""
    environment = _markers(facts)
    for name in dict.fromkeys(item.name for item in facts.distributions or ()):
        item = facts.copies(name)[0]
        for text in item.requires:
            try:
                requirement = Requirement(text)
                if requirement.marker is None or requirement.marker.evaluate(environment):
                    yield item, requirement
            except (InvalidRequirement, UndefinedComparison, UndefinedEnvironmentName):
                continue


def _markers(facts: Facts) -> dict[str, str]:
    """The examined Python's marker variables, as far as they may differ from ours."""
    python = facts.found("python")
    version = str(python.get("version") or "3.11.0")
    return {
        "extra": "",
        "python_version": ".".join(version.split(".")[:2]),
        "python_full_version": version,
        "implementation_name": str(python.get("implementation") or "cpython").lower(),
        "platform_python_implementation": str(python.get("implementation") or "CPython"),
        "implementation_version": version,
    }


def _fits(specifier: SpecifierSet, version: str) -> bool:
    try:
        return specifier.contains(Version(version), prereleases=True)
    except InvalidVersion:
        return True


def _fulfilment(facts: Facts, unmet: Mapping[str, Mapping[str, SpecifierSet]]) -> Repair | str:
    """Install these packages in versions that please everyone who asks for them, whoever is displeased now."""
    if "torchvision" in unmet.get("torch", ()):  # the pair; whatever else is missing is installed alone
        return remedy.torchvision(facts)
    wanted = {name: SpecifierSet(",".join(map(str, asking.values()))) for name, asking in unmet.items()}
    odd = [name for name, versions in wanted.items() if not _exists(versions)]
    if odd:  # newer ones of those that ask may agree
        holders = tuple(dict.fromkeys(holder for name in odd for holder in unmet[name]))
        return remedy.install(facts, *holders, words=remedy.newer(*holders))
    # What only d2l asks for, and in a version from 2021, is taken as the course is proven with it.
    pins = remedy.pinned(facts, tuple(unmet))
    return remedy.install(
        facts, *(f"{name}{wanted[name]}" if unmet[name] else pin for name, pin in zip(unmet, pins, strict=True))
    )


def _without_marker(requirement: Requirement) -> str:
    return f"{requirement.name}{requirement.specifier}"


def _places(copies: tuple[Distribution, ...]) -> str:
    return f"{copies[0].name} is there {len(copies)} times: " + ", ".join(
        f"{item.version} in {item.location}" for item in copies
    )


def _wanted(facts: Facts, names: Mapping[str, str] | tuple[str, ...] | list[str]) -> tuple[str, ...]:
    """Requirements that bring these packages back: the newest version that is noted, else the course's."""
    found = dict(zip(names, remedy.pinned(facts, tuple(names)), strict=True))
    for name in names:
        versions = [item.version for item in facts.copies(name) if item.version is not None]
        if versions:
            found[name] = f"{name}=={max(versions, key=_order)}"
    return tuple(found.values())


def _order(version: str) -> Version:
    try:
        return Version(version)
    except InvalidVersion:
        return Version("0")


def _by_design(facts: Facts, copies: tuple[Distribution, ...]) -> bool:
    """Whether the copies that Python does not take stand behind the first as they should: the system's behind the
    environment's (PEP 405's ``include-system-site-packages``), on Debian, Colab and Kaggle the distribution's behind
    pip's (dist-packages). Python takes a package whole from one folder.
    """
    if len({item.location for item in copies}) < len(copies):
        return False
    env = facts.target.env
    if env is None:
        return all(Path(item.location).name == "dist-packages" for item in copies)
    return not any(_inside(env, item.location) for item in copies[1:])


def _inside(env: Path, location: str) -> bool:
    try:
        return Path(location).resolve().is_relative_to(env.resolve())
    except ValueError:  # no file can have this name
        return False


def _away(facts: Facts, names: list[str]) -> str:
    """Take away what leads Python to a second folder; else the environment's copies that it does not take."""
    folders = {item.location for name in names for item in facts.copies(name)}
    if facts.found("python").get("user_site") in folders:
        return shell.export(PYTHONNOUSERSITE=1)
    if folders & set(facts.environ.get("PYTHONPATH", "").split(os.pathsep)):
        return shell.unset("PYTHONPATH")
    env = facts.target.env
    if env is None:
        return shell.setup(facts)
    shadowed: dict[str, list[str]] = {}
    for name in names:
        for folder in dict.fromkeys(item.location for item in facts.copies(name)[1:] if _inside(env, item.location)):
            shadowed.setdefault(folder, []).append(name)
    python = ("--python", facts.target.python)
    return " && ".join(
        shell.uv("pip", "uninstall", *python, "--target", folder, *found) for folder, found in shadowed.items()
    )


def _exists(wanted: SpecifierSet) -> bool:
    """Whether some version satisfies this: one of those that it names, or one just above it, or the first."""
    named = [part.version.removesuffix(".*") for part in wanted]
    return any(_fits(wanted, version) for version in ("0", *named, *(f"{version}.1" for version in named)))


def _anew(facts: Facts, notes: list[str], installation: Repair | str) -> Repair | str:
    """Remove what stands in the installer's way, then install; an environment that is built again has nothing of it."""
    if isinstance(installation, Repair) and installation.rebuilds:
        return installation
    dropped = remedy.remove(facts, *notes)
    if isinstance(dropped, Repair) and isinstance(installation, Repair):
        return Repair(steps=(*dropped.steps, *installation.steps))
    return f"{dropped} && {installation}"


def _folders(facts: Facts) -> list[Path]:
    return list(site_packages(facts.target.env)) if facts.target.env else []


def _leftovers(folder: Path) -> list[Path]:
    """What pip renames before it replaces it, and removes afterwards: "~umpy"."""
    try:
        return sorted(entry for entry in folder.iterdir() if entry.name.startswith("~"))
    except OSError:
        return []
