"""A small conda channel, made from the Python that runs the tests: what ``tests/cli/test_conda.py`` installs from.

The formats: https://docs.conda.io/projects/conda-build/en/stable/resources/package-spec.html (an archive of files with
``info/index.json`` and ``info/paths.json``; ``.conda`` is a ZIP archive of two of them, each packed with Zstandard).
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import re
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import rattler
from rattler.index import index_fs

VERSION = "{}.{}".format(*sys.version_info)
FULL_VERSION = "{}.{}.{}".format(*sys.version_info)
_LEFT_OUT = {"__pycache__", "dist-packages", "idlelib", "site-packages", "test", "tests", "tkinter", "turtledemo"}
_BLOCK = 128 * 1024


def build(folder: Path) -> str:
    """The channel in ``folder``: the Python of the tests, a pip without files of its own; its address."""
    _package(folder, str(rattler.Subdir.current()), "python", FULL_VERSION, python_files())
    pip = {"site-packages/pip/__init__.py": b"", "site-packages/pip-99.0.dist-info/METADATA": _METADATA}
    _package(folder, "noarch", "pip", "99.0", pip, noarch="python", depends=["python"])
    asyncio.run(index_fs(folder, write_zst=False, write_shards=False))
    return folder.as_uri()


_METADATA = b"Metadata-Version: 2.1\nName: pip\nVersion: 99.0\n"


def python_files() -> dict[str, Path | str]:
    """Path in the environment -> the file that it is made from, or where the link leads."""
    name = f"python{VERSION}"
    files: dict[str, Path | str] = {f"bin/{name}": Path(os.path.realpath(sys.executable)), "bin/python": name}
    stdlib = Path(sysconfig.get_path("stdlib"))
    for folder, folders, names in os.walk(stdlib):
        folders[:] = [each for each in folders if each not in _LEFT_OUT and not each.startswith("config-")]
        for each in names:
            path = Path(folder, each)
            files[f"lib/{name}/{path.relative_to(stdlib).as_posix()}"] = path
    # Others of the same name come with the system; only this one may be found by a path relative to the program.
    library = Path(sysconfig.get_config_var("LIBDIR") or "", sysconfig.get_config_var("INSTSONAME") or "")
    if sysconfig.get_config_var("Py_ENABLE_SHARED") and library.is_file():
        files[f"lib/{library.name}"] = library
    return files


def _package(folder: Path, subdir: str, name: str, version: str, files: Mapping[str, Any], **index: Any) -> None:
    """Write ``<subdir>/<name>-<version>-0.conda``."""
    contents = {path: source.read_bytes() if isinstance(source, Path) else source for path, source in files.items()}
    paths = [
        {"_path": path, "path_type": "softlink" if isinstance(data, str) else "hardlink", **_digest(data)}
        for path, data in contents.items()
    ]
    index = {
        "build": "0",
        "build_number": 0,
        "depends": [],
        **index,
        "name": name,
        "subdir": subdir,
        "version": version,
    }
    info = {
        "info/index.json": json.dumps(index).encode(),
        "info/paths.json": json.dumps({"paths": paths, "paths_version": 1}).encode(),
        **(
            {"info/link.json": b'{"noarch": {"type": "python"}, "package_metadata_version": 1}'}
            if "noarch" in index
            else {}
        ),
    }
    stem = f"{name}-{version}-0"
    (folder / subdir).mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / subdir / f"{stem}.conda", "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("metadata.json", '{"conda_pkg_format_version": 2}')
        archive.writestr(f"pkg-{stem}.tar.zst", _zst(_tar(contents)))
        archive.writestr(f"info-{stem}.tar.zst", _zst(_tar(info)))


def _digest(data: bytes | str) -> dict[str, Any]:
    content = data.encode() if isinstance(data, str) else data
    return {"sha256": hashlib.sha256(content).hexdigest(), "size_in_bytes": len(content)}


def _tar(contents: Mapping[str, bytes | str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path, data in contents.items():
            member = tarfile.TarInfo(path)
            member.mode = 0o755 if re.match(r"bin/|.*\.so", path) else 0o644
            if isinstance(data, str):
                member.type, member.linkname = tarfile.SYMTYPE, data
                archive.addfile(member)
            else:
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def _zst(data: bytes) -> bytes:
    """A Zstandard frame of raw blocks (RFC 8878, section 3.1.1): nothing is packed, so that tests are quick."""

    def blocks() -> Iterator[bytes]:
        yield b"\x28\xb5\x2f\xfd" + b"\x00" + b"\x50"  # magic number; no content size, no checksum; window of 1 MiB
        for start in range(0, len(data), _BLOCK):
            block = data[start : start + _BLOCK]
            last = start + _BLOCK >= len(data)
            yield (len(block) << 3 | last).to_bytes(3, "little") + block

    return b"".join(blocks())
