"""Commands that put an environment right."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from dlenv.catalog.courses import Stack, courses
from dlenv.doctor.facts import Facts
from dlenv.doctor.model import Repair, Step
from dlenv.plan.model import Candidate, Edition

__all__ = ["edition", "install", "newer", "pinned", "python_minor", "remove", "run_python", "stack", "torch"]

# The names under which packages are imported, where they are not those under which they are installed.
_DISTRIBUTIONS = {"PIL": "pillow", "IPython": "ipython", "mpl_toolkits": "matplotlib", "google": "protobuf"}


def install(facts: Facts, *requirements: str, again: tuple[str, ...] = (), words: tuple[str, ...] = ()) -> Repair | str:
    """Install these requirements with uv; ``again`` names packages to be installed anew in any case.

    An environment that dlenv built is built again instead: beside the old one, and proven. A Python that belongs to no
    environment may be the system's own, so that the command is only told.
    """
    if facts.record is not None and facts.target.env is not None:
        command = (sys.executable, "-m", "dlenv", "setup", "--repair", "--env", str(facts.target.env), "--yes")
        return Repair.of(command)
    reinstall = [f"--reinstall-package={name}" for name in again]
    target = ("--python", str(facts.target.python))
    repair = Repair.of((_uv(), "pip", "install", *target, *words, *reinstall, *requirements))
    return repair if facts.target.env is not None else str(repair)


def newer(*packages: str) -> tuple[str, ...]:
    """Options by which uv takes the newest of these packages, and leaves all others."""
    return tuple(word for name in packages for word in ("--upgrade-package", name))


def torch(facts: Facts) -> Repair | str:
    """Install the PyTorch that fits this machine, with its torchvision, from one index that answers."""
    candidate = _candidate(facts)
    if candidate is None:
        return "dlenv setup --dry-run"
    requirements = (f"torch=={candidate.torch}", f"torchvision=={candidate.torchvision}")
    words: tuple[str, ...] = ()
    if candidate.index is not None:
        # The local part keeps the package index's own wheel of the same version out.
        requirements = tuple(f"{requirement}+{candidate.build}" for requirement in requirements)  # type: ignore[assignment]
        words = ("--index", candidate.index)
    return install(facts, *requirements, again=("torch", "torchvision"), words=words)


def run_python(facts: Facts, *words: str) -> Repair | str:
    """Run the environment's own Python with these words."""
    repair = Repair.of((str(facts.target.python), *words))
    return repair if facts.target.env is not None else str(repair)


def remove(facts: Facts, *paths: str) -> Repair | str:
    """Remove these paths, which are no other environment's."""
    repair = Repair(steps=tuple(Step(remove=path) for path in paths))
    env = facts.target.env
    # What lies in the folder counts, not what it is called: of a link that leads outside, only the link is removed.
    if env is not None and all(Path(path).parent.resolve().is_relative_to(env.resolve()) for path in paths):
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
    dead = {point.purpose for point in facts.endpoints or () if not point.ok}
    if "pytorch" in dead:
        return next((candidate for candidate in candidates if candidate.index is None), candidates[0])
    return candidates[0]


def _uv() -> str:
    if shutil.which("uv"):
        return "uv"
    import uv

    try:
        return str(uv.find_uv_bin())
    except FileNotFoundError:
        return "uv"
