"""A package index (PEP 503, with PEP 658 metadata) of small wheels that are made here."""

from __future__ import annotations

import base64
import hashlib
import io
import random
import zipfile
from collections.abc import Sequence

from http_server import Page, Server
from packaging.utils import canonicalize_name


def wheel(name: str, version: str, tag: str, requires: Sequence[str] = (), size: int = 0) -> tuple[str, bytes, bytes]:
    """A wheel with one module that holds its tag, and ``size`` bytes of data: its file name, content, and metadata."""
    module = name.replace("-", "_")
    info = f"{module}-{version}.dist-info"
    lines = [
        "Metadata-Version: 2.1",
        f"Name: {name}",
        f"Version: {version}",
        *(f"Requires-Dist: {r}" for r in requires),
    ]
    metadata = ("\n".join(lines) + "\n").encode()
    python, abi, platforms = tag.split("-")
    tags = "".join(f"Tag: {python}-{abi}-{platform}\n" for platform in platforms.split("."))
    files = {
        f"{module}.py": f"TAG = {tag!r}\n".encode(),
        f"{info}/METADATA": metadata,
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\n{tags}".encode(),
    }
    if size:
        files[f"{module}.bin"] = random.Random(name).randbytes(size)
    rows = [f"{path},sha256={_digest(data)},{len(data)}" for path, data in files.items()]
    files[f"{info}/RECORD"] = "\n".join([*rows, f"{info}/RECORD,,", ""]).encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path, data in files.items():
            archive.writestr(zipfile.ZipInfo(path), data)
    return f"{module}-{version}-{tag}.whl", buffer.getvalue(), metadata


def add(
    server: Server,
    name: str,
    version: str,
    *tags: str,
    requires: Sequence[str] = (),
    size: int = 0,
    pause: float = 0.0,
) -> None:
    """Put one version of a package, with a wheel for each tag, on the index at ``/simple`` of ``server``.

    Its files hold ``size`` bytes of data, and come with ``pause`` seconds after each KiB.
    """
    links = []
    for tag in tags or ("py3-none-any",):
        file, content, metadata = wheel(name, version, tag, requires, size)
        server.pages[f"/files/{file}"] = Page(content, pause=pause)
        server.pages[f"/files/{file}.metadata"] = Page(metadata)
        sha256 = hashlib.sha256(content).hexdigest()
        known = f"sha256={hashlib.sha256(metadata).hexdigest()}"
        links.append(f'<a href="/files/{file}#sha256={sha256}" data-core-metadata="{known}">{file}</a>')
    page = f"/simple/{canonicalize_name(name)}/"
    server.pages[page] = Page("\n".join(links).encode(), etag=None, headers={"Content-Type": "text/html"})


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
