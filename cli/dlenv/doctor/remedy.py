"""Commands that put an environment right."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from dlenv import catalog
from dlenv.catalog.courses import Stack, courses
from dlenv.console import command_line
from dlenv.doctor.facts import Facts
from dlenv.doctor.model import Repair, Step
from dlenv.environment.record import Record
from dlenv.notebooks import folder
from dlenv.plan.model import Candidate, Edition

__all__ = [
    "asked",
    "edition",
    "install",
    "newer",
    "pinned",
    "python_minor",
    "remove",
    "run_python",
    "stack",
    "torch",
    "torchvision",
]

# The names under which packages are imported, where they are not those under which they are installed.
_DISTRIBUTIONS = {"PIL": "pillow", "IPython": "ipython", "mpl_toolkits": "matplotlib", "google": "protobuf"}
# Names of conda's packages where they differ. PyTorch's versions are not those of the wheels: conda's solver has to
# choose the pair.
_CONDA = {"torch": "pytorch", "torchvision": "torchvision"}
_NOT_OF_CONDA = {"d2l"}
_AS_PLANNED = ("--build", "auto", "--torch", "auto", "--gpu", "auto")


def install(facts: Facts, *requirements: str, again: tuple[str, ...] = (), words: tuple[str, ...] = ()) -> Repair | str:
    """Install these requirements with uv; ``again`` names packages to be installed anew in any case.

    Where they are of those that dlenv put into an environment, or none are named, that is built again instead: beside
    the old one, and proven. What conda manages, and a Python that belongs to no environment and may be the system's
    own, is not changed: the command is only told.
    """
    if facts.record is not None and facts.target.env is not None:
        ours = {package.name for package in facts.record.packages}
        if not requirements or ours & {*map(_name, requirements), *again}:
            return _rebuild(facts, facts.target.env, facts.record)
    elif facts.target.kind == "conda":
        return _by_conda(facts, requirements, again, words)
    repair = _by_uv(facts, requirements, again, words)
    return repair if facts.target.is_changeable else str(repair)


def _by_uv(facts: Facts, requirements: Iterable[str], again: Iterable[str], words: Iterable[str]) -> Repair:
    reinstall = [f"--reinstall-package={name}" for name in again]
    target = ("--python", str(facts.target.python))
    return Repair.of((_uv(), "pip", "install", *target, *words, *reinstall, *requirements))


def _by_conda(facts: Facts, requirements: Sequence[str], again: Sequence[str], words: Sequence[str]) -> str:
    """What is to be typed: each package goes to its own installer, which knows what else it has installed."""
    if facts.target.root:
        return command_line("dlenv", "setup", "--env", facts.folder.absolute() / ".venv")
    by_pip = {item.name for item in facts.distributions or () if item.installer in ("pip", "uv")} | _NOT_OF_CONDA
    of_pip = [requirement for requirement in requirements if _name(requirement) in by_pip]
    of_conda = [
        _CONDA.get(_name(requirement), requirement) for requirement in requirements if requirement not in of_pip
    ]
    commands = []
    if of_conda:
        is_there = any(facts.copies(name) for name in again if name not in by_pip)
        anew = ["--force-reinstall"] if is_there else []
        commands.append(command_line("conda", "install", "--prefix", facts.target.env, *anew, *of_conda))
    if of_pip:
        commands.append(str(_by_uv(facts, of_pip, [name for name in again if name in by_pip], words)))
    return " && ".join(commands)


def _rebuild(facts: Facts, env: Path, record: Record, *wishes: str) -> Repair:
    """Build again what dlenv built; ``wishes`` take the place of what it was asked for."""
    words = ["--repair", "--env", str(env), "--yes", *wishes]
    if record.plan.course is not None and record.notebooks is None:  # by default in the folder that it is run in
        words += ["--notebooks", str(facts.folder.absolute() / folder.default(record.plan.course.edition))]
    added = ", ".join(record.added(env))
    note = f"the new environment is without what was installed into it later: {added}" if added else ""
    return Repair.of((sys.executable, "-m", "dlenv", "setup", *words), note=note)


def newer(*packages: str) -> tuple[str, ...]:
    """Options by which uv takes the newest of these packages, and leaves all others."""
    return tuple(word for name in packages for word in ("--upgrade-package", name))


def torch(facts: Facts, *, replan: bool = False) -> Repair | str:
    """Install the PyTorch that fits this machine, with its torchvision, from one index that answers.

    ``replan``: what an environment of dlenv's was asked for is what does not fit.
    """
    candidate = _candidate(facts)
    if candidate is None:
        return "dlenv setup --dry-run"
    if replan and facts.record is not None and facts.target.env is not None:
        return _rebuild(facts, facts.target.env, facts.record, *_AS_PLANNED)
    requirements = (f"torch=={candidate.torch}", f"torchvision=={candidate.torchvision}")
    words: tuple[str, ...] = ()
    if candidate.index is not None:
        # The local part keeps the package index's own wheel of the same version out.
        requirements = tuple(f"{requirement}+{candidate.build}" for requirement in requirements)  # type: ignore[assignment]
        words = ("--index", candidate.index)
    return install(facts, *requirements, again=("torch", "torchvision"), words=words)


def torchvision(facts: Facts) -> Repair | str:
    """Install the torchvision that was made for the torch that runs; both, where none is known."""
    stage, machine = facts.stage("torch"), facts.machine
    if stage is None or stage.status != "ok" or machine is None:
        return torch(facts)
    version, _, local = str(stage.facts.get("version")).partition("+")
    by_index = bool(local) and not _is_dead(facts)
    for build in catalog.load().builds:
        if (build.torch, build.system) != (version, f"{machine.os}-{machine.arch}") or local not in ("", build.build):
            continue
        requirement = f"torchvision=={build.torchvision}"
        if by_index and build.index is not None:
            return install(facts, f"{requirement}+{local}", again=("torchvision",), words=("--index", build.index))
        if not by_index and build.on_package_index:
            return install(facts, requirement, again=("torchvision",))
    return torch(facts)


def asked(facts: Facts) -> str | None:
    """The option by which the user chose the installed build of PyTorch; None where dlenv chose, or somebody later."""
    if facts.record is None:
        return None
    request, built = facts.record.request, facts.record.torch
    version, _, local = str(facts.found("torch").get("version")).partition("+")
    if version != built.torch or local not in ("", built.build):
        return None
    if request.build is not None:
        return f"--build {request.build}"
    if request.gpus == ():
        return "--gpu none"
    return f"--torch {request.torch}" if request.torch is not None else None


def run_python(facts: Facts, *words: str) -> Repair | str:
    """Run the environment's own Python with these words."""
    repair = Repair.of((str(facts.target.python), *words))
    return repair if facts.target.is_changeable else str(repair)


