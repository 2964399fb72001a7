"""The catalog against an index: which rows are stale."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, get_args

import httpx
import msgspec
from packaging.version import Version

from dlenv.catalog.contents import Catalog
from dlenv.catalog.index import Wheel, find
from dlenv.catalog.torch import Build, System
from dlenv.errors import Unreachable
from dlenv.network.http import client, public

# The catalog begins with this one, because dlenv can't examine an older Python.
_OLDEST_PYTHON = Version("3.8")
_EVERY_PYTHON = "py3"

Kind = Literal["unknown-version", "missing", "python", "confirmed"]


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """A row of the catalog, or a lack of one, that does not agree with the index."""

    kind: Kind
    torch: str
    build: str
    system: System
    text: str


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What came of asking one index."""

    index: str
    error: str | None = None
    findings: tuple[Finding, ...] = ()

    @property
    def ok(self) -> bool:
        """The index answered, and the catalog agrees with it."""
        return self.error is None and not self.findings


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """An index, and the flavour of builds that it is to be compared with; None: the package index's own."""

    url: str
    build: str | None = None


def sources(catalog: Catalog, index: str | None = None) -> tuple[Source, ...]:
    """Every index to ask: PyTorch's for each build and the package index, or what ``index`` names.

    ``index`` may hold ``{build}``, or end with a build's name; any other address is taken for a package index.
    """
    builds = sorted({build.build for build in catalog.builds if build.index})
    if index is None:
        urls = [Source(url=catalog.wheel_index.format(build=build), build=build) for build in builds]
        return (Source(url=catalog.package_index), *urls)
    if "{build}" in index:
        return tuple(Source(url=index.replace("{build}", build), build=build) for build in builds)
    last = index.rstrip("/").rpartition("/")[2]
    return (Source(url=index, build=last if last in builds else None),)


def check(catalog: Catalog, asked: Sequence[Source], *, timeout: float = 30.0) -> list[Verdict]:
    """Compare the catalog with these indexes, several at a time; an index that does not answer is named as such."""
    with client(httpx.Timeout(timeout)) as http, ThreadPoolExecutor(max_workers=8) as pool:
        return list(pool.map(lambda source: _verdict(catalog, source, timeout, http), asked))


def _verdict(catalog: Catalog, source: Source, timeout: float, http: httpx.Client) -> Verdict:
    shown = public(source.url)
    try:
        torch = find(source.url, "torch", timeout=timeout, http=http)
        torchvision = find(source.url, "torchvision", timeout=timeout, http=http)
    except Unreachable as error:
        return Verdict(index=shown, error=str(error))
    if not torch:
        return Verdict(index=shown, error=f"{shown} has no wheels of torch (or a proxy answers in its place)")
    return Verdict(index=shown, findings=tuple(compare(catalog, source.build, torch, torchvision)))


def compare(
    catalog: Catalog, build: str | None, torch: Iterable[Wheel], torchvision: Iterable[Wheel]
) -> Iterable[Finding]:
    """Where the catalog's rows for one index differ from its wheels; ``build`` None: the package index."""
    rows = {
        (row.torch, row.system): row
        for row in catalog.builds
        if (row.on_package_index if build is None else row.build == build and row.index)
    }
    have, vision = _offers(torch, build), _offers(torchvision, build)
    oldest = min((Version(row.torch) for row in catalog.builds), default=Version("0"))
    known = {row.torch for row in catalog.builds}
    for version, system in sorted(have, key=lambda key: (Version(key[0]), key[1])):
        # A version that the catalog knows may have builds that were left out on purpose; a new one has not been seen.
        if version not in known and Version(version) > oldest and not Version(version).is_prerelease:
            yield Finding(
                kind="unknown-version",
                torch=version,
                build=build or "",
                system=system,
                text=f"the index has torch {version} for {system}, the catalog does not",
            )
    for (version, system), row in rows.items():
        yield from _row(row, have.get((version, system), set()), vision.get((row.torchvision, system), set()), build)


def _row(row: Build, torch: set[str], torchvision: set[str], build: str | None) -> Iterable[Finding]:
    def finding(kind: Kind, text: str) -> Finding:
        return Finding(kind=kind, torch=row.torch, build=row.build, system=row.system, text=text)

    for project, version, offered in (("torch", row.torch, torch), ("torchvision", row.torchvision, torchvision)):
        if not offered:
            yield finding("missing", f"the index has no {project} {version} for {row.system}")
            return
    both = torch & torchvision if _EVERY_PYTHON not in torchvision else torch
    if both != set(row.python):
        gone, new = (_span(pythons) for pythons in (set(row.python) - both, both - set(row.python)))
        parts = [f"{gone} of the catalog is not there"] if gone else []
        parts += [f"{new} is there and not in the catalog"] if new else []
        yield finding("python", f"torch {row.torch} for {row.system}: Python {', '.join(parts)}")
    if build is not None and not row.confirmed and not row.on_package_index:
        yield finding("confirmed", f"{row.label} for {row.system} is there: take it off the list of unconfirmed builds")


def _offers(wheels: Iterable[Wheel], build: str | None) -> dict[tuple[str, System], set[str]]:
    """(version, system) -> Pythons that there are wheels for."""
    offers: dict[tuple[str, System], set[str]] = {}
    for wheel in wheels:
        if wheel.yanked or wheel.local not in (None, build):
            continue
        for interpreter, abi, platform in wheel.tags:
            python, system = _python(interpreter, abi), _system(platform)
            if python and system:
                offers.setdefault((wheel.version, system), set()).add(python)
    return offers


def _python(interpreter: str, abi: str) -> str | None:
    """ "cp311" -> "3.11"; None for other interpreters, free-threaded ABIs and Pythons that are too old."""
    if interpreter == _EVERY_PYTHON:
        return _EVERY_PYTHON
    match = re.fullmatch(r"cp3([0-9]+)", interpreter)
    if match is None or abi not in (interpreter, "none", "abi3"):
        return None
    python = f"3.{match[1]}"
    return python if Version(python) >= _OLDEST_PYTHON else None


def _system(platform: str) -> System | None:
    for system in get_args(System):
        os, _, arch = system.partition("-")
        prefix = {"linux": "(many)?linux", "windows": "win", "macos": "macosx"}[os]
        suffix = {"windows-x86_64": "amd64"}.get(system, arch)
        if re.fullmatch(rf"{prefix}[a-z0-9_]*_{suffix}", platform):
            found: System = system
            return found
    return None


def _span(pythons: set[str]) -> str:
    return " ".join(sorted(pythons, key=Version))
