"""Pure-Python packages that the course needs and that only exist as source distributions which no installer takes.

gym 0.21 is one: its metadata asks for ``opencv-python (>=3.)``, which is no version (PEP 440), so uv, and pip since
24.1, refuse it, built or not. Its modules are as good as ever. They are packed as a wheel, with metadata that can be
read, from the source distribution whose hash the catalog knows; nothing in it is run. The wheel's bytes are the same on
every machine, so that a record's hash of it holds elsewhere.
"""

from __future__ import annotations

import base64
import hashlib
import sys
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

import msgspec

from dlenv.console import say
from dlenv.errors import ArchiveRefused, DataError, Unreachable
from dlenv.managers import uv
from dlenv.managers.source import Source
from dlenv.network import archive
from dlenv.network.download import fetch
from dlenv.plan import Plan, Repacked

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


class Wheels(msgspec.Struct, frozen=True, kw_only=True):
    """What was packed."""

    requirements: tuple[str, ...] = ()  # ("gym==0.21.0+dlenv",)
    folder: Path | None = None  # where the wheels are; None: there are none
    problems: tuple[str, ...] = ()  # what could not be had, for people


def wheels(plan: Plan, source: Source, scratch: Path) -> Wheels:
    """A wheel for each such package of the plan's course.

    One that can't be had is a problem and no error, since few notebooks need it.
    """
    wanted = plan.course.repacked if plan.course else ()
    if not wanted or source.folder:  # a folder that was filled has what its record names
        return Wheels()
    folder = scratch / "repacked"
    requirements, problems = [], []
    for package in wanted:
        try:
            pack(package, _fetched(package, source, scratch), folder)
            requirements.append(package.requirement)
        except (uv.Failed, Unreachable, DataError, ArchiveRefused) as error:
            why = " ".join(str(error).split())
            problems.append(f"{package.name} {package.version} could not be had, which {package.use}: {why}")
            say(f"Warning: {problems[-1]}")
    return Wheels(requirements=tuple(requirements), folder=folder if requirements else None, problems=tuple(problems))


def pack(package: Repacked, sdist: Path, folder: Path) -> Path:
    """The modules in ``sdist`` as a wheel in ``folder`` (Binary distribution format, PyPA).

    Raises ``ArchiveRefused`` and ``DataError`` as ``archive.unpack`` does, also where the package is not in there.
    """
    root = f"{package.name}-{package.version}/"
    info = f"{package.name}-{package.local}.dist-info"
    with tempfile.TemporaryDirectory(prefix="dlenv-") as scratch:
        files = Path(scratch) / "files"
        archive.unpack(sdist, files, members=lambda name: name.removeprefix(root) if name.startswith(root) else None)
        modules = sorted(path for path in (files / package.name).rglob("*") if path.is_file())
        if not modules:
            raise DataError(f"{sdist.name} has no folder {package.name}")
        contents = [(path.relative_to(files).as_posix(), path.read_bytes()) for path in modules]
        contents += [(f"{info}/{path.name}", path.read_bytes()) for path in sorted(files.glob("LICEN[SC]E*"))]
    contents += [
        (f"{info}/METADATA", _metadata(package).encode()),
        (f"{info}/WHEEL", b"Wheel-Version: 1.0\nGenerator: dlenv\nRoot-Is-Purelib: true\nTag: py3-none-any\n"),
    ]
    folder.mkdir(exist_ok=True)
    wheel = folder / f"{package.name}-{package.local}-py3-none-any.whl"
    # Not compressed: what zlib makes of the same bytes differs from one version of it to the next.
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_STORED) as target:
        for name, data in [*contents, (f"{info}/RECORD", _record(contents, info))]:
            entry = zipfile.ZipInfo(name)  # dated 1980, the same whenever and wherever it is packed
            entry.create_system, entry.external_attr = 3, 0o644 << 16
            target.writestr(entry, data)
    return wheel


def _fetched(package: Repacked, source: Source, scratch: Path) -> Path:
    """The source distribution, from the package index that ``source`` takes; its address is what uv finds there."""
    asked, lock = scratch / f"{package.name}.in", scratch / f"pylock.{package.name}.toml"
    asked.write_text(f"{package.name}=={package.version}\n", encoding="utf-8")
    known = {"name": package.name, "version": package.version, "requires-dist": []}
    words: list[str | Path] = ["pip", "compile", asked, "--quiet", "--no-deps", "--python", sys.executable]
    words += ["--format", "pylock.toml", "--output-file", lock]
    uv.run(words, source.environment, project=scratch, settings={"dependency-metadata": [known]})
    entry = tomllib.loads(lock.read_text(encoding="utf-8"))["packages"][0].get("sdist", {})
    if "url" not in entry:
        raise DataError("the package index has no source distribution of it")
    return fetch([entry["url"]], scratch / f"{package.name}.tar.gz", sha256=package.sha256).path


def _metadata(package: Repacked) -> str:
    lines = [
        "Metadata-Version: 2.1",
        f"Name: {package.name}",
        f"Version: {package.local}",
        f"Summary: {package.name} {package.version}, packed again by dlenv with metadata that installers can read",
        *(f"Requires-Dist: {requirement}" for requirement in package.requires),
    ]
    return "\n".join(lines) + "\n"


def _record(contents: Iterable[tuple[str, bytes]], info: str) -> bytes:
    lines = []
    for name, data in contents:
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        lines.append(f"{name},sha256={digest},{len(data)}")
    return ("\n".join([*lines, f"{info}/RECORD,,"]) + "\n").encode()