def remove(facts: Facts, *paths: str) -> Repair | str:
    """Remove these paths, which are no other environment's."""
    repair = Repair(steps=tuple(Step(remove=path) for path in paths))
    env = facts.target.env
    # What lies in the folder counts, not what it is called: of a link that leads outside, only the link is removed.
    if (
        env is not None
        and facts.target.is_changeable
        and all(Path(path).parent.resolve().is_relative_to(env.resolve()) for path in paths)
    ):
        return repair
    return str(repair)


def stack(facts: Facts) -> Stack | None:
    """The packages that dlenv would put beside the installed d2l."""
    found, minor = edition(facts), python_minor(facts)
    return courses()[found].stack(minor) if found is not None and minor is not None else None


def edition(facts: Facts) -> Edition | None:
    """The edition of the course whose notebooks the installed d2l runs: 0.17 the Chinese, 1.0 the English."""
    version = facts.version("d2l")
    if version is None:
        return None
    return "zh" if version.startswith("0.") else "en"


def pinned(facts: Facts, names: tuple[str, ...]) -> tuple[str, ...]:
    """Requirements on these packages (import names will do), as the course's stack has them."""
    found = stack(facts)
    wanted = {}
    for text in found.packages if found else ():
        try:
            wanted[canonicalize_name(Requirement(text).name)] = text
        except InvalidRequirement:
            continue
    packages = [canonicalize_name(_DISTRIBUTIONS.get(name, name)) for name in names]
    return tuple(wanted.get(name, name) for name in packages)


def python_minor(facts: Facts) -> str | None:
    """The environment's Python, as the catalog writes it: "3.11"."""
    version = facts.found("python").get("version")
    return ".".join(version.split(".")[:2]) if isinstance(version, str) else None


def _candidate(facts: Facts) -> Candidate | None:
    if facts.plan is None:
        return None
    candidates = (facts.plan.torch, *facts.plan.fallbacks)
    if _is_dead(facts):
        return next((candidate for candidate in candidates if candidate.index is None), candidates[0])
    return candidates[0]


def _is_dead(facts: Facts) -> bool:
    """Whether PyTorch's own index does not answer."""
    return any(
        point.purpose == "pytorch" and not point.ok and point.problem != "unasked" for point in facts.endpoints or ()
    )


def _name(requirement: str) -> str:
    """The canonical name of the package that is required."""
    match = re.match(r"[\w.-]+", requirement)
    return canonicalize_name(match[0]) if match else requirement


def _uv() -> str:
    if shutil.which("uv"):
        return "uv"
    import uv

    try:
        return str(uv.find_uv_bin())
    except FileNotFoundError:
        return "uv"
