"""The environment's Python, and what leads it to other modules than its own."""

from __future__ import annotations

import os
from pathlib import Path

from dlenv.doctor import remedy, shell
from dlenv.doctor.facts import Facts
from dlenv.doctor.model import Verdict, fail, ok, warn

# What the notebooks import, and beginners call their own files.
_IMPORTED = ("torch", "torchvision", "d2l", "numpy", "pandas", "matplotlib", "PIL", "requests", "scipy", "IPython")
_NEWEST_COURSE = (3, 11)  # pandas 1.5, which the course needs, has no wheel for a newer one (PyPI)


def start(facts: Facts) -> Verdict:
    """Whether the environment's Python starts."""
    assert facts.report is not None
    if facts.report.problem is None:
        python = facts.found("python")
        return ok(f"Python {python.get('version')} of {facts.target.python} ({facts.target.why})")
    env = facts.target.env
    if env is None:
        return fail(facts.report.problem, "name another Python by --python, or an environment by --env")
    text = facts.report.problem
    if home := _home(env):
        text += f"; it was made from the Python in {home}"
        if not Path(home).exists():
            text += ", which is gone"
    if facts.report.too_old:
        return fail(text, shell.setup(facts, "--python", ".".join(map(str, _NEWEST_COURSE))))
    return fail(text, shell.setup(facts, *(("--repair",) if facts.record else ())))


def version(facts: Facts) -> Verdict:
    """Whether PyTorch and the course have packages for this Python."""
    assert facts.report is not None
    found = facts.found("python")
    minor = remedy.python_minor(facts)
    if minor is None:
        return fail(facts.report.problem or "the Python did not say its version", "see python.start")
    another = shell.setup(facts, "--python", ".".join(map(str, _NEWEST_COURSE)))
    if found.get("bits") != 64:
        return fail(f"Python {minor} for 32 bits: PyTorch has wheels for 64-bit ones only", another)
    if found.get("implementation") != "CPython":
        return fail(f"{found.get('implementation')} {minor}: PyTorch has wheels for CPython only", another)
    from dlenv import catalog

    offered = {python for build in catalog.load().builds for python in build.python}
    newest = next(build for build in catalog.load().builds)
    if minor not in offered:
        return fail(f"Python {minor}: no torch that dlenv knows has wheels for it", another)
    number = tuple(map(int, minor.split(".")))
    if facts.version("d2l") and number > _NEWEST_COURSE:
        return warn(
            f"Python {minor}: a few of the course's notebooks need packages that end with Python 3.11",
            another,
        )
    if minor not in newest.python:
        last = next(build.torch for build in catalog.load().builds if minor in build.python)
        return warn(f"Python {minor}: torch {last} is the last one with wheels for it", another)
    return ok(f"Python {minor}, which torch {newest.torch} has wheels for")


def shadowing(facts: Facts) -> Verdict:
    """Whether files in the current folder stand before packages of the same name."""
    try:
        names = {entry.name for entry in facts.folder.iterdir()}
    except OSError as error:
        return ok(f"the current folder can't be read ({error.strerror})")
    found = [f"{name}.py" for name in _IMPORTED if f"{name}.py" in names]
    # A folder is taken before the installed package only where it is one, or has no package of that name behind it.
    found += [f"{name}/" for name in _IMPORTED if (facts.folder / name / "__init__.py").is_file()]
    if not found:
        return ok(f"nothing in {facts.folder} has the name of a package")
    renamed = " && ".join(shell.move(facts.folder / name, facts.folder / f"my_{name}") for name in found)
    text = f"{', '.join(found)} in {facts.folder}: programs and notebooks there import it instead of the package"
    return fail(text, renamed)


def path(facts: Facts) -> Verdict:
    """Whether PYTHONPATH, PYTHONHOME or packages of the user's lead the environment to other packages."""
    if home := facts.environ.get("PYTHONHOME"):
        return fail(f"PYTHONHOME is {home}: Python takes its own modules from there", shell.unset("PYTHONHOME"))
    led = []
    for folder in filter(None, facts.environ.get("PYTHONPATH", "").split(os.pathsep)):
        here = [name for name in _IMPORTED if (Path(folder) / name).is_dir() or (Path(folder) / f"{name}.py").is_file()]
        if here:
            led.append(f"{', '.join(here)} come from {folder}")
    if led:
        return fail(f"PYTHONPATH: {'; '.join(led)}, not from the environment", shell.unset("PYTHONPATH"))
    user = facts.found("python").get("user_site")
    foreign = [item.name for item in facts.distributions or () if user is not None and item.location == user]
    if foreign and facts.target.env is not None:
        text = f"{len(foreign)} packages come from {user}, among them {', '.join(foreign[:5])}"
        return warn(text, shell.export(PYTHONNOUSERSITE=1))
    return ok("packages come from the environment only")


def _home(env: Path) -> str | None:
    """Where the Python lies that a virtual environment was made from (PEP 405)."""
    try:
        lines = (env / "pyvenv.cfg").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    settings = {key.strip(): value.strip() for key, _, value in (line.partition("=") for line in lines)}
    return settings.get("home")
