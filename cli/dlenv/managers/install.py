"""Filling an environment: one resolution for PyTorch, the course and dlenv's own needs, locked, then installed."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
from packaging.utils import canonicalize_name
from packaging.version import Version

from dlenv.environment.record import Package
from dlenv.managers import uv
from dlenv.managers.source import Source
from dlenv.plan.model import Plan

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# PyTorch's own companions that are published beside it, and nowhere else, for these flavours.
_WHOLE_INDEX = ("rocm", "xpu")
_INDEX = "dlenv-pytorch"  # a name that no index of the user's has


class Lock(msgspec.Struct, frozen=True, kw_only=True):
    """A resolution: a ``pylock.toml`` (PEP 751) with the address and hash of every file, and what is in it."""

    file: Path
    packages: tuple[Package, ...]
    size: int | None  # bytes of all wheels, where the index states them


def lock(
    interpreter: Sequence[str | Path],
    plan: Plan,
    source: Source,
    folder: Path,
    *,
    requirements: Sequence[str] = (),
    constraints: Sequence[str] = (),
    wheels: Path | None = None,
) -> Lock:
    """Resolve everything into ``folder``; raises ``uv.Failed``, also where PyTorch would be of another build.

    ``interpreter`` are uv's words for what to resolve for: ``--python`` and the path of one, or also the version and
    platform of another machine's. ``requirements`` are beside PyTorch and the plan's packages; ``constraints`` bind
    versions of what is needed anyway; ``wheels`` is a folder of some that no index has. Only wheels are taken: a
    source build on a user's machine fails late, and for reasons that nobody can foresee.
    """
    (folder / "pyproject.toml").write_text(_project(plan, source, requirements), encoding="utf-8")
    file = folder / "pylock.toml"
    words: list[str | Path] = ["pip", "compile", folder / "pyproject.toml", *interpreter, "--no-build", "--quiet"]
    (folder / "constraints.txt").write_text("\n".join(constraints) + "\n", encoding="utf-8")
    words += ["--constraints", folder / "constraints.txt"]
    if source.torch_index and source.candidate.build.startswith(_WHOLE_INDEX):
        words += ["--index-strategy", "unsafe-best-match"]
    if wheels:
        words += ["--find-links", wheels]
    words += ["--format", "pylock.toml", "--output-file", file]
    uv.run(words, source.environment, project=folder, settings=_settings(plan, source))
    found = read(file)
    _check_build(found, source)
    return found


def read(file: Path) -> Lock:
    """The lock in ``file``."""
    entries = tomllib.loads(file.read_text(encoding="utf-8"))["packages"]
    packages = []
    sizes: list[int] = []
    for entry in entries:
        wheels = entry.get("wheels", [])
        hashes = [f"{kind}:{value}" for wheel in wheels for kind, value in wheel.get("hashes", {}).items()]
        packages.append(
            Package(name=canonicalize_name(entry["name"]), version=entry["version"], hashes=tuple(sorted(set(hashes))))
        )
        sizes.append(max((wheel.get("size", 0) for wheel in wheels), default=0))
    return Lock(file=file, packages=tuple(packages), size=sum(sizes) if all(sizes) else None)


def install(
    python: Path,
    packages: Sequence[Package],
    source: Source,
    folder: Path,
    *,
    size: int | None = None,
    compiled: bool = False,
    wheels: Path | None = None,
) -> None:
    """Install exactly these packages, each file checked against the hashes that are known; raises ``uv.Failed``.

    ``size`` are the bytes of all files, where those are known; it serves to say how long it will take. ``compiled``:
    with bytecode for every module, as pip leaves it and uv by itself does not. ``wheels`` is a folder of
    some that no index has.
    By name, version and hash, not by the lock's addresses: uv finds what it has cached, and another mirror will do.
    """
    lines = []
    for package in packages:
        hashes = " ".join(f"--hash={value}" for value in package.hashes)
        lines.append(f"{package.name}=={package.version} {hashes}".rstrip())
    file = folder / "requirements.txt"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    words: list[str | Path] = ["pip", "install", "--python", python, "--no-build", "--no-deps", "-r", file]
    words += ["--verify-hashes" if any(not package.hashes for package in packages) else "--require-hashes"]
    if compiled:
        words.append("--compile-bytecode")
    if wheels:
        words += ["--find-links", wheels]
    if source.folder:
        words += ["--no-index", "--find-links", source.folder]
    elif source.torch_index:
        # Every package is bound to its version and hash, so it does not matter which index gives it.
        words += ["--index-strategy", "unsafe-best-match"]
        words += ["--find-links" if source.flat else "--extra-index-url", source.torch_index]
    uv.run(words, source.environment, show=True, full=(len(packages), size) if size else None)


def _check_build(lock: Lock, source: Source) -> None:
    """Raise ``uv.Failed`` where the local part of PyTorch's versions ("+cu126") is not the wanted build's."""
    build = source.candidate.build
    allowed = (source.local,) if source.local else (None, build)
    for package in lock.packages:
        if package.name in ("torch", "torchvision") and Version(package.version).local not in allowed:
            raise uv.Failed(f"{package.name} {package.version} is no build for {build}, and nothing better was found")


def _project(plan: Plan, source: Source, requirements: Sequence[str]) -> str:
    """A project whose requirements on PyTorch are bound to its own index, and to nothing else on it."""
    candidate = source.candidate
    local = f"+{source.local}" if source.local else ""
    torch = [f"torch=={candidate.torch}{local}", f"torchvision=={candidate.torchvision}{local}"]
    lines = [
        "[project]",
        'name = "dlenv-environment"',
        'version = "0"',
        f'requires-python = ">={plan.python}"',
        f"dependencies = {json.dumps([*torch, *plan.packages, *requirements])}",
    ]
    if source.torch_index:
        lines += [
            "[[tool.uv.index]]",
            *(f"{name} = {json.dumps(value)}" for name, value in _index(source).items()),
            "[tool.uv.sources]",
            f'torch = {{ index = "{_INDEX}" }}',
            f'torchvision = {{ index = "{_INDEX}" }}',
        ]
    return "\n".join(lines) + "\n"


def _settings(plan: Plan, source: Source) -> dict[str, object]:
    """uv's settings for the resolution: of a project's, only the index that its sources name counts beside them."""
    whole = source.torch_index and source.candidate.build.startswith(_WHOLE_INDEX)
    return {"override-dependencies": list(plan.overrides), **({"index": [_index(source)]} if whole else {})}


def _index(source: Source) -> dict[str, object]:
    explicit = not source.candidate.build.startswith(_WHOLE_INDEX)
    layout = {"format": "flat"} if source.flat else {}
    return {"name": _INDEX, "url": source.torch_index, "explicit": explicit, **layout}
