"""A package like gym 0.21: of pure Python, and with metadata that no installer takes."""

from __future__ import annotations

import hashlib
import io
import tarfile

from http_server import Page, Server

from dlenv.plan import Repacked

# What gym 0.21 says of itself (PyPI, its PKG-INFO): an extra asks for a version that is none.
PKG_INFO = """Metadata-Version: 2.1
Name: relic
Version: 0.21.0
Provides-Extra: all
Requires-Dist: opencv-python (>=3.) ; extra == 'all'
"""
SETUP = """from setuptools import setup
setup(name="relic", version="0.21.0", packages=["relic"], extras_require={"all": ["opencv-python>=3."]})
"""


def sdist(*more: tuple[str, str]) -> bytes:
    files = {"PKG-INFO": PKG_INFO, "setup.py": SETUP, "LICENSE.md": "as you like", "tests/x.py": "1 / 0"}
    files |= {"relic/__init__.py": "import helper\nANSWER = 42\n", "relic/assets/map.txt": "SFFF"}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, text in [*((f"relic-0.21.0/{name}", text) for name, text in files.items()), *more]:
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
    return buffer.getvalue()


SDIST = sdist()
RELIC = Repacked(
    name="relic",
    version="0.21.0",
    sha256=hashlib.sha256(SDIST).hexdigest(),
    requires=("helper>=1",),
    use="two notebooks import",
)


def publish(server: Server, content: bytes) -> None:
    link = f'<a href="/files/relic-0.21.0.tar.gz#sha256={hashlib.sha256(content).hexdigest()}">relic-0.21.0.tar.gz</a>'
    server.pages["/simple/relic/"] = Page(link.encode(), etag=None, headers={"Content-Type": "text/html"})
    server.pages["/files/relic-0.21.0.tar.gz"] = Page(content)
